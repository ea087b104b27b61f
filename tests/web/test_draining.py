"""What a stopping server does for connections that are new, idle or waiting to be accepted."""

import asyncio
import contextlib
import os
import signal
import socket
import sys
import time
from pathlib import Path

import httpx
import pytest
from litestar.types import Receive, Scope, Send

from tests.support.load import Connection
from tests.support.process import Installation, ServerProcess, running_processes, start_server
from tests.support.server import make_settings
from token_server.web.draining import Drain, stop_accepting, turn_away
from token_server.web.server import Server, open_listeners
from token_server.web.traffic import Traffic

DEADLINE_S = 20.0
GET = b"GET /livez HTTP/1.1\r\nhost: a\r\n\r\n"


@pytest.fixture
def installation(tmp_path: Path) -> Installation:
    return Installation(tmp_path, f"sqlite:///{tmp_path}/data/token-server.db")


def open_idle(server: ServerProcess) -> socket.socket:
    """A kept connection, as a proxy has it: one request was answered on it."""
    connection = socket.create_connection(server.address, timeout=DEADLINE_S)
    assert b"connection: close" not in ask(connection)
    return connection


def ask(connection: socket.socket) -> bytes:
    """One request, and its whole answer in lower case."""
    connection.sendall(GET)
    answer = b""
    while not answer.endswith(b'{"status":"ok"}'):
        part = connection.recv(65536)
        assert part, answer
        answer += part
    return answer.lower()


def begin_stop(server: ServerProcess) -> None:
    server.process.send_signal(signal.SIGTERM)
    deadline = time.monotonic() + DEADLINE_S
    while httpx.get(f"{server.management_url}/readyz").status_code != 503:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_request_on_an_idle_connection_is_still_answered(installation: Installation) -> None:
    """A proxy sends on a kept connection while the signal arrives: it cannot send a POST twice."""
    server = start_server(installation)
    with open_idle(server) as connection:
        begin_stop(server)
        answer = ask(connection)

        assert answer.startswith(b"http/1.1 200 ")
        assert b"\r\nconnection: close\r\n" in answer, "it must not send another one here"
        assert connection.recv(1) == b""
    assert server.process.wait(DEADLINE_S) == 0


async def test_every_answer_says_that_it_is_the_last_one() -> None:
    """Requests that run already at the signal, too (RFC 9112 §9.6)."""
    listener = socket.create_server(("127.0.0.1", 0))
    address = listener.getsockname()
    server, serving = await _serve_slowly(listener)
    with contextlib.closing(await Connection.open(address)) as idle:
        assert b"connection: close" not in (await idle.request(GET)).head.lower()
        with contextlib.closing(await Connection.open(address)) as busy:
            running = busy.send(GET.replace(b"/livez", b"/slow"))
            await asyncio.sleep(0.1)
            stopping = asyncio.create_task(
                stop_accepting(server, server.traffic, listener, Drain(0, 5))
            )
            await asyncio.sleep(0.1)
            answers = [await idle.request(GET), await running]
            await stopping
    server.should_exit = True
    await serving

    assert [b"\r\nconnection: close" in one.head.lower() for one in answers] == [True, True]


def test_an_idle_connection_is_left_for_seconds_and_not_longer(installation: Installation) -> None:
    """Whoever keeps connections for ever holds up a stop for five seconds, not DRAIN_TIMEOUT."""
    server = start_server(installation, overrides={"DRAIN_TIMEOUT": "600s"})
    with open_idle(server):
        started = time.monotonic()

        assert server.stop() == 0
    assert 4 < time.monotonic() - started < DEADLINE_S


def test_the_delay_goes_on_accepting_while_it_is_not_ready(installation: Installation) -> None:
    """DRAIN_DELAY: load balancers that ask /readyz hear it before a connection is refused."""
    server = start_server(installation, overrides={"DRAIN_DELAY": "6s"})
    begin_stop(server)
    with httpx.Client(base_url=server.base_url) as client:
        ready = client.get("/readyz")
        answer = client.get("/livez")

    assert (ready.status_code, ready.json()) == (503, {"status": "draining"})
    assert answer.status_code == 200
    assert answer.headers["connection"] == "close"
    assert server.process.wait(DEADLINE_S) == 0
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{server.base_url}/livez")


def test_the_delay_holds_for_every_worker(postgres_url: str, tmp_path: Path) -> None:
    """The supervisor turns nobody away before its workers' delay is over."""
    crew = Installation(tmp_path, postgres_url, {"WORKERS": "2", "DRAIN_DELAY": "8s"})
    server = start_server(crew)
    begin_stop(server)
    statuses = {httpx.get(f"{server.base_url}/readyz").status_code for _ in range(4)}

    assert statuses == {503}
    assert server.process.wait(DEADLINE_S) == 0


def test_a_second_signal_ends_the_delay(installation: Installation) -> None:
    """Whoever presses Ctrl-C twice does not wait for load balancers either."""
    server = start_server(installation, overrides={"DRAIN_DELAY": "300s"})
    begin_stop(server)
    server.process.send_signal(signal.SIGTERM)

    assert server.process.wait(DEADLINE_S) == 1


def test_a_server_that_starts_refuses_until_it_can_answer(tmp_path: Path) -> None:
    """A load balancer takes another instance at once instead of waiting for a database."""
    settings = make_settings(
        "sqlite:///unused", tmp_path, bind="127.0.0.1:0", management_bind="127.0.0.1:0"
    )
    listeners = open_listeners(settings)
    address = listeners.public.getsockname()
    try:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address, timeout=DEADLINE_S)
        listeners.listen()
        socket.create_connection(address, timeout=DEADLINE_S).close()
    finally:
        listeners.close()


@pytest.mark.skipif(sys.platform != "linux", reason="needs the socket filters of Linux")
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_who_has_connected_is_served_and_nobody_new_comes(host: str) -> None:
    """Before a listener is closed: those in its queue are accepted, a new handshake gets silence
    and is refused when it is tried again."""
    with socket.create_server((host, 0), family=_family(host)) as listener:
        address = listener.getsockname()[:2]
        with socket.create_connection(address, timeout=DEADLINE_S) as early:
            turn_away(listener)
            with pytest.raises(TimeoutError):
                socket.create_connection(address, timeout=0.3)
            accepted, _ = listener.accept()
            early.sendall(b"request")
            with accepted:
                assert accepted.recv(16) == b"request"


def test_the_end_of_one_worker_closes_no_door(postgres_url: str, tmp_path: Path) -> None:
    """A worker that is sent SIGTERM alone drains alone: its siblings go on accepting."""
    crew = Installation(tmp_path, postgres_url, {"WORKERS": "2"})
    with running_processes(crew) as (server,):
        events = [r for r in server.log_records() if r.get("event") == "worker_started"]
        os.kill(int(events[0]["pid"]), signal.SIGTERM)
        deadline = time.monotonic() + 3  # it closes its copy of the listener within this time
        while time.monotonic() < deadline:
            assert httpx.get(f"{server.base_url}/livez").status_code == 200


async def _serve_slowly(listener: socket.socket) -> tuple[Server, asyncio.Task[None]]:
    """An application that takes half a second for /slow, and answers everything else at once."""

    async def app(scope: Scope, _receive: Receive, send: Send) -> None:
        if scope["path"] == "/slow":
            await asyncio.sleep(0.5)
        headers = [(b"content-length", b"2")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"ok", "more_body": False})

    server = Server(app, Traffic(), drain_timeout_s=20)
    serving = asyncio.create_task(server.serve([listener]))
    while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
        await asyncio.sleep(0.01)
    return server, serving


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET
