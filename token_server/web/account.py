"""`/api/auth/*`: the account API. Decode, one call, encode; problem documents for all else.

Raw ASGI handlers, as at the token endpoint: bodies hold passwords, and nothing but our reader
sees them. What is the same for all of them is web/account_call.py's.
"""

import contextlib
from collections.abc import Mapping

import msgspec
from litestar import asgi
from litestar.enums import ScopeType
from litestar.handlers import ASGIRouteHandler
from litestar.types import Receive, Scope, Send

from token_server.core.client_policy import ACCOUNT_CLIENT_ID
from token_server.errors import (
    CredentialsRefusedError,
    InvalidFieldError,
    OAuthError,
    TokenRefusedError,
)
from token_server.grants.endpoint import Exchange, exchange
from token_server.records import Family, Secret
from token_server.runtime import Runtime
from token_server.services import account, sessions
from token_server.services.api_keys import ApiKeyPrincipal
from token_server.services.bearer import BearerGuard, Principal
from token_server.services.issuing import TokenResponse
from token_server.services.users import NewUser
from token_server.web import answers, schemas
from token_server.web.account_call import PREFIX, Call, Handler, answer_call, instant_text
from token_server.web.answers import Answer, send_answer
from token_server.web.api_keys import API_KEY_ROUTES, API_KEYS
from token_server.web.cookies import (
    check_origin,
    cleared_cookie,
    has_refresh_cookie,
    read_refresh_cookie,
    refresh_cookie,
)
from token_server.web.json_body import read_json, read_optional_json
from token_server.web.requests import header_values

_SESSIONS = "/sessions"
_ONE_SESSION = "/sessions/{session_id}"
_COLLECTIONS = (_SESSIONS, API_KEYS)


def account_handlers(runtime: Runtime) -> list[ASGIRouteHandler]:
    """The handlers of all account paths over this runtime."""
    guard = BearerGuard(runtime)
    plain = [path for path in ROUTES if not path.startswith(_COLLECTIONS)]
    return [
        *(_handler(path, runtime, guard) for path in plain),
        *(_collection_handler(base, runtime, guard) for base in _COLLECTIONS),
    ]


def _handler(path: str, runtime: Runtime, guard: BearerGuard) -> ASGIRouteHandler:
    @asgi(PREFIX + path, copy_scope=False)
    async def account_api(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == ScopeType.HTTP:
            await answer_call(send, Call(runtime, guard, scope, receive), path, ROUTES[path])

    return account_api


def _collection_handler(base: str, runtime: Runtime, guard: BearerGuard) -> ASGIRouteHandler:
    """A list and one of it, as one mount: Litestar fails on a parameter in the path of a raw
    ASGI handler, and lets a mount begin in the middle of a name."""
    one = next(path for path in ROUTES if path.startswith(base + "/"))

    @asgi(PREFIX + base, is_mount=True, copy_scope=False)
    async def collection_api(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP:
            return
        rest = scope["path"]  # behind the prefix, with a slash at its end
        item_id = rest.strip("/")
        call = Call(runtime, guard, scope, receive, item_id)
        if not rest.startswith("/"):
            await send_answer(send, answers.problem_answer(404, "not_found"))
            return
        path = one if item_id else base
        await answer_call(send, call, path, ROUTES[path])

    return collection_api


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
    user = (await call.reader(call.context())).user
    created_at = instant_text(user.created_at)
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
    principal = await call.reader(context)
    found = await sessions.list_sessions(call.runtime, principal.user, context.now)
    return answers.json_answer(schemas.SessionList([_session(each, principal) for each in found]))


async def _show_session(call: Call) -> Answer:
    context = call.context()
    principal = await call.reader(context)
    found = await sessions.find_session(call.runtime, principal.user, call.item_id, context.now)
    return answers.json_answer(_session(found, principal))


async def _end_session(call: Call) -> Answer:
    body = await read_optional_json(call.scope, call.receive, schemas.EndSessionsBody)
    context = call.context()
    principal = await call.active_user(context)
    found = await sessions.find_session(call.runtime, principal.user, call.item_id, context.now)
    if found.sid != principal.session.sid:
        await call.require_recent_login(principal, body.current_password, context)
    await sessions.end_session(call.runtime, principal, found, context)
    return Answer(204, (answers.NO_STORE,))


async def _end_other_sessions(call: Call) -> Answer:
    body = await read_optional_json(call.scope, call.receive, schemas.EndSessionsBody)
    context = call.context()
    principal = await call.active_user(context)
    await call.require_recent_login(principal, body.current_password, context)
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
    **API_KEY_ROUTES,
}


def _check_place(call: Call, place: schemas.Place) -> None:
    """Before anything is done for a page that must not have the cookie."""
    if place == "cookie":
        check_origin(call.scope, call.runtime.settings.browser_origins)


def _token_answer(call: Call, response: TokenResponse, place: schemas.Place) -> Answer:
    if place == "body" or response.refresh_token is None:
        return answers.token_answer(response)
    answer = answers.token_answer(msgspec.structs.replace(response, refresh_token=None))
    # The session may end before: the cookie is not what decides.
    cookie = refresh_cookie(response.refresh_token, call.runtime.settings.refresh_idle_ttl_s)
    return msgspec.structs.replace(answer, headers=(*answer.headers, cookie))


def _session(session: Family, principal: Principal | ApiKeyPrincipal) -> schemas.Session:
    return schemas.Session(
        id=session.sid,
        client_id=session.client_id,
        label=session.label,
        ip_address=session.ip_address,
        user_agent=session.user_agent,
        created_at=instant_text(session.created_at),
        last_used_at=instant_text(session.rotated_at or session.created_at),
        expires_at=instant_text(min(session.idle_expires_at, session.absolute_expires_at)),
        is_current=isinstance(principal, Principal) and session.sid == principal.session.sid,
    )
