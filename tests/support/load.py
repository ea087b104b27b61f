"""A cheap HTTP/1.1 client for load: raw requests over kept-alive connections, one at a time each.

It costs a fraction of the server's work, so that what is measured is the server. It understands
what our server sends (Content-Length, or 304 without a body) and nothing more.
"""

import asyncio
import base64
import contextlib
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast
from urllib.parse import quote_plus, urlencode

Address = tuple[str, int]
REPLY_TIMEOUT_S = 60.0
TOKEN_PATH = "/oauth2/token"


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    head: bytes = field(repr=False)
    body: bytes = field(repr=False)

    def json(self) -> dict[str, Any]:
        value = json.loads(self.body)
        assert isinstance(value, dict)
        return value


class Connection(asyncio.Protocol):
    """One connection; `send` may be called again when its reply is there."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._buffer = b""
        self._waiter: asyncio.Future[Reply] | None = None

    @classmethod
    async def open(cls, address: Address) -> "Connection":
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(cls, *address)
        return connection

    def send(self, request: bytes) -> "asyncio.Future[Reply]":
        """Write now; the future fails with ConnectionError when the server goes away."""
        assert self._waiter is None, "one request at a time"
        waiter = self._waiter = asyncio.get_running_loop().create_future()
        if self._transport is None or self._transport.is_closing():
            self._fail(ConnectionResetError("closed before the request"))
        else:
            self._transport.write(request)
        return waiter

    async def request(self, request: bytes) -> Reply:
        # Not `wait_for`: before Python 3.12 it loses a cancellation that meets the reply.
        async with asyncio.timeout(REPLY_TIMEOUT_S):
            return await self.send(request)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass

    def data_received(self, data: bytes) -> None:
        self._buffer = self._buffer + data if self._buffer else data
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        head = self._buffer[: end + 2]
        status = int(head[9:12])
        size = end + 4 + (0 if status in (204, 304) else _content_length(head))
        if len(self._buffer) < size:
            return
        body, self._buffer = self._buffer[end + 4 : size], self._buffer[size:]
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(Reply(status, head, body))

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._fail(ConnectionResetError(f"closed by the server: {exc}"))

    def _fail(self, error: ConnectionError) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_exception(error)


@contextlib.asynccontextmanager
async def open_connections(
    addresses: Sequence[Address], count: int
) -> AsyncIterator[list[Connection]]:
    """`count` connections, dealt out to the addresses in turn."""
    connections = [
        await Connection.open(addresses[number % len(addresses)]) for number in range(count)
    ]
    try:
        yield connections
    finally:
        for connection in connections:
            connection.close()


def get_request(path: str, headers: Mapping[str, str] | None = None) -> bytes:
    return raw_request("GET", path, headers or {}, b"")


def token_request(
    form: Mapping[str, str],
    secret: str | None = None,
    more_headers: Mapping[str, str] | None = None,
) -> bytes:
    """A request to the token endpoint; with a secret `client_id` goes into the Basic header."""
    fields = dict(form)
    headers = {"Content-Type": "application/x-www-form-urlencoded", **(more_headers or {})}
    if secret is not None:
        pair = f"{quote_plus(fields.pop('client_id'))}:{quote_plus(secret)}"
        headers["Authorization"] = "Basic " + base64.b64encode(pair.encode()).decode()
    return raw_request("POST", TOKEN_PATH, headers, urlencode(fields).encode())


def form_request(
    path: str, fields: Mapping[str, str], more_headers: Mapping[str, str] | None = None
) -> bytes:
    """A POST to another of the OAuth endpoints; credentials are among the fields."""
    headers = {"Content-Type": "application/x-www-form-urlencoded", **(more_headers or {})}
    return raw_request("POST", path, headers, urlencode(fields).encode())


def json_request(
    path: str, body: Mapping[str, str], more_headers: Mapping[str, str] | None = None
) -> bytes:
    """A POST to one of the JSON APIs."""
    headers = {"Content-Type": "application/json", **(more_headers or {})}
    return raw_request("POST", path, headers, json.dumps(body).encode())


def raw_request(method: str, path: str, headers: Mapping[str, str], body: bytes) -> bytes:
    """Any request, as it goes over the wire."""
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    if body or method == "POST":
        lines.append(f"Content-Length: {len(body)}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("ascii") + body


def _content_length(head: bytes) -> int:
    lower = head.lower()
    start = lower.find(b"\r\ncontent-length:")
    if start < 0:
        raise ValueError("an answer without Content-Length")
    return int(lower[start + 17 : lower.index(b"\r\n", start + 2)])
