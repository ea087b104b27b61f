"""`/api/auth/*`: the account API. Decode, one call, encode; problem documents for all else.

Raw ASGI handlers, as at the token endpoint: bodies hold passwords, and nothing but our reader
sees them. A query string is refused: tokens in it would end up in logs (RFC 6750 §5.3).
"""

import contextlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from litestar import asgi
from litestar.enums import ScopeType
from litestar.handlers import ASGIRouteHandler
from litestar.types import HTTPScope, Receive, Scope, Send

from token_server.core.client_policy import ACCOUNT_CLIENT_ID
from token_server.errors import (
    CredentialsRefusedError,
    InvalidFieldError,
    OAuthError,
    ProblemError,
    QueryRefusedError,
    TokenRefusedError,
    UnavailableError,
)
from token_server.grants.endpoint import Exchange, exchange
from token_server.logs import get_logger
from token_server.records import Family, Secret
from token_server.runtime import Runtime
from token_server.services import account, sessions
from token_server.services.bearer import BearerGuard, Principal
from token_server.services.issuing import TokenResponse
from token_server.services.request_context import RequestContext
from token_server.services.users import NewUser
from token_server.web import answers, schemas
from token_server.web.answers import Answer
from token_server.web.cookies import (
    check_origin,
    cleared_cookie,
    has_refresh_cookie,
    read_refresh_cookie,
    refresh_cookie,
)
from token_server.web.json_body import read_json, read_optional_json
from token_server.web.requests import header_values, request_context, request_id

_log = get_logger(__name__)

PREFIX = "/api/auth"
_SESSIONS = "/sessions"
_ONE_SESSION = "/sessions/{session_id}"


@dataclass(frozen=True, slots=True)
class Call:
    """One request at the account API."""

    runtime: Runtime
    guard: BearerGuard
    scope: HTTPScope = field(repr=False)
    receive: Receive = field(repr=False)
    session_id: str = ""  # out of the path

    def context(self) -> RequestContext:
        """After the body: its sender decides how long that takes, and must not choose the
        instant."""
        return request_context(self.runtime, self.scope)

    async def active_user(self, context: RequestContext) -> Principal:
        authorization = header_values(self.scope, b"authorization")
        return await self.guard.active_user(authorization, context)


Handler = Callable[[Call], Awaitable[Answer]]


def account_handlers(runtime: Runtime) -> list[ASGIRouteHandler]:
    """The handlers of all account paths over this runtime."""
    guard = BearerGuard(runtime)
    plain = [path for path in ROUTES if not path.startswith(_SESSIONS)]
    return [
        *(_handler(path, runtime, guard) for path in plain),
        _sessions_handler(runtime, guard),
    ]


def _handler(path: str, runtime: Runtime, guard: BearerGuard) -> ASGIRouteHandler:
    @asgi(PREFIX + path, copy_scope=False)
    async def account_api(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == ScopeType.HTTP:
            await _send(send, Call(runtime, guard, scope, receive), path)

    return account_api


def _sessions_handler(runtime: Runtime, guard: BearerGuard) -> ASGIRouteHandler:
    """The list and one of it, as one mount: Litestar fails on a parameter in the path of a raw
    ASGI handler, and lets a mount begin in the middle of a name."""

    @asgi(PREFIX + _SESSIONS, is_mount=True, copy_scope=False)
    async def sessions_api(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP:
            return
        rest = scope["path"]  # behind the prefix, with a slash at its end
        session_id = rest.strip("/")
        path = _ONE_SESSION if session_id else _SESSIONS
        call = Call(runtime, guard, scope, receive, session_id)
        await _send(send, call, path if rest.startswith("/") else None)

    return sessions_api


async def _send(send: Send, call: Call, path: str | None) -> None:
    scope = call.scope
    if path is None:
        answer = answers.problem_answer(404, "not_found")
    else:
        scope["path_template"] = PREFIX + path  # for the metrics, which never see an id
        answer = await _answer(call, ROUTES[path])
    await answers.send_answer(send, answer, without_body=scope["method"] == "HEAD")


async def _answer(call: Call, methods: Mapping[str, Handler]) -> Answer:
    method = call.scope["method"]
    handler = methods.get("GET" if method == "HEAD" else method)
    if handler is None:
        allowed = [*methods, *(["HEAD"] if "GET" in methods else [])]
        allow = ", ".join(sorted(allowed)).encode("ascii")
        return answers.problem_answer(405, "method_not_allowed", ((b"allow", allow),))
    try:
        if call.scope["query_string"]:
            raise QueryRefusedError("query_string_present")
        return await handler(call)
    except ProblemError as error:
        _log.info(
            "account_request_refused",
            problem=error.code,
            reason=error.reason,
            request_id=request_id(call.scope),
        )
        return answers.problem_error_answer(error)
    except UnavailableError as error:
        return answers.problem_unavailable_answer(error)


async def _register(call: Call) -> Answer:
    body = await read_json(call.scope, call.receive, schemas.RegisterBody)
    _check_place(call, body.refresh_token_in)
    new = NewUser(body.email, body.name, Secret(body.password))
    response = await account.register(call.runtime, new, body.label, call.context())
    if response is None:
        return answers.json_answer(schemas.RegistrationReceived(), 202)
    return _token_answer(call, response, body.refresh_token_in)


async def _log_in(call: Call) -> Answer:
    body = await read_json(call.scope, call.receive, schemas.LoginBody)
    _check_place(call, body.refresh_token_in)
    credentials = account.Credentials(body.email, Secret(body.password), body.label)
    response = await account.log_in(call.runtime, credentials, call.context())
    return _token_answer(call, response, body.refresh_token_in)


async def _refresh(call: Call) -> Answer:
    body = await read_json(call.scope, call.receive, schemas.RefreshBody)
    if (body.refresh_token is None) == (body.refresh_token_in == "body"):
        raise InvalidFieldError(
            "refresh_token", 'Send the token, or "refresh_token_in": "cookie" and the cookie.'
        )
    _check_place(call, body.refresh_token_in)
    token = body.refresh_token or read_refresh_cookie(call.scope)
    form = {"grant_type": "refresh_token", "refresh_token": token, "client_id": ACCOUNT_CLIENT_ID}
    try:
        # The token endpoint's own phases: one place where a refresh token is spent and judged.
        response = await exchange(call.runtime, Exchange((), form, call.context()))
    except OAuthError as error:
        raise CredentialsRefusedError(error.reason) from None
    return _token_answer(call, response, body.refresh_token_in)


async def _me(call: Call) -> Answer:
    user = (await call.active_user(call.context())).user
    created_at = _instant(user.created_at)
    me = schemas.Me(user.user_id, user.email, user.name, user.is_active, created_at)
    return answers.json_answer(me)


async def _change_password(call: Call) -> Answer:
    body = await read_json(call.scope, call.receive, schemas.ChangePasswordBody)
    _check_place(call, body.refresh_token_in)
    context = call.context()
    principal = await call.active_user(context)
    change = account.PasswordChange(Secret(body.current_password), Secret(body.new_password))
    response = await account.change_own_password(call.runtime, principal, change, context)
    return _token_answer(call, response, body.refresh_token_in)


async def _log_out(call: Call) -> Answer:
    """By access token; a page whose access token has run out does it by its cookie."""
    context = call.context()
    authorization = header_values(call.scope, b"authorization")
    if not has_refresh_cookie(call.scope):
        principal = await call.guard.required_user(authorization, context)
        await sessions.log_out(call.runtime, principal.session, context)
        return Answer(204, (answers.NO_STORE,))
    check_origin(call.scope, call.runtime.settings.browser_origins)
    cookie = read_refresh_cookie(call.scope)
    with contextlib.suppress(TokenRefusedError):  # the cookie is enough
        optional = await call.guard.optional_user(authorization, context)
        if optional is not None:
            await sessions.log_out(call.runtime, optional.session, context)
    await sessions.log_out_by_token(call.runtime, cookie, context)
    return Answer(204, (answers.NO_STORE, cleared_cookie()))


async def _list_sessions(call: Call) -> Answer:
    context = call.context()
    principal = await call.active_user(context)
    found = await sessions.list_sessions(call.runtime, principal, context.now)
    return answers.json_answer(schemas.SessionList([_session(each, principal) for each in found]))


async def _show_session(call: Call) -> Answer:
    context = call.context()
    principal = await call.active_user(context)
    found = await sessions.find_session(call.runtime, principal, call.session_id, context.now)
    return answers.json_answer(_session(found, principal))


async def _end_session(call: Call) -> Answer:
    body = await read_optional_json(call.scope, call.receive, schemas.EndSessionsBody)
    context = call.context()
    principal = await call.active_user(context)
    found = await sessions.find_session(call.runtime, principal, call.session_id, context.now)
    if found.sid != principal.session.sid:
        await _require_recent_login(call, principal, body, context)
    await sessions.end_session(call.runtime, principal, found, context)
    return Answer(204, (answers.NO_STORE,))


async def _end_other_sessions(call: Call) -> Answer:
    body = await read_optional_json(call.scope, call.receive, schemas.EndSessionsBody)
    context = call.context()
    principal = await call.active_user(context)
    await _require_recent_login(call, principal, body, context)
    ended = await sessions.end_other_sessions(call.runtime, principal, context)
    return answers.json_answer(schemas.SessionsEnded(ended))


ROUTES: Mapping[str, Mapping[str, Handler]] = {
    "/register": {"POST": _register},
    "/login": {"POST": _log_in},
    "/refresh": {"POST": _refresh},
    "/me": {"GET": _me},
    "/change-password": {"POST": _change_password},
    "/logout": {"POST": _log_out},
    _SESSIONS: {"GET": _list_sessions, "DELETE": _end_other_sessions},
    _ONE_SESSION: {"GET": _show_session, "DELETE": _end_session},
}


def _check_place(call: Call, place: schemas.Place) -> None:
    """Before anything is done for a page that must not have the cookie."""
    if place == "cookie":
        check_origin(call.scope, call.runtime.settings.browser_origins)


def _token_answer(call: Call, response: TokenResponse, place: schemas.Place) -> Answer:
    if place == "body" or response.refresh_token is None:
        return answers.token_answer(response)
    answer = answers.token_answer(replace(response, refresh_token=None))
    # The session may end before: the cookie is not what decides.
    cookie = refresh_cookie(response.refresh_token, call.runtime.settings.refresh_idle_ttl_s)
    return replace(answer, headers=(*answer.headers, cookie))


async def _require_recent_login(
    call: Call, principal: Principal, body: schemas.EndSessionsBody, context: RequestContext
) -> None:
    password = None if body.current_password is None else Secret(body.current_password)
    await account.require_recent_login(call.runtime, principal, password, context)


def _session(session: Family, principal: Principal) -> schemas.Session:
    return schemas.Session(
        id=session.sid,
        client_id=session.client_id,
        label=session.label,
        ip_address=session.ip_address,
        user_agent=session.user_agent,
        created_at=_instant(session.created_at),
        last_used_at=_instant(session.rotated_at or session.created_at),
        expires_at=_instant(min(session.idle_expires_at, session.absolute_expires_at)),
        is_current=session.sid == principal.session.sid,
    )


def _instant(at: int) -> str:
    """RFC 3339 in UTC, whole seconds."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
