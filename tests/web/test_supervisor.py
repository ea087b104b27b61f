"""The supervisor with small stand-ins for workers: what it does when they fail."""

import asyncio
import json
import os
import signal
import socket
import sys
import tempfile
from pathlib import Path
from typing import cast

import pytest

from token_server.errors import OperatorError
from token_server.web import supervisor
from token_server.web.server import Listeners, StopSignal
from token_server.web.supervisor import Crew, supervise

# A worker in few words: the number of its link is the last one in the variable.
LINK = (
    "import os, socket, sys, time, signal\n"
    f"link = socket.socket(fileno=int(os.environ['{supervisor.WORKER_VARIABLE}'].split(',')[2]))\n"
)
READY = LINK + "link.send(b'r')\n"


def crew(script: str, workers: int = 1, drain_timeout_s: int = 1) -> Crew:
    return Crew(workers, (sys.executable, "-c", script), dict(os.environ), drain_timeout_s)


@pytest.fixture
def listeners() -> Listeners:
    return Listeners(socket.create_server(("127.0.0.1", 0)), socket.create_server(("127.0.0.1", 0)))


async def test_a_worker_that_cannot_start_stops_the_supervisor(listeners: Listeners) -> None:
    """A broken installation is not restarted for ever, and nothing is reported as listening."""
    calls: list[str] = []

    with pytest.raises(OperatorError, match="could not start"):
        await supervise(
            crew("raise SystemExit(3)", workers=2),
            listeners,
            StopSignal(),
            on_listening=lambda: calls.append("listening"),
        )

    assert calls == []
    assert listeners.public.fileno() == -1


async def test_listening_is_said_once_all_workers_are_ready(listeners: Listeners) -> None:
    """ "Started" means that every worker answers, and is said once."""
    stop = StopSignal()
    calls: list[str] = []

    def listening() -> None:
        calls.append("listening")
        stop.ask("test")

    status = await supervise(
        crew(READY + "time.sleep(60)", workers=2),
        listeners,
        stop,
        on_listening=listening,
    )

    assert calls == ["listening"]
    assert status == 0


async def test_a_worker_that_ends_badly_at_the_stop_is_not_a_success(listeners: Listeners) -> None:
    """The exit status of the whole is that of its worst part."""
    stop = StopSignal()
    script = READY + "signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))\ntime.sleep(60)"

    status = await supervise(crew(script), listeners, stop, on_listening=lambda: _later(stop, 0.3))

    assert status == 1


async def test_a_silent_worker_is_killed_and_replaced(
    listeners: Listeners, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A worker whose loop hangs says nothing, and is not left to swallow requests (case 266)."""
    monkeypatch.setattr(supervisor, "SILENCE_LIMIT_S", 0.3)
    monkeypatch.setattr(supervisor, "FIRST_PAUSE_S", 0.05)
    starts = tmp_path / "starts"
    script = f"open({str(starts)!r}, 'a').write('.')\n" + READY + "time.sleep(60)"
    stop = StopSignal()

    async def stop_after_two() -> None:
        while len(_text_of(starts)) < 2:  # noqa: ASYNC110 - another process writes it
            await asyncio.sleep(0.02)
        stop.ask("test")

    watcher = asyncio.create_task(stop_after_two())
    await supervise(crew(script), listeners, stop, on_listening=lambda: None)
    await watcher

    assert len(_text_of(starts)) >= 2


SPINNING = """
import asyncio, os
from token_server.web.server import StopSignal
from token_server.web.supervisor import inherited_sockets, linked_to_supervisor

def spin():
    while True:
        pass

async def main():
    link = inherited_sockets(os.environ).link
    async with linked_to_supervisor(link, StopSignal()) as say_ready:
        say_ready()
        await asyncio.sleep(0)
        spin()

asyncio.run(main())
"""


async def test_a_hung_worker_says_where_it_hung(
    listeners: Listeners, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Code that never gives the loop back is found in the log of the worker's death (case 266)."""
    monkeypatch.setattr(supervisor, "SILENCE_LIMIT_S", 0.5)
    monkeypatch.setattr(supervisor, "ABORT_MARGIN_S", 30.0)
    stop, died = StopSignal(), dict[str, object]()

    async def stop_when_dead() -> None:
        while not died:
            await asyncio.sleep(0.05)
            for line in capfd.readouterr().err.splitlines():
                record = json.loads(line)
                if record["event"] == "worker_died":
                    died.update(record)
        stop.ask("test")

    watcher = asyncio.create_task(stop_when_dead())
    await supervise(crew(SPINNING), listeners, stop, on_listening=lambda: None)
    await watcher

    assert died["status"] == -signal.SIGABRT
    assert any("in spin" in line for line in cast("list[str]", died["stacks"]))


async def test_a_worker_that_ignores_the_stop_is_killed(
    listeners: Listeners, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stop ends: DRAIN_TIMEOUT and a margin later there is no worker left."""
    monkeypatch.setattr(supervisor, "KILL_MARGIN_S", 0.2)
    stop = StopSignal()
    script = LINK + "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nlink.send(b'r')\ntime.sleep(60)"

    status = await supervise(
        crew(script, drain_timeout_s=0), listeners, stop, on_listening=lambda: stop.ask("test")
    )

    assert status == 1


async def test_the_workers_counters_are_removed_at_the_end(
    listeners: Listeners, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The directory that workers share is private, and gone afterwards."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    stop = StopSignal()
    modes: list[int] = []

    def look() -> None:
        modes.extend(path.stat().st_mode & 0o777 for path in _children(tmp_path))
        stop.ask("test")

    await supervise(crew(READY + "time.sleep(60)"), listeners, stop, on_listening=look)

    assert modes == [0o700]
    assert _children(tmp_path) == []


def _later(stop: StopSignal, seconds: float) -> None:
    asyncio.get_running_loop().call_later(seconds, stop.ask, "test")


def _text_of(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def _children(path: Path) -> list[Path]:
    return list(path.iterdir())
