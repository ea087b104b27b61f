"""Any bytes, in any pieces, for our own HTTP protocol (M217, M218).

Promises: no exception; answers one after the other, each whole; at most one refusal, the last; what
the application saw was answered or cut off; and whoever is waited for has a deadline.
"""

import asyncio
import re
from collections.abc import Iterator
from typing import Any

from litestar.types import ASGIApp
from uvicorn.config import Config
from uvicorn.server import ServerState

from tests.fuzzing.target import Target, require
from token_server.web.http1 import Http1
from token_server.web.traffic import Limits, Traffic

_LIMITS = Limits(head_bytes=1024, target_bytes=256, header_lines=16, pipelined=4)
_HEAD = re.compile(rb"HTTP/1\.1 (\d{3}) [A-Za-z ]+\r\n((?:[!-9;-~]+: [ -~]*\r\n)*)\r\n")
_LENGTH = re.compile(rb"content-length: (\d+)\r\n")
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_REFUSALS = (400, 408, 414, 417, 431)
_TURNS = 12  # of the event loop: more than an answer takes


class _Wire:
    """A transport that keeps what is written, and never blocks."""

    def __init__(self) -> None:
        self.written = bytearray()
        self.is_over = False
        self.is_aborted = False

    def set_write_buffer_limits(self, _high: int) -> None:
        return

    def get_extra_info(self, _name: str) -> tuple[str, int]:
        return ("192.0.2.1", 1)

    def write(self, data: bytes) -> None:
        require(self.is_aborted or not self.is_over, "bytes behind the end")
        if not self.is_aborted:
            self.written += data

    def is_closing(self) -> bool:
        return self.is_over

    def can_write_eof(self) -> bool:
        return True

    def close(self) -> None:
        self.is_over = True

    write_eof = close

    def abort(self) -> None:
        self.is_over = self.is_aborted = True

    def pause_reading(self) -> None:
        return

    resume_reading = pause_reading


def _application(seen: list[str]) -> ASGIApp:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["path"])
        require(scope["path"].startswith("/"), "a path that is none")
        require(len(scope["headers"]) <= _LIMITS.header_lines, "too many headers")
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            if not message["more_body"]:
                break
        headers = [(b"content-length", b"2")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"ok", "more_body": False})

    return app


def _pieces(data: bytes) -> Iterator[bytes]:
    """The first byte says how long they are."""
    size = 1 + data[0] if data else 1
    for at in range(1, len(data), size):
        yield data[at : at + size]


async def _play(data: bytes) -> None:
    failures: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _loop, context: failures.append(context))
    traffic, wire, state = Traffic(_LIMITS), _Wire(), ServerState()
    seen: list[str] = []
    app = _application(seen)
    connection = Http1(traffic, app, config=Config(app), server_state=state, app_state={})
    transport: Any = wire
    connection.connection_made(transport)
    for number, piece in enumerate(_pieces(data)):
        if wire.is_over:
            break
        connection.data_received(piece)
        if number % 3 == 0:
            await asyncio.sleep(0)
    for _ in range(_TURNS):
        await asyncio.sleep(0)
    is_waiting = not wire.is_over
    if is_waiting:
        require(connection.deadline < float("inf"), "a client that is waited for for ever")
    connection.connection_lost(None)
    for _ in range(_TURNS):
        await asyncio.sleep(0)
    require(not state.tasks, "a request that goes on without its client")
    require(not traffic.connections, "a connection that is counted for ever")
    require(not failures, "an exception in the event loop")
    _check_answers(bytes(wire.written), seen)


def _check_answers(written: bytes, seen: list[str]) -> None:
    statuses = []
    while written:
        if written.startswith(_CONTINUE):
            written = written[len(_CONTINUE) :]
            continue
        head = _HEAD.match(written)
        require(head is not None, "bytes that are no answer")
        if head is None:
            return
        status = int(head[1])
        length = _LENGTH.search(head[0])
        # The application's answer to a HEAD has a length and no body.
        size = 0 if length is None else int(length[1])
        rest = written[head.end() :]
        written = rest if status == 200 and not rest.startswith(b"ok") else rest[size:]
        statuses.append(status)
    refused = [status for status in statuses if status != 200]
    require(all(status in _REFUSALS for status in refused), "a refusal of another kind")
    require(refused in ([], statuses[-1:]), "an answer behind a refusal")
    require(len(statuses) - len(refused) <= len(seen), "an answer that nobody asked for")


def http1(data: bytes) -> None:
    """One connection from its first byte to its end."""
    _RUNNER.run(_play(data))


_RUNNER = asyncio.Runner()  # one loop for all: a new one for each costs more than the input
_HOST = b"Host: x\r\n"
HTTP1 = Target(
    http1,
    (
        b"\xffGET / HTTP/1.1\r\n" + _HOST + b"\r\n",
        b"\x03POST /oauth2/token?a=b HTTP/1.1\r\nContent-Length: 3\r\n" + _HOST + b"\r\nabc",
        b"\xffPOST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n"
        + _HOST
        + b"\r\n3\r\nabc\r\n0\r\n\r\n",
        b"\x10GET /a HTTP/1.1\r\n" + _HOST + b"\r\nGET /b HTTP/1.0\r\n\r\n",
        b"\xffPUT / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 1\r\n" + _HOST + b"\r\nx",
        b"\xffGET / HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n" + _HOST + b"\r\nxyz",
        b"\xffHEAD http://a/b HTTP/1.1\r\nConnection: close\r\n" + _HOST + b"\r\n",
    ),
)
