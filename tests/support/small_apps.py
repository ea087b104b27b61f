"""A small ASGI application behind our own HTTP protocol, on a real port in a thread of its own."""

import asyncio
import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from litestar.enums import ScopeType
from litestar.types import ASGIApp, Receive, Scope, Send

from token_server.web.server import Server
from token_server.web.traffic import Limits, Traffic

TIMEOUT_S = 20.0


@dataclass(slots=True)
class Served:
    """Where it is, what its connections share, and the paths that were asked for, in order."""

    address: tuple[str, int]
    traffic: Traffic
    seen: list[str] = field(default_factory=list)

    def connect(self, host: str | None = None) -> socket.socket:
        """`host` is the address that we come from."""
        source = None if host is None else (host, 0)
        return socket.create_connection(self.address, timeout=TIMEOUT_S, source_address=source)

    def exchange(self, *parts: bytes) -> bytes:
        """All that is answered to these bytes until the server closes the connection."""
        with self.connect() as connection:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                for part in parts:
                    connection.sendall(part)
            return read_all(connection)


def read_all(connection: socket.socket) -> bytes:
    with contextlib.suppress(ConnectionResetError):
        answer = b""
        while part := connection.recv(65536):
            answer += part
    return answer


@contextlib.contextmanager
def small_app(limits: Limits | None = None, app: ASGIApp | None = None) -> Iterator[Served]:
    """`app` instead of one that tells what it was asked; /slow takes a while, /large is large."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    served = Served(listener.getsockname(), Traffic(limits or Limits()))
    started: Future[asyncio.AbstractEventLoop] = Future()
    stop = asyncio.Event()

    async def serve() -> None:
        server = Server(app or _telling(served), served.traffic, drain_timeout_s=1)
        looking = asyncio.create_task(served.traffic.keep_looking())
        serving = asyncio.create_task(server.serve([listener]))
        while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
            await asyncio.sleep(0.01)
        started.set_result(asyncio.get_running_loop())
        await stop.wait()
        server.should_exit = True
        await serving
        looking.cancel()

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    try:
        loop = started.result(TIMEOUT_S)
        yield served
        loop.call_soon_threadsafe(stop.set)
    finally:
        thread.join(TIMEOUT_S)


def _telling(served: Served) -> ASGIApp:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP:
            return
        served.seen.append(scope["path"])
        if scope["path"] == "/slow":
            await asyncio.sleep(0.3)
        if scope["path"] == "/deaf":
            await answer(send, 413, b"{}")
            return
        body = b""
        while True:
            message: Any = await receive()
            if message["type"] != "http.request":
                return
            body += message["body"]
            if not message["more_body"]:
                break
        if scope["path"] == "/large":
            await answer(send, 200, bytes(4 * 1024 * 1024))
            return
        told = {
            "method": scope["method"],
            "path": scope["path"],
            "query": scope["query_string"].decode("latin-1"),
            "headers": [[n.decode("latin-1"), v.decode("latin-1")] for n, v in scope["headers"]],
            "body": body.decode("latin-1"),
        }
        await answer(send, 200, json.dumps(told).encode())

    return app


async def answer(send: Send, status: int, body: bytes) -> None:
    headers = [(b"content-length", b"%d" % len(body)), (b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})
