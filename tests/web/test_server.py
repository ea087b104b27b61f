"""The hosting process: start, ports, signals and the drain, with one process and with several."""

import asyncio
import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from tests.support.process import Installation, ServerProcess, running_processes, start_server
from tests.support.server import make_settings
from token_server.web.server import open_listeners
from token_server.web.supervisor import ABORT_MARGIN_S, SILENCE_LIMIT_S

DEADLINE_S = 20.0


@pytest.fixture
def installation(tmp_path: Path) -> Installation:
    return Installation(tmp_path, f"sqlite:///{tmp_path}/data/token-server.db")


@pytest.fixture
def crew(tmp_path: Path, postgres_url: str) -> Installation:
    return Installation(tmp_path, postgres_url, {"WORKERS": "2"})


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def started_pids(server: ServerProcess) -> list[int]:
    return [int(r["pid"]) for r in server.log_records() if r.get("event") == "worker_started"]


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # A zombie counts as ended: whoever inherits it in a container may never reap it.
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


def half_a_request(server: ServerProcess) -> socket.socket:
    """A connection whose request is accepted and waits for its body."""
    connection = socket.create_connection(server.address, timeout=DEADLINE_S)
    connection.sendall(
        b"POST /oauth2/token HTTP/1.1\r\nhost: a\r\ncontent-length: 24\r\n"
        b"content-type: application/x-www-form-urlencoded\r\n\r\ngrant_type="
    )
    return connection


def read_all(connection: socket.socket) -> bytes:
    """To the end of the stream: a draining server closes what it has answered."""
    return b"".join(iter(lambda: connection.recv(65536), b""))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_server_with_status_0(
    installation: Installation, number: signal.Signals
) -> None:
    """SIGTERM and Ctrl-C are how a server is stopped, so neither is a failure."""
    server = start_server(installation)

    server.process.send_signal(number)

    assert server.process.wait(DEADLINE_S) == 0
    events = [record["event"] for record in server.log_records()]
    assert events[-2:] == ["stop_requested", "server_stopped"]


def test_a_running_request_is_answered_during_the_drain(installation: Installation) -> None:
    """SIGTERM under load: what was accepted is answered, what is new is refused (case 241)."""
    server = start_server(installation)
    with half_a_request(server) as connection:
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: httpx.get(f"{server.management_url}/readyz").status_code == 503)
        body = httpx.get(f"{server.management_url}/readyz?verbose").json()
        wait_until(lambda: not accepts(server.address))
        connection.sendall(b"unheard_of___")
        answer = read_all(connection)

    assert body["status"] == "draining"
    assert answer.startswith(b"HTTP/1.1 401 ")
    assert answer.endswith(b'"error_description":"Client authentication failed."}')
    assert server.process.wait(DEADLINE_S) == 0


def accepts(address: tuple[str, int]) -> bool:
    try:
        socket.create_connection(address, timeout=1).close()
    except (ConnectionRefusedError, TimeoutError):
        # Silence: just before the listener is closed nothing new may wait there, to be reset.
        return False
    return True


def test_the_drain_ends_after_its_time_limit(installation: Installation) -> None:
    """A request that never ends holds the stop up for DRAIN_TIMEOUT and no longer."""
    server = start_server(installation, overrides={"DRAIN_TIMEOUT": "1s"})
    with half_a_request(server):
        time.sleep(0.2)
        server.process.send_signal(signal.SIGTERM)
        started = time.monotonic()

        assert server.process.wait(DEADLINE_S) == 0
    assert time.monotonic() - started < 10


def test_a_second_signal_does_not_wait(installation: Installation) -> None:
    """Whoever presses Ctrl-C twice wants the prompt back; the status says it was forced."""
    server = start_server(installation, overrides={"DRAIN_TIMEOUT": "600s"})
    with half_a_request(server):
        time.sleep(0.2)
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: any(r["event"] == "stop_requested" for r in server.log_records()))
        server.process.send_signal(signal.SIGTERM)

        assert server.process.wait(DEADLINE_S) == 1


def test_idle_connections_do_not_hold_up_the_stop(installation: Installation) -> None:
    """Keep-alive connections of clients and half-sent headers are closed within seconds."""
    server = start_server(installation, overrides={"DRAIN_TIMEOUT": "600s"})
    with (
        httpx.Client(base_url=server.base_url) as client,
        socket.create_connection(server.address) as half,
    ):
        client.get("/livez")
        half.sendall(b"GET /livez HTTP/1.1\r\nho")
        time.sleep(0.2)

        assert server.stop() == 0


def test_a_port_in_use_is_named_with_its_fix(installation: Installation) -> None:
    """The commonest failure of a first start says which port, and what to do."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(RuntimeError) as caught:
            start_server(installation, overrides={"BIND": f"127.0.0.1:{port}"})

    message = str(caught.value)
    assert f"another program uses port {port}" in message
    assert "--bind or TOKEN_SERVER_BIND" in message
    assert "Traceback" not in message
    assert not (installation.directory / "data").exists()


async def test_answers_do_not_wait_for_acknowledgements(tmp_path: Path) -> None:
    """Nagle's algorithm is off on asyncio's own loop, too: with it each answer on a kept
    connection takes 40 ms."""
    settings = make_settings(
        "sqlite:///unused", tmp_path, bind="127.0.0.1:0", management_bind="127.0.0.1:0"
    )
    with contextlib.closing(open_listeners(settings)) as listeners:
        accepted: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        def accept(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            connection = writer.get_extra_info("socket")
            accepted.set_result(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        async with await asyncio.start_server(accept, sock=listeners.public):
            host, port = listeners.public.getsockname()
            _, writer = await asyncio.open_connection(host, port)
            assert await accepted == 1
            writer.close()
            await writer.wait_closed()


def test_answers_name_no_server_software(installation: Installation) -> None:
    """No version header for scanners (case 223)."""
    with running_processes(installation) as (server,):
        answers = [
            httpx.get(f"{server.base_url}/livez"),
            httpx.get(f"{server.management_url}/livez"),
            httpx.get(f"{server.base_url}/nowhere"),
        ]

    assert [answer.status_code for answer in answers] == [200, 200, 404]
    assert not any("server" in answer.headers for answer in answers)


def test_one_scrape_counts_every_worker(crew: Installation) -> None:
    """Two workers share their counters: whichever answers the scrape, the sum is right."""
    with running_processes(crew) as (server,):
        assert len(started_pids(server)) == 2
        request_ids = set()
        for _ in range(20):  # a new connection each: the kernel spreads them
            answer = httpx.post(f"{server.base_url}/oauth2/token", data={"grant_type": "x"})
            assert answer.status_code == 401
            request_ids.add(answer.headers["x-request-id"])
        scrapes = [httpx.get(f"{server.management_url}/metrics").text for _ in range(6)]

    assert len(request_ids) == 20, "workers number their requests apart"
    for scrape in scrapes:
        lines = scrape.splitlines()
        counted = [x for x in lines if x.startswith("token_server_token_requests_total{")]
        assert sum(float(line.rpartition(" ")[2]) for line in counted) == 20
        keys = [x for x in lines if x.startswith('token_server_signing_keys{state="active"}')]
        assert keys == ['token_server_signing_keys{state="active"} 1.0']


def test_a_killed_worker_is_replaced(crew: Installation) -> None:
    """kill -9 of one worker: the others go on, a new one comes, and the end is still clean."""
    with running_processes(crew) as (server,):
        victim, survivor = started_pids(server)
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda: len(started_pids(server)) == 3)

        assert httpx.get(f"{server.base_url}/livez").status_code == 200
        assert is_alive(survivor)
        died = [r for r in server.log_records() if r["event"] == "worker_died"]
        assert [record["status"] for record in died] == [-signal.SIGKILL]


def test_workers_end_with_their_supervisor(crew: Installation) -> None:
    """A supervisor that is killed leaves no orphans that hold the port."""
    server = start_server(crew)
    pids = started_pids(server)

    server.kill()

    wait_until(lambda: not any(is_alive(pid) for pid in pids))


def test_workers_drain_when_the_supervisor_is_stopped(crew: Installation) -> None:
    """One SIGTERM to the supervisor drains every worker once, with status 0."""
    server = start_server(crew)
    with half_a_request(server) as connection:
        time.sleep(0.2)
        stopper = threading.Thread(target=server.stop)
        stopper.start()
        wait_until(lambda: not accepts(server.address))
        connection.sendall(b"unheard_of___")
        answer = read_all(connection)
        stopper.join(DEADLINE_S)

    assert answer.startswith(b"HTTP/1.1 401 ")
    assert server.process.returncode == 0
    stopped = [r for r in server.log_records() if r["event"] == "supervisor_stopped"]
    assert [record["worker_statuses"] for record in stopped] == [[0, 0]]


def test_a_signal_to_every_process_is_one_stop(crew: Installation) -> None:
    """systemd sends SIGTERM to the whole control group: workers drain all the same."""
    server = start_server(crew)
    with half_a_request(server) as connection:
        time.sleep(0.2)
        for pid in (server.pid, *started_pids(server)):
            os.kill(pid, signal.SIGTERM)
        wait_until(lambda: not accepts(server.address))
        time.sleep(0.5)  # the supervisor's own signal has come, too
        connection.sendall(b"unheard_of___")
        answer = read_all(connection)

    assert answer.startswith(b"HTTP/1.1 401 ")
    assert server.process.wait(DEADLINE_S) == 0


def test_a_second_signal_ends_the_workers_too(crew: Installation) -> None:
    """A person who does not want to wait waits for no worker either."""
    server = start_server(crew, overrides={"DRAIN_TIMEOUT": "600s"})
    with half_a_request(server):
        time.sleep(0.2)
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: not accepts(server.address))
        server.process.send_signal(signal.SIGTERM)

        assert server.process.wait(DEADLINE_S) == 1


def test_a_worker_that_hangs_is_replaced_while_others_serve(crew: Installation) -> None:
    """SIGSTOP, so that nothing of the process runs: whoever connects is served by the other one
    all the while, and a new worker comes (case 266)."""
    with running_processes(crew) as (server,):
        victim, survivor = started_pids(server)
        os.kill(victim, signal.SIGSTOP)
        deadline = time.monotonic() + SILENCE_LIMIT_S + ABORT_MARGIN_S + 2 * DEADLINE_S
        while len(started_pids(server)) < 3:
            assert httpx.get(f"{server.base_url}/livez", timeout=DEADLINE_S).status_code == 200
            assert time.monotonic() < deadline, "the hung worker was not replaced"
            time.sleep(0.25)

        assert is_alive(survivor)
        assert not is_alive(victim)
        silent = [r for r in server.log_records() if r["event"] == "worker_silent"]
        assert [(record["pid"], record["for_s"]) for record in silent] == [
            (victim, SILENCE_LIMIT_S)
        ]
