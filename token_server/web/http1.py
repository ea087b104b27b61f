"""HTTP/1.1 on one connection: bytes in, one ASGI call at a time, bytes out (RFC 9112).

Stands in for uvicorn's protocol class. The parser is httptools', strict as it comes; what it lets
through and two readers could take differently is refused here, and what exceeds the limits of
web/traffic.py. A refusal has the shape of its path. Whoever is slow is cut off by `Traffic.look`.
"""

import asyncio
import socket
import struct
from collections import deque
from enum import Enum, auto
from http import HTTPStatus
from typing import Any, cast
from urllib.parse import unquote

import httptools
from litestar.types import ASGIApp, HTTPScope
from uvicorn.config import Config
from uvicorn.server import ServerState

from token_server.logs import get_logger
from token_server.web.http1_head import HeadRefusedError, check_head, read_target, refusal
from token_server.web.http1_request import Request
from token_server.web.traffic import Traffic

_log = get_logger(__name__)

_ASGI: Any = {"version": "3.0", "spec_version": "2.3"}
_MOST_UNREAD_BYTES = 64 * 1024  # of a body that nobody takes: then no more of it is read
_WRITE_BUFFER_BYTES = 32 * 1024
_LINGER_S = 2.0
_MOST_LINGERING_BYTES = 1024 * 1024
_NEVER = float("inf")


class _Phase(Enum):
    """What a connection waits for, or does."""

    NEW = auto()  # its first byte
    HEAD = auto()
    BODY = auto()
    ANSWER = auto()
    IDLE = auto()  # the next request
    LINGER = auto()  # its end: the last answer is sent, the client may still be sending
    CLOSED = auto()


class Http1(asyncio.Protocol):
    """One connection. uvicorn makes it, keeps it in its set of connections, and shuts it down."""

    def __init__(  # uvicorn's shape
        self,
        traffic: Traffic,
        app: ASGIApp,
        *,
        config: Config,  # noqa: ARG002
        server_state: ServerState,
        app_state: dict[str, Any],  # noqa: ARG002
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self.traffic = traffic
        self.deadline = traffic.now + traffic.limits.head_s
        self.source: str | None = None
        self._app = app
        self._state = server_state
        self._loop = _loop or asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._peer: tuple[str, int] | None = None
        self._local: tuple[str, int] | None = None
        self._parser: httptools.HttpRequestParser | None = None
        self._phase = _Phase.NEW
        self._waiting: deque[Request] = deque()
        self._request: Request | None = None  # that is being answered
        self._latest: Request | None = None  # that is being read, or was
        self._reader_gone: asyncio.Future[None] | None = None
        self._is_reading = True
        # Of the head that is being read:
        self._url = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._head_bytes = 0
        self._is_in_head = True
        self._is_in_message = False
        self._discarded_bytes = 0

    # --- asyncio's side ---------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass
        self._transport.set_write_buffer_limits(_WRITE_BUFFER_BYTES)
        self._peer = _address(transport.get_extra_info("peername"))
        self._local = _address(transport.get_extra_info("sockname"))
        self.source = self.traffic.source_of(self._peer)
        self._state.connections.add(self)  # type: ignore[arg-type]  # uvicorn knows its own alone
        self._parser = httptools.HttpRequestParser(self)
        if not self.traffic.admit(self):
            if self.traffic.is_overrun:
                self._abort()
            else:
                self._refuse(503)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self._phase = _Phase.CLOSED
        self.deadline = _NEVER
        self._state.connections.discard(self)
        self.traffic.leave(self)
        self._parser = None  # it refers to us
        for request in (self._request, self._latest, *self._waiting):
            if request is not None:
                request.leave()
        self._waiting.clear()
        self.resume_writing()

    def data_received(self, data: bytes) -> None:
        if self._parser is None or self._phase is _Phase.LINGER:
            self._discard(data)
            return
        if self._is_in_head:
            self._head_bytes += len(data)
            if self._phase is _Phase.NEW or self._phase is _Phase.IDLE:
                self._phase = _Phase.HEAD
                self.deadline = self.traffic.now + self.traffic.limits.head_s
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            # Not followed (RFC 9110 §7.8); what comes behind it is no HTTP: not read.
            self._stop_reading()
        except httptools.HttpParserError as error:
            cause = error.__context__
            self._refuse(cause.status if isinstance(cause, HeadRefusedError) else 400)
            return
        if self._is_in_head and self._head_bytes > self.traffic.limits.head_bytes:
            self._refuse(431)

    def eof_received(self) -> None:
        """None: the transport closes. Whoever has gone is not answered."""

    def pause_writing(self) -> None:
        """The client does not read: it has a while to begin."""
        self._reader_gone = self._loop.create_future()
        self.deadline = self.traffic.now + self.traffic.limits.write_s
        self._pause_reading()  # whoever does not read asks for nothing more

    def resume_writing(self) -> None:
        waiter, self._reader_gone = self._reader_gone, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)
        match self._phase:
            case _Phase.ANSWER | _Phase.BODY:
                self.deadline = _NEVER
            case _Phase.IDLE:
                self._go_on()
            case _Phase.NEW | _Phase.HEAD | _Phase.LINGER | _Phase.CLOSED:
                pass

    # --- the parser's side ------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        self._url = b""
        self._headers = []
        self._is_in_message = True

    def on_url(self, url: bytes) -> None:
        self._url += url
        if len(self._url) > self.traffic.limits.target_bytes:
            raise HeadRefusedError(414)

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._is_in_head:
            return  # a trailer: it says nothing that counts (RFC 9110 §6.5.1)
        headers = self._headers
        if (
            len(headers) >= self.traffic.limits.header_lines
            or len(value) > self.traffic.limits.head_bytes
        ):
            raise HeadRefusedError(431)
        headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        parser = self._parser
        if parser is None:
            return
        self._is_in_head = False
        self._head_bytes = 0
        version = parser.get_http_version()
        path, query = read_target(self._url)
        check_head(version, self._headers)
        method = parser.get_method().decode("ascii")
        is_upgrade = parser.should_upgrade()
        scope: HTTPScope = {  # type: ignore[typeddict-item]  # Litestar wants keys of its own
            "type": "http",
            "asgi": _ASGI,
            "http_version": version,
            "method": method,
            "scheme": "http",
            "path": unquote(path) if "%" in path else path,
            "raw_path": path.encode("ascii"),
            "query_string": query,
            "root_path": "",
            "headers": self._headers,
            "server": self._local,
            "client": self._peer,
            "state": {},
        }
        keeps_alive = version == "1.1" and not is_upgrade and parser.should_keep_alive()
        request = Request(self, scope, keeps_alive=keeps_alive)
        self._latest = request
        if self._request is None:
            self._answer(request)
        elif len(self._waiting) >= self.traffic.limits.pipelined:
            raise HeadRefusedError(400)
        else:
            self._waiting.append(request)

    def on_body(self, body: bytes) -> None:
        request = self._latest
        if request is None or request.is_answered:
            self._discard(body)  # too much for its answer, which is given: only its end counts
            return
        request.take(body)
        if request.unread_bytes > _MOST_UNREAD_BYTES:
            self._pause_reading()

    def on_message_complete(self) -> None:
        request = self._latest
        self._is_in_head = True
        self._is_in_message = False
        if request is None:
            return
        request.is_complete = True
        request.wake()
        if request is self._request and self._phase is _Phase.BODY:
            self._phase = _Phase.ANSWER
            self.deadline = _NEVER

    # --- the request's side -----------------------------------------------------------------------

    @property
    def is_idle(self) -> bool:
        return self._phase is _Phase.IDLE

    @property
    def reader_gone(self) -> "asyncio.Future[None] | None":
        """Done when the client reads again; None while it does."""
        return self._reader_gone

    def write(self, data: bytes, *, is_last: bool = True) -> None:
        """Not `is_last`: how fast more of this answer comes depends on who reads it."""
        if self._transport is not None and self._phase is not _Phase.CLOSED:
            self.traffic.post(self._transport, data)
            if not is_last:
                self.traffic.send_out()

    def resume_reading(self) -> None:
        if not self._is_reading and self._transport is not None:
            self._is_reading = True
            self._transport.resume_reading()

    def finish(self, request: Request) -> None:
        """The last byte of its answer is written."""
        if request is not self._request or self._phase in (_Phase.LINGER, _Phase.CLOSED):
            return
        self._state.total_requests += 1
        self._request = None
        if not request.keeps_alive:
            self._close(is_read=request.is_complete and self._parser is not None)
            return
        if self._reader_gone is None:
            self._go_on()
        else:
            self._phase = _Phase.IDLE  # under the deadline of `pause_writing`

    # --- the side of uvicorn and the traffic -----------------------------------------------------

    def shutdown(self) -> None:
        """uvicorn stops: a request under way is answered, everything else is over."""
        for request in (self._request, *self._waiting):
            if request is not None:
                request.keeps_alive = False
        if self._request is None and self._phase is not _Phase.LINGER:
            self._close(is_read=True)

    def expire(self) -> None:
        """Too slow, or idle for too long."""
        match self._phase:
            case _Phase.HEAD:
                self.traffic.note("head_too_slow")
                self._refuse(408)
            case _Phase.BODY:
                self.traffic.note("body_too_slow")
                self._refuse(408)
            case _Phase.ANSWER | _Phase.NEW | _Phase.IDLE | _Phase.LINGER | _Phase.CLOSED:
                if self._reader_gone is not None:
                    self.traffic.note("reader_too_slow")
                    self._forget_unread()
                self._abort()

    # --- within -----------------------------------------------------------------------------------

    def _go_on(self) -> None:
        """To the next request: it may be here already, or have begun."""
        if self._waiting:
            self._answer(self._waiting.popleft())
            return
        self.resume_reading()
        limits, now = self.traffic.limits, self.traffic.now
        if self._is_in_message:
            self._phase, self.deadline = _Phase.HEAD, now + limits.head_s
        else:
            self._phase, self.deadline = _Phase.IDLE, now + limits.keep_alive_s
            self._latest = None  # whoever waits holds little

    def _pause_reading(self) -> None:
        if self._is_reading and self._transport is not None:
            self._is_reading = False
            self._transport.pause_reading()

    def _answer(self, request: Request) -> None:
        self._request = request
        if request.is_complete:
            self._phase, self.deadline = _Phase.ANSWER, _NEVER
        else:
            self._phase = _Phase.BODY
            self.deadline = self.traffic.now + self.traffic.limits.body_s
        task = self._loop.create_task(self._call(request))
        self._state.tasks.add(task)
        task.add_done_callback(self._state.tasks.discard)

    async def _call(self, request: Request) -> None:
        try:
            await self._app(request.scope, request.receive, request.send)
        except Exception as error:  # noqa: BLE001 - the application answers for itself; this is the end
            if not request.is_gone:
                _log.error("connection_failed", exc_info=error)
        finally:
            if not (request.is_answered or request.is_gone):
                self._abort()

    def _refuse(self, status: int) -> None:
        """Say no, if nobody is being answered, and read nothing more."""
        request = self._request
        if status in (400, 414, 417, 431):
            self.traffic.note("malformed")
        self._parser = None
        if request is not None and request.is_complete:
            # The one before is answered first, and is the last.
            request.keeps_alive = False
            self._waiting.clear()
            return
        if request is not None:
            request.leave()
            if request.has_begun:
                self._abort()
                return
        self.write(refusal(status, self._url, self.traffic))
        # Who was too slow is not waited for once more.
        self._close(is_read=status == HTTPStatus.REQUEST_TIMEOUT)

    def _stop_reading(self) -> None:
        self._parser = None
        if self._latest is not None:
            self._latest.keeps_alive = False

    def _close(self, *, is_read: bool) -> None:
        """After what was written has left. If the client is still sending, closing at once would
        reset the connection before it has read its answer (RFC 9112 §9.6)."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        self._waiting.clear()
        self.traffic.send_out()
        if is_read or not transport.can_write_eof():
            self._phase = _Phase.LINGER
            self.deadline = self.traffic.now + self.traffic.limits.write_s
            transport.close()
            return
        self._phase = _Phase.LINGER
        self.deadline = self.traffic.now + _LINGER_S
        self.resume_reading()
        transport.write_eof()

    def _discard(self, data: bytes) -> None:
        self._discarded_bytes += len(data)
        if self._discarded_bytes > _MOST_LINGERING_BYTES:
            self._abort()

    def _forget_unread(self) -> None:
        """Or the kernel would keep what was not read, and try for minutes to send it."""
        if self._transport is not None:
            connection = self._transport.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def _abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()


def _address(found: Any) -> tuple[str, int] | None:
    return (str(found[0]), int(found[1])) if isinstance(found, tuple) else None
