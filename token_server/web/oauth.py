"""The endpoints under /oauth2 that take a form: decode, one call, encode (RFC 6749 §3.2, §5).

Raw ASGI handlers: these are the hottest paths, and Litestar's request object would parse the form
through a cache that keeps passwords.
"""

from collections.abc import Awaitable, Callable

from litestar import asgi
from litestar.enums import ScopeType
from litestar.handlers import ASGIRouteHandler
from litestar.types import HTTPScope, Receive, Scope, Send

from token_server.errors import (
    InvalidRequestError,
    MethodNotAllowedError,
    OAuthError,
    UnavailableError,
)
from token_server.grants.endpoint import Exchange, exchange, note_unreadable
from token_server.runtime import Runtime
from token_server.services.metadata import TOKEN_PATH
from token_server.web import answers
from token_server.web.forms import check_form_media_type, parse_form, read_body
from token_server.web.requests import header_values, request_context, request_id


def form_handler(
    path: str, respond: Callable[[HTTPScope, Receive], Awaitable[answers.Answer]]
) -> ASGIRouteHandler:
    """An endpoint whose refusals are OAuthError and UnavailableError."""

    @asgi(path, copy_scope=False)
    async def endpoint(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP:
            return
        try:
            answer = await respond(scope, receive)
        except OAuthError as error:
            answer = answers.oauth_error_answer(error)
        except UnavailableError as error:
            answer = answers.oauth_unavailable_answer(error)
        await answers.send_answer(send, answer, without_body=scope["method"] == "HEAD")

    return endpoint


def token_handler(runtime: Runtime) -> ASGIRouteHandler:
    """The token endpoint over this runtime."""

    async def respond(scope: HTTPScope, receive: Receive) -> answers.Answer:
        request = await _read_request(runtime, scope, receive)
        return answers.token_answer(await exchange(runtime, request))

    return form_handler(TOKEN_PATH, respond)


async def _read_request(runtime: Runtime, scope: HTTPScope, receive: Receive) -> Exchange:
    try:
        form = await read_form(scope, receive)
    except OAuthError as error:
        note_unreadable(runtime, error, request_id(scope))
        raise
    return Exchange(
        authorization=header_values(scope, b"authorization"),
        form=form,
        # After the body: its sender decides how long that takes, and must not choose the instant.
        context=request_context(runtime, scope, receive),
    )


async def read_form(scope: HTTPScope, receive: Receive) -> dict[str, str]:
    """The parameters of a POST without query string; OAuthError for anything else."""
    if scope["method"] != "POST":
        raise MethodNotAllowedError("method_not_post")
    if scope["query_string"]:
        # Query strings end up in logs and histories, credentials with them (RFC 6749 §2.3.1).
        raise InvalidRequestError(
            "query_string_present", "Parameters belong in the body, not in the query string."
        )
    check_form_media_type(header_values(scope, b"content-type"))
    return parse_form(await read_body(receive, header_values(scope, b"content-length")))
