"""`scripts/bench` in short: that its parts measure what they say; never how fast anything is."""

import asyncio
import json
import subprocess
import xml.etree.ElementTree as ET
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from scripts._bench_chart import draw
from scripts._bench_load import Address, Chain, LoadError, Repeat, run_window
from scripts._bench_profile import NO_FRAME, part_of, read_stacks, sum_up, weigh
from scripts._bench_soak import slope
from tests.support.process import ROOT

SVG = "{http://www.w3.org/2000/svg}"


def bench(directory: Path, *arguments: str) -> dict[str, Any]:
    """What `scripts/bench ARGUMENTS` writes; it must succeed."""
    output = directory / "figures.json"
    done = subprocess.run(
        ["sh", "scripts/bench", *arguments, "--json", str(output)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(output.read_text())
    assert isinstance(figures, dict)
    return figures


class Answering(asyncio.Protocol):
    """Gives one answer to whatever it reads."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, _data: bytes) -> None:
        self._transport.write(self._answer)


@asynccontextmanager
async def answering(answer: bytes) -> AsyncIterator[Address]:
    """A server of such connections; the load generator closes them."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Answering(answer), "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[:2]
        await asyncio.sleep(0.05)


@pytest.mark.timeout(300)  # three starts of a server on one core, which others may need too
def test_run_gives_every_figure_and_a_chart(tmp_path: Path) -> None:
    """Costs beside the floor and the bare handler of the same rounds, cold starts, memory, aims;
    the chart draws a bar for each."""
    names = ("client_credentials", "refresh", "jwks-304")
    only = [argument for name in names for argument in ("--only", name)]
    short = ("--rounds", "2", "--seconds", "0.3", "--starts", "1", "--connections", "2")
    figures = bench(tmp_path, *short, "--target", "sqlite", *only)
    rows = {row["scenario"]: row for row in figures["rows"]}
    assert rows.keys() == {*names, "bare token"}
    for row in rows.values():
        assert row["rounds"] == 2
        assert row["connections"] == 2
        assert row["cpu_ms"] > 0
        assert row["in_floors"] > 0
        assert 0 < row["p50_ms"] <= row["p99_ms"]
    # A token holds a signature, an answer from memory none: whatever the machine does.
    assert rows["client_credentials"]["in_floors"] > 1 > rows["jwks-304"]["in_floors"]
    assert rows["bare token"]["in_bare"] == 1
    assert [start["target"] for start in figures["starts"]] == ["sqlite"]
    assert figures["starts"][0]["later_s"] > 0
    assert figures["rss_mib"]["sqlite"] > figures["rss_mib"]["bare"] > 0
    assert figures["failures"] == []
    assert figures["aims"]
    chart = ET.fromstring(draw(figures))  # noqa: S314 - our own
    assert len(list(chart.iter(f"{SVG}rect"))) == len(rows)


def test_storm_counts_what_logins_and_probes_were_answered(tmp_path: Path) -> None:
    """Every login is accepted or sent away with Retry-After; probes run before, meanwhile and
    after."""
    short = ("--logins", "3", "--seconds", "1", "--idle", "0.3")
    figures = bench(tmp_path, "storm", *short)
    assert figures["accepted"]["count"] > 0
    assert sum(figures["retry_after_s"].values()) == figures["refused"]["count"]
    assert figures["others"] == {}
    counts = {phase: probes["JWKS"]["count"] for phase, probes in figures["probes"].items()}
    assert counts == {"idle": 30, "storm": 100, "after": 30}


def test_soak_asks_for_everything_and_prunes(tmp_path: Path) -> None:
    """The mixture reaches every endpoint without a failure, and `db prune` finds its work."""
    figures = bench(tmp_path, "soak", "--requests", "600", "--connections", "4")
    assert figures["requests"] >= 600
    assert figures["failures"] == {}
    assert figures["counts"].keys() >= {"client_credentials", "refresh", "introspect", "me"}
    assert figures["keys_seen"] >= 1
    assert figures["rss_mib"] > 0


async def test_window_with_a_wrong_answer_is_not_measured() -> None:
    """A status or a body that the scenario does not expect fails the window, with its reason."""
    wrong = b"HTTP/1.1 500 Internal Server Error\r\ncontent-length: 2\r\n\r\nno"
    empty = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
    for answer, reason in ((wrong, "500 b'no'"), (empty, "a body without")):
        async with answering(answer) as address:
            talks = [Repeat([b"GET / HTTP/1.1\r\n\r\n"], part=b'"keys"')]
            with pytest.raises(LoadError, match=reason):
                await run_window(address, talks, (0.05, 0.05), lambda: (0.0,))


async def test_window_counts_answers_and_what_the_server_used() -> None:
    """Latencies are of answers within the window, `read` is called at both its ends."""
    readings = iter([(1.0,), (3.5,)])
    async with answering(b"HTTP/1.1 304 Not Modified\r\netag: x\r\n\r\n") as address:
        talks = [Repeat([b"GET / HTTP/1.1\r\n\r\n"], status=b"304") for _ in range(3)]
        window = await run_window(address, talks, (0.05, 0.1), lambda: next(readings))
    assert window.server == [2.5]
    assert window.count > 3
    assert 0 < window.quantile_ms(0.5) <= window.quantile_ms(1.0)


def test_each_refresh_token_is_used_once() -> None:
    """A chain goes on with the token of the last answer, and never asks again without one."""
    chain = Chain("one", lambda token: token.encode())
    assert chain.ask() == b"one"
    assert chain.ask() is None
    body = b'{"access_token":"a","refresh_token":"two"}'
    assert chain.hear(b"200", body, is_sample=False) is None
    assert chain.ask() == b"two"
    assert chain.hear(b"200", body, is_sample=False) == "the same refresh token again"
    assert chain.hear(b"400", b"{}", is_sample=False) == "400 b'{}'"


def test_profile_divides_cpu_by_threads_first() -> None:
    """A thread that sleeps, however often it was seen, gets what the kernel says that it used."""
    folded = (
        "thread (7): MainThread;run (asyncio/runners.py:86);sign (token_server/crypto/rsa.py:9) 3\n"
        "thread (7): MainThread;run (asyncio/runners.py:86) 1\n"
        "thread (8): worker;_worker (concurrent/futures/thread.py:69) 40\n"
        'process 6:"x";thread (7): MainThread 0\n'
    )
    stacks = weigh(read_stacks(folded), {7: 0.9, 8: 0.1}, 1000.0)
    own = {line.name: line.own_us for line in sum_up(stacks)}
    assert own["sign (token_server/crypto/rsa.py:9)"] == pytest.approx(675)
    assert own["run (asyncio/runners.py:86)"] == pytest.approx(225)
    assert own["_worker (concurrent/futures/thread.py:69)"] == pytest.approx(100)
    parts = sum_up([([part_of(frame) for frame in frames], us) for frames, us in stacks])
    assert [line.name for line in parts] == [
        "token_server/crypto",
        "asyncio",
        "concurrent",
        NO_FRAME,
    ]
    assert parts[1].total_us == pytest.approx(900)


def test_slope_leaves_out_the_beginning() -> None:
    """What grows in the first third of the requests is no leak; what grows after it is."""
    grown_once = [(0, 50.0), (10, 90.0), (40, 100.0), (80, 100.0), (120, 100.0)]
    assert slope(grown_once) == 0
    assert slope([(count, 100 + 0.5 * count) for count in range(0, 100, 10)]) == pytest.approx(0.5)
