"""Composition root for HTTP: Runtime -> ASGI application.

Every route is named here, and every error that Litestar raises by itself is given the shape of
its path here. Litestar's own logging, OpenAPI pages and form parsing are off (docs/decisions.md).
"""

from collections.abc import Sequence
from typing import Any

from litestar import Litestar, Request, Response
from litestar.exceptions import HTTPException
from litestar.handlers import ASGIRouteHandler
from litestar.plugins import PluginProtocol
from litestar.types import ASGIApp

from token_server.errors import UnavailableError
from token_server.logs import get_logger
from token_server.runtime import Runtime
from token_server.web import answers
from token_server.web.account import account_handlers
from token_server.web.docs_ui import docs_handlers
from token_server.web.edge import Edge
from token_server.web.exact_paths import ExactPaths
from token_server.web.forms import MAX_BODY_BYTES
from token_server.web.forward_auth import forward_auth_handler
from token_server.web.introspection import introspection_handler
from token_server.web.oauth import token_handler
from token_server.web.openapi import openapi_handler
from token_server.web.requests import request_id
from token_server.web.revocation import revocation_handler
from token_server.web.status_lists import status_list_handler
from token_server.web.well_known import well_known_handlers

_log = get_logger(__name__)


class _PlainLitestar(Litestar):
    """Without the plugins that Litestar adds for whatever is installed beside it, pydantic's and
    attrs' among them: no handler of ours has such a model, and to import them costs a tenth of a
    start and 10 MiB."""

    @staticmethod
    def _get_default_plugins(plugins: list[PluginProtocol]) -> list[PluginProtocol]:
        return plugins


def create_app(runtime: Runtime, more_handlers: Sequence[ASGIRouteHandler] = ()) -> ASGIApp:
    """The public application; `more_handlers` are the health endpoints of the hosting process."""
    handlers = [
        token_handler(runtime),
        revocation_handler(runtime),
        introspection_handler(runtime),
        forward_auth_handler(runtime),
        *account_handlers(runtime),
        *well_known_handlers(runtime),
        status_list_handler(runtime),
        openapi_handler(runtime),
        *more_handlers,
    ]
    if runtime.settings.mode == "dev":
        handlers += docs_handlers()
    exact = [handler for handler in handlers if not handler.is_mount]
    app = _PlainLitestar(
        route_handlers=[handler for handler in handlers if handler.is_mount],
        exception_handlers={HTTPException: _http_error, Exception: _unexpected_error},
        openapi_config=None,
        logging_config=None,
        request_max_body_size=MAX_BODY_BYTES,
    )
    return Edge(ExactPaths(exact, app), runtime)


def _http_error(request: Request[Any, Any, Any], error: HTTPException) -> Response[bytes]:
    return _response(answers.http_error_answer(request.scope["path"], error.status_code))


def _unexpected_error(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    path = request.scope["path"]
    if not isinstance(error, UnavailableError):
        _log.error("request_failed", request_id=request_id(request.scope), exc_info=error)
    return _response(answers.failure_answer(path, error))


def _response(answer: answers.Answer) -> Response[bytes]:
    headers = {name.decode(): value.decode() for name, value in answer.headers}
    media_type = headers.pop("content-type")
    return Response(answer.body, status_code=answer.status, headers=headers, media_type=media_type)
