"""What a server answers while its database has not answered yet: the start of `serve` (254).

Public documents do not need the database: metadata, and the key set as far as the key directory
has one. Everything else is a 503 with Retry-After in the shape of its path. The process lives, is
not ready, and tries again twice a second; no orchestrator has to restart it.
"""

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

import msgspec
from litestar.enums import ScopeType
from litestar.types import ASGIApp, HTTPScope, Receive, Scope, Send

from token_server.config import Settings
from token_server.errors import UnavailableError
from token_server.grants.registry import GRANTS
from token_server.logs import get_logger
from token_server.metrics import Metrics
from token_server.services.metadata import JWKS_PATH, server_metadata
from token_server.services.published_keys import published_jwks
from token_server.web import answers
from token_server.web.answers import NO_STORE, Answer, send_answer
from token_server.web.server import Listeners, Server, StopSignal
from token_server.web.traffic import Limits, Traffic
from token_server.web.well_known import (
    METADATA_MAX_AGE_S,
    METADATA_PATHS,
    Document,
    document_answer,
)

_log = get_logger(__name__)

PAUSE_S = 0.5
_STOP_S = 1
_CONNECTIONS = 1_000
_JSON = (b"content-type", b"application/json")
# The server that takes over has its own connections: none is carried over.
_CLOSE = (b"connection", b"close")
_NOSNIFF = (b"x-content-type-options", b"nosniff")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Place:
    """Where to wait, and until when."""

    settings: Settings
    listeners: Listeners
    stop: StopSignal


async def open_when_it_answers(
    opening: Callable[[], Awaitable[T]], place: Place, on_waiting: Callable[[], None]
) -> T | None:
    """What `opening` gives; None when a stop was asked before. As long as it raises
    UnavailableError, documents are served on the listeners, which stay open; `on_waiting` is
    called when that begins."""
    try:
        return await opening()
    except UnavailableError as error:
        waiting = _Waiting(place.settings, error)
    await waiting.look_at_keys()
    place.listeners.listen()
    _log.error(
        "database_unavailable",
        operation="start",
        problem=waiting.problem,
        bind=place.listeners.public_address,
        management_bind=place.listeners.management_address,
    )
    servers = [
        _server(waiting.public, place.listeners.public.dup()),
        _server(waiting.management, place.listeners.management.dup()),
    ]
    on_waiting()
    try:
        while not place.stop.asked.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(place.stop.asked.wait(), PAUSE_S)
                break
            await waiting.look_at_keys()
            try:
                opened = await opening()
            except UnavailableError as error:
                waiting.problem = error.detail or error.reason
            else:
                _log.warning("database_available", operation="start")
                return opened
        return None
    finally:
        for server, _ in servers:
            server.should_exit = True
        await asyncio.gather(*(task for _, task in servers))


class _Waiting:
    """Both applications of a process that waits."""

    def __init__(self, settings: Settings, error: UnavailableError) -> None:
        self.problem = error.detail or error.reason
        self._settings = settings
        self._jwks: Document | None = None
        body = msgspec.json.encode(server_metadata(settings, GRANTS))
        self._metadata = Document.of(body, METADATA_MAX_AGE_S)
        self._metrics = Metrics()
        for operation in ("read", "write"):
            self._metrics.database_available(operation, is_available=False)

    async def look_at_keys(self) -> None:
        """Other instances may rotate meanwhile."""
        body = await published_jwks(self._settings)
        self._jwks = None if body is None else Document.of(body, self._settings.jwks_max_age_s)

    async def public(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        if scope["type"] == ScopeType.HTTP:
            await _send(scope, send, self._public_answer(scope))

    async def management(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        if scope["type"] == ScopeType.HTTP:
            await _send(scope, send, self._management_answer(scope))

    def _public_answer(self, scope: HTTPScope) -> Answer:
        path = scope["path"]
        document = self._metadata if path in METADATA_PATHS else None
        if path == JWKS_PATH:
            document = self._jwks
        if document is not None and scope["method"] in ("GET", "HEAD"):
            return document_answer(scope, document)
        if path in ("/livez", "/readyz"):
            return self._health_answer(path)
        return answers.failure_answer(path, UnavailableError("storage_unavailable", 5))

    def _management_answer(self, scope: HTTPScope) -> Answer:
        if scope["path"] == "/metrics":
            body, content_type = self._metrics.render()
            return Answer(200, ((b"content-type", content_type.encode("ascii")), NO_STORE), body)
        if scope["path"] in ("/livez", "/readyz"):
            return self._health_answer(scope["path"], scope["query_string"])
        return answers.problem_answer(404, "not_found")

    def _health_answer(self, path: str, query: bytes = b"") -> Answer:
        if path == "/livez":
            return _json(200, {"status": "ok"})
        body: dict[str, object] = {"status": "unavailable"}
        if query.partition(b"=")[0] == b"verbose":
            detail = {"name": "database", "ok": False, "level": "fail", "detail": self.problem}
            body["checks"] = [detail]
        return _json(503, body)


def _json(status: int, body: dict[str, object] | dict[str, str]) -> Answer:
    return Answer(status, (_JSON, NO_STORE), msgspec.json.encode(body))


async def _send(scope: HTTPScope, send: Send, answer: Answer) -> None:
    answer = Answer(answer.status, (*answer.headers, _CLOSE, _NOSNIFF), answer.body)
    await send_answer(send, answer, without_body=scope["method"] == "HEAD")


def _server(app: ASGIApp, listener: socket.socket) -> "tuple[Server, asyncio.Task[None]]":
    server = Server(app, Traffic(Limits(connections=_CONNECTIONS)), _STOP_S)
    return server, asyncio.create_task(server.serve([listener]))
