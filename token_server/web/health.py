"""`/livez` and `/readyz` on both ports, `/metrics` on the management port alone.

The public port tells a load balancer yes ("ok", "degraded") or no and strangers nothing;
`?verbose` on the management port lists the checks. HEAD works, other methods are 405 with Allow
(RFC 9110 §15.5.6).
"""

from collections.abc import Awaitable, Callable, Iterable

import msgspec
from litestar import asgi
from litestar.enums import ScopeType
from litestar.handlers import ASGIRouteHandler
from litestar.types import ASGIApp, HTTPScope, Receive, Scope, Send

from token_server.logs import get_logger
from token_server.runtime import Runtime
from token_server.services.checks import Check, Level
from token_server.services.health import Readiness
from token_server.web.answers import NO_STORE, Answer, problem_answer, send_answer

_log = get_logger(__name__)

_ALLOW = (b"allow", b"GET, HEAD")
_JSON = (b"content-type", b"application/json")
_NOSNIFF = (b"x-content-type-options", b"nosniff")  # on the public port web/edge.py adds it
_encode = msgspec.json.Encoder().encode

Headers = tuple[tuple[bytes, bytes], ...]
Endpoint = Callable[[HTTPScope], Awaitable[Answer]]


def health_handlers(readiness: Readiness) -> list[ASGIRouteHandler]:
    """For the public application: status only."""
    return [
        _handler("/livez", _live),
        _handler("/readyz", _ready_endpoint(readiness, may_list=False)),
    ]


def create_management_app(runtime: Runtime, readiness: Readiness) -> ASGIApp:
    """The application of the management port: health with its reasons, and the metrics."""
    endpoints: dict[str, Endpoint] = {
        "/livez": _live,
        "/readyz": _ready_endpoint(readiness, may_list=True),
        "/metrics": _metrics_endpoint(runtime, readiness),
    }

    async def app(scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG001 - ASGI's shape
        if scope["type"] != ScopeType.HTTP:
            return
        await _serve(endpoints.get(scope["path"], _not_found), scope, send, (_NOSNIFF,))

    return app


def _handler(path: str, endpoint: Endpoint) -> ASGIRouteHandler:
    @asgi(path, copy_scope=False)
    async def health(scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG001
        if scope["type"] == ScopeType.HTTP:
            await _serve(endpoint, scope, send)

    return health


async def _serve(
    endpoint: Endpoint, scope: HTTPScope, send: Send, more_headers: Headers = ()
) -> None:
    if scope["method"] not in ("GET", "HEAD"):
        answer = problem_answer(405, "method_not_allowed", (_ALLOW,))
    else:
        try:
            answer = await endpoint(scope)
        except Exception:  # noqa: BLE001 - the last place that can answer
            _log.exception("request_failed")
            answer = problem_answer(500, "server_error")
    answer = msgspec.structs.replace(answer, headers=(*answer.headers, *more_headers))
    await send_answer(send, answer, without_body=scope["method"] == "HEAD")


async def _live(_scope: HTTPScope) -> Answer:
    return _status_answer(200, {"status": "ok"})


async def _not_found(_scope: HTTPScope) -> Answer:
    return problem_answer(404, "not_found")


def _ready_endpoint(readiness: Readiness, *, may_list: bool) -> Endpoint:
    async def ready(scope: HTTPScope) -> Answer:
        checks = await readiness.checks()
        is_ready = all(check.is_ok for check in checks)
        body: dict[str, object] = {"status": _status(checks, is_draining=readiness.is_draining)}
        if may_list and _is_verbose(scope):
            body["checks"] = [
                {"name": one.name, "ok": one.is_ok, "level": one.level, "detail": one.detail}
                for one in checks
            ]
        return _status_answer(200 if is_ready else 503, body)

    return ready


def _status(checks: Iterable[Check], *, is_draining: bool) -> str:
    if is_draining:
        return "draining"
    levels = {check.level for check in checks}
    if Level.FAIL in levels:
        return "unavailable"
    return "degraded" if Level.WARN in levels else "ok"


def _metrics_endpoint(runtime: Runtime, readiness: Readiness) -> Endpoint:
    async def metrics(_scope: HTTPScope) -> Answer:
        readiness.update_gauges()
        body, content_type = runtime.metrics.render()
        headers = ((b"content-type", content_type.encode("ascii")), NO_STORE)
        return Answer(200, headers, body)

    return metrics


def _is_verbose(scope: HTTPScope) -> bool:
    return scope["query_string"].partition(b"=")[0] == b"verbose"


def _status_answer(status: int, body: dict[str, object] | dict[str, str]) -> Answer:
    return Answer(status, (_JSON, NO_STORE), _encode(body))
