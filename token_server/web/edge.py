"""The outermost layer: request id, security headers, one log line, and no exception beyond it.

Wraps the whole application, so that what Litestar answers by itself gets the same treatment.
"""

import base64
import itertools

from litestar.enums import ScopeType
from litestar.types import ASGIApp, HTTPScope, Message, Receive, Scope, Send

from token_server.errors import UnavailableError
from token_server.logs import get_logger
from token_server.runtime import Runtime
from token_server.web import answers
from token_server.web.requests import REQUEST_ID_KEY, untrusted_proxy

_log = get_logger(__name__)

# Beyond any path and method of ours; Litestar's cache of routes would keep the methods.
_MAX_PATH_LENGTH = 2048
_MAX_METHOD_LENGTH = 32
# Answered from memory at once: never too many, and what others need when everything else is slow.
_IMMEDIATE_PREFIXES = ("/.well-known/", "/livez", "/readyz")


class Edge:
    """ASGI in, ASGI out."""

    def __init__(self, app: ASGIApp, runtime: Runtime) -> None:
        self._app = app
        self._runtime = runtime
        self._has_warned = False
        self._under_way = 0
        self._most = runtime.settings.max_requests
        # Request ids are no secret and need not be: a random beginning for each process, and a
        # number, are unique and spare a system call.
        self._origin = base64.urlsafe_b64encode(runtime.entropy.token_bytes(6)).decode("ascii")
        self._numbers = itertools.count()
        self._headers = answers.security_headers(runtime.settings)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP:
            await self._app(scope, receive, send)
            return
        if not self._has_warned:
            self._warn_of_untrusted_proxy(scope)
        request_id = f"{self._origin}{next(self._numbers) & 0xFFFFFFFF:08x}"
        scope[REQUEST_ID_KEY] = request_id  # type: ignore[literal-required]  # ASGI allows more keys
        extra = (*self._headers, (b"x-request-id", request_id.encode("ascii")))
        started = self._runtime.clock.monotonic()
        status = 0
        self._under_way += 1

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = list(message["headers"])
                own = {name for name, _ in headers}  # an answer may say it for itself
                message["headers"] = headers + [pair for pair in extra if pair[0] not in own]
            await send(message)

        try:
            if _is_oversized(scope):
                too_long = answers.http_error_answer(scope["path"], 414)
                await answers.send_answer(send_with_headers, too_long)
            elif self._under_way > self._most and not scope["path"].startswith(_IMMEDIATE_PREFIXES):
                self._runtime.metrics.connection_refused("requests_full")
                full = UnavailableError("requests_full")
                await answers.send_answer(
                    send_with_headers, answers.failure_answer(scope["path"], full)
                )
            else:
                await self._app(scope, receive, send_with_headers)
        except Exception as error:  # noqa: BLE001 - the last place that can answer instead of dying
            if not isinstance(error, UnavailableError):
                _log.exception("request_failed", request_id=request_id)
            if status == 0:
                await answers.send_answer(
                    send_with_headers, answers.failure_answer(scope["path"], error)
                )
        finally:
            self._under_way -= 1
            # The route as it is written in the code: paths as sent would be labels without end.
            route = scope.get("path_template") or "unmatched"
            self._runtime.metrics.http_requests(route, status)
            elapsed_s = self._runtime.clock.monotonic() - started
            _log.debug(
                "request_answered",
                route=route,
                status=status,
                duration_ms=round(elapsed_s * 1000, 3),
                request_id=request_id,
            )

    def _warn_of_untrusted_proxy(self, scope: HTTPScope) -> None:
        """Behind a proxy that is not in TRUSTED_PROXIES all clients share one address, and so one
        budget for guesses. Said once: strangers can send the header, too."""
        peer = untrusted_proxy(scope, self._runtime.settings.trusted_proxies)
        if peer is not None:
            self._has_warned = True
            _log.warning("forwarded_header_ignored", peer=peer, setting="TRUSTED_PROXIES")


def _is_oversized(scope: HTTPScope) -> bool:
    return len(scope["path"]) > _MAX_PATH_LENGTH or len(scope["method"]) > _MAX_METHOD_LENGTH
