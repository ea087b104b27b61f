"""One request on a connection and its answer: the `receive` and `send` of one ASGI call.

Head and body of an answer leave in one write. What an application sends is trusted to be an
answer of ours, but not to be one answer: a line break in a header is an error, not a second one.
"""

import asyncio
from http import HTTPStatus
from typing import Any, Protocol

from litestar.types import HTTPScope

from token_server.web.traffic import Traffic

_STATUS_LINES = {
    status.value: b"HTTP/1.1 %d %b\r\n" % (status.value, status.phrase.encode("ascii"))
    for status in HTTPStatus
}
_WITHOUT_CONTENT = frozenset((HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED))
_CLOSE = b"connection: close\r\n"
_CHUNKED = b"transfer-encoding: chunked\r\n"
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_DISCONNECT: Any = {"type": "http.disconnect"}


class Carrier(Protocol):
    """The connection, as its requests see it."""

    traffic: Traffic

    @property
    def reader_gone(self) -> "asyncio.Future[None] | None": ...

    def write(self, data: bytes, *, is_last: bool = True) -> None: ...

    def resume_reading(self) -> None: ...

    def finish(self, request: "Request") -> None: ...


class Request:
    """`is_complete`: its body has come. `is_gone`: whoever sent it has left."""

    __slots__ = (
        "_body",
        "_carrier",
        "_has_handed_over",
        "_headers",
        "_is_chunked",
        "_status",
        "_waiter",
        "has_begun",
        "is_answered",
        "is_complete",
        "is_gone",
        "keeps_alive",
        "scope",
    )

    def __init__(self, carrier: Carrier, scope: HTTPScope, *, keeps_alive: bool) -> None:
        self.scope = scope
        self.keeps_alive = keeps_alive
        self.is_complete = False
        self.is_answered = False
        self.is_gone = False
        self.has_begun = False  # bytes of the answer have left
        self._carrier = carrier
        self._body = b""
        self._has_handed_over = False
        self._waiter: asyncio.Future[None] | None = None
        self._status = 0
        self._headers: Any = ()
        self._is_chunked = False

    @property
    def unread_bytes(self) -> int:
        return len(self._body)

    def take(self, data: bytes) -> None:
        self._body = self._body + data if self._body else data
        self.wake()

    def leave(self) -> None:
        self.is_gone = True
        self.wake()

    def wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    async def receive(self) -> Any:
        """The body as it comes in; after that, the client's departure."""
        if not self.is_complete and not self._body and not self.has_begun:
            self._continue_if_expected()
        while not (self.is_gone or self.is_answered):
            if self._body or (self.is_complete and not self._has_handed_over):
                body, self._body = self._body, b""
                self._has_handed_over = self.is_complete
                self._carrier.resume_reading()
                return {"type": "http.request", "body": body, "more_body": not self.is_complete}
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        return _DISCONNECT

    async def send(self, message: Any) -> None:
        """Waits only where more is to come and the client does not read."""
        if self.is_answered:
            raise RuntimeError("an answer after the answer")
        if self.is_gone:
            return
        if message["type"] == "http.response.start":
            self._status, self._headers = message["status"], message["headers"]
            return
        body, has_more = message.get("body", b""), message.get("more_body", False)
        head = b"" if self.has_begun else self._head(has_more=has_more)
        self.has_begun = True
        if self.scope["method"] == "HEAD":
            body = b""
        elif self._is_chunked:
            body = (b"%x\r\n%b\r\n" % (len(body), body) if body else b"") + (
                b"" if has_more else b"0\r\n\r\n"
            )
        self._carrier.write(head + body if head else body, is_last=not has_more)
        if not has_more:
            self.is_answered = True
            self._carrier.finish(self)
        elif self._carrier.reader_gone is not None:
            await asyncio.shield(self._carrier.reader_gone)

    def _head(self, *, has_more: bool) -> bytes:
        traffic, status = self._carrier.traffic, self._status
        parts = [_STATUS_LINES[status], traffic.date_line]
        lines = 2
        has_length = False
        for name, value in self._headers:
            parts += (name, b": ", value, b"\r\n")
            lines += 1
            if name == b"content-length":
                has_length = True
        if not has_length and has_more and self.scope["http_version"] == "1.1":
            self._is_chunked = True
            parts.append(_CHUNKED)
            lines += 1
        elif not has_length and status not in _WITHOUT_CONTENT:
            self.keeps_alive = False  # the end of the connection is the end of the body
        if not self.keeps_alive or not self.is_complete or traffic.is_draining:
            self.keeps_alive = False
            parts.append(_CLOSE)
            lines += 1
        parts.append(b"\r\n")
        head = b"".join(parts)
        if head.count(b"\n") != lines + 1 or head.count(b"\r") != lines + 1 or b"\0" in head:
            raise RuntimeError("a line break in a header of an answer")
        return head

    def _continue_if_expected(self) -> None:
        is_expected = any(name == b"expect" for name, _ in self.scope["headers"])
        if is_expected and self.scope["http_version"] == "1.1":
            self._carrier.write(_CONTINUE)
