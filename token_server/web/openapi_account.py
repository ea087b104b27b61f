"""The OpenAPI description of /api/auth: bodies from the structs that decode and encode them.

Each operation lists the errors that it may answer; status, code and challenge come from their
classes. The bounds of a new password and the answers of a registration follow the settings.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from token_server import errors
from token_server.config import Settings
from token_server.errors import ProblemError
from token_server.web import schemas
from token_server.web.account import PREFIX
from token_server.web.cookies import COOKIE_NAME
from token_server.web.openapi_parts import (
    NEVER_STORED,
    NEVER_STORED_OAUTH,
    Json,
    problem,
    response,
    schema_ref,
)

_BEARER: Json = {"accessToken": []}
_COOKIE: Json = {"refreshCookie": []}
SECURITY_SCHEMES: Mapping[str, Json] = {
    "accessToken": {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "JWT",
        "description": "An access token that /api/auth gave, while its session and user live.",
    },
    "refreshCookie": {
        "type": "apiKey",
        "in": "cookie",
        "name": COOKIE_NAME,
        "description": "The refresh token of a page that asked for `refresh_token_in: cookie`; "
        "sent with an `Origin` of BROWSER_ORIGINS. `Max-Age` is REFRESH_IDLE_TTL.",
    },
}
_STRUCTS = (
    schemas.RegisterBody,
    schemas.LoginBody,
    schemas.RefreshBody,
    schemas.ChangePasswordBody,
    schemas.EndSessionsBody,
    schemas.Me,
    schemas.Session,
    schemas.SessionList,
    schemas.SessionsEnded,
)
_PASSWORD = "correct horse battery staple"
_EXAMPLES: Mapping[str, Json] = {
    "RegisterBody": {"email": "ada@example.org", "password": _PASSWORD, "name": "Ada Lovelace"},
    "LoginBody": {"email": "ada@example.org", "password": _PASSWORD},
    "RefreshBody": {"refresh_token": "rt_..."},
    "ChangePasswordBody": {"current_password": _PASSWORD, "new_password": f"{_PASSWORD}!"},
    "EndSessionsBody": {"current_password": _PASSWORD},
}
_REF_TEMPLATE = "#/components/schemas/{name}"
_NEEDS_TOKEN = (errors.TokenMissingError, errors.TokenRefusedError)
_READS_BODY = (
    errors.MalformedJsonError,
    errors.InvalidFieldError,
    errors.JsonTooLargeError,
    errors.NotJsonError,
)
_GIVES_TOKENS = (*_READS_BODY, errors.OriginRefusedError)
_ENDS_OTHERS = (
    *_NEEDS_TOKEN,
    *_READS_BODY,
    errors.CredentialsRefusedError,
    errors.ReauthenticationRequiredError,
)
_ID_PARAMETER: Json = {
    "name": "session_id",
    "in": "path",
    "required": True,
    "schema": {"type": "string"},
    "description": "`id` of the list, the `sid` of the session's tokens.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Operation:
    """One method of one path; `refusals` without what all of them may answer."""

    name: str
    summary: str
    success: Mapping[str, Json]
    refusals: tuple[type[ProblemError], ...]
    security: tuple[Json, ...] = (_BEARER,)
    body: str | None = None
    is_body_required: bool = True
    is_counted: bool = False  # it checks a password or spends a token: 429
    description: str = ""
    parameters: tuple[Json, ...] = ()


def component_schemas(settings: Settings) -> dict[str, Json]:
    """The structs as JSON Schema, with what only the settings or the services know."""
    structs = (*_STRUCTS, schemas.RegistrationReceived) if _is_silent(settings) else _STRUCTS
    _, components = msgspec.json.schema_components(structs, ref_template=_REF_TEMPLATE)
    for schema in components.values():
        for name, member in schema["properties"].items():
            if name.endswith("_at"):
                member["format"] = "date-time"
            if name.endswith("password"):
                member["format"] = "password"
    for body, member in (("RegisterBody", "password"), ("ChangePasswordBody", "new_password")):
        components[body]["properties"][member] |= _password_bounds(settings)
    return components


def paths(settings: Settings) -> dict[str, Json]:
    """Path items of the account API."""
    table = {
        "/register": {"post": _register(settings)},
        **_entry_operations(),
        **_session_operations(),
    }
    return {
        PREFIX + path: {method: _describe(operation) for method, operation in item.items()}
        for path, item in table.items()
    }


def _register(settings: Settings) -> _Operation:
    success = _tokens()
    taken: tuple[type[ProblemError], ...] = (errors.EmailTakenError,)
    if _is_silent(settings):
        received = schema_ref("RegistrationReceived")
        text = "Received, and that is all: whether the e-mail was free is not said."
        success, taken = {"202": response(text, received, NEVER_STORED)}, ()
    return _Operation(
        name="register",
        summary="Make an account and log in.",
        success=success,
        refusals=(*_GIVES_TOKENS, *taken, errors.RegistrationClosedError),
        security=(),
        body="RegisterBody",
        is_counted=True,
    )


def _entry_operations() -> dict[str, dict[str, _Operation]]:
    log_in = _Operation(
        name="logIn",
        summary="Start a session.",
        success=_tokens(),
        refusals=(*_GIVES_TOKENS, errors.CredentialsRefusedError),
        security=(),
        body="LoginBody",
        is_counted=True,
        description="Unknown, wrong and disabled have one answer.",
    )
    refresh = _Operation(
        name="refreshTokens",
        summary="Spend a refresh token, get the next pair.",
        success=_tokens(),
        refusals=(*_GIVES_TOKENS, errors.CredentialsRefusedError),
        security=({}, _COOKIE),
        body="RefreshBody",
        is_counted=True,
        description='The token in the body, or `{"refresh_token_in": "cookie"}` and the cookie. '
        "The same request again within REFRESH_REPLAY_WINDOW gives the same successor.",
    )
    me = _Operation(
        name="getMe",
        summary="Who is calling.",
        success={"200": response("The user.", schema_ref("Me"), NEVER_STORED)},
        refusals=_NEEDS_TOKEN,
    )
    change_password = _Operation(
        name="changePassword",
        summary="Another password for whoever gives the current one.",
        success=_tokens(),
        refusals=(*_NEEDS_TOKEN, *_GIVES_TOKENS, errors.CredentialsRefusedError),
        body="ChangePasswordBody",
        is_counted=True,
        description="All other sessions end. This one goes on with the tokens of the answer, and "
        "with them alone.",
    )
    log_out = _Operation(
        name="logOut",
        summary="End this session at the server.",
        success={
            "204": response(
                "Ended; the cookie is cleared.", None, {**NEVER_STORED, "Set-Cookie": "SetCookie"}
            )
        },
        refusals=(*_NEEDS_TOKEN, errors.CredentialsRefusedError, errors.OriginRefusedError),
        security=(_BEARER, _COOKIE),
    )
    return {
        "/login": {"post": log_in},
        "/refresh": {"post": refresh},
        "/me": {"get": me},
        "/change-password": {"post": change_password},
        "/logout": {"post": log_out},
    }


def _session_operations() -> dict[str, dict[str, _Operation]]:
    again = "Needs a login of the last five minutes, or `current_password`."
    ended = {"204": response("Ended.", None, NEVER_STORED)}
    list_all = _Operation(
        name="listSessions",
        summary="The user's live sessions.",
        success={"200": response("They are.", schema_ref("SessionList"), NEVER_STORED)},
        refusals=_NEEDS_TOKEN,
    )
    end_others = _Operation(
        name="endOtherSessions",
        summary="End all sessions but this one.",
        success={"200": response("How many.", schema_ref("SessionsEnded"), NEVER_STORED)},
        refusals=_ENDS_OTHERS,
        body="EndSessionsBody",
        is_body_required=False,
        is_counted=True,
        description=again,
    )
    show_one = _Operation(
        name="getSession",
        summary="One live session of the user.",
        success={"200": response("The session.", schema_ref("Session"), NEVER_STORED)},
        refusals=(*_NEEDS_TOKEN, errors.SessionNotFoundError),
        parameters=(_ID_PARAMETER,),
    )
    end_one = _Operation(
        name="endSession",
        summary="End one session of the user.",
        success=ended,
        refusals=(*_ENDS_OTHERS, errors.SessionNotFoundError),
        body="EndSessionsBody",
        is_body_required=False,
        is_counted=True,
        description=f"{again} The session of the token itself may end at any time.",
        parameters=(_ID_PARAMETER,),
    )
    return {
        "/sessions": {"get": list_all, "delete": end_others},
        "/sessions/{session_id}": {"get": show_one, "delete": end_one},
    }


def _describe(operation: _Operation) -> Json:
    refusals = (*operation.refusals, errors.QueryRefusedError)
    described: Json = {
        "operationId": operation.name,
        "tags": ["accounts"],
        "summary": operation.summary,
        "description": operation.description,
        "security": list(operation.security),
        "parameters": list(operation.parameters),
        "responses": {
            **operation.success,
            **_refusals(refusals),
            **_not_now(is_counted=operation.is_counted),
        },
    }
    if operation.body is not None:
        described["requestBody"] = {
            "required": operation.is_body_required,
            "content": {
                "application/json": {
                    "schema": schema_ref(operation.body),
                    "example": _EXAMPLES[operation.body],
                }
            },
        }
    return described


def _refusals(classes: Iterable[type[ProblemError]]) -> dict[str, Json]:
    codes: dict[int, set[str]] = {}
    for error in classes:
        codes.setdefault(error.status, set()).add(error.code)
    return {
        str(status): problem(
            "Refused; `code` says why.",
            codes[status],
            {"WWW-Authenticate": "BearerChallenge"} if status == 401 else {},
        )
        for status in sorted(codes)
    }


def _not_now(*, is_counted: bool) -> dict[str, Json]:
    wait = {"Retry-After": "RetryAfter"}
    answers = {
        "500": problem("The server failed; it is logged.", ["server_error"]),
        "503": problem("Not now; nothing was done.", ["temporarily_unavailable"], wait),
    }
    if is_counted:
        answers["429"] = problem("Too many guesses; wait.", ["too_many_attempts"], wait)
    return answers


def _tokens() -> dict[str, Json]:
    headers = {**NEVER_STORED_OAUTH, "Set-Cookie": "SetCookie"}
    text = "Tokens; with `refresh_token_in: cookie` the refresh token is in the cookie instead."
    return {"200": response(text, schema_ref("TokenResponse"), headers)}


def _password_bounds(settings: Settings) -> dict[str, Any]:
    return {
        "minLength": settings.password_min_length,
        "maxLength": settings.password_max_length,
        "description": "Length counts code points after NFC; common passwords are refused.",
    }


def _is_silent(settings: Settings) -> bool:
    return settings.registration_silent == "yes"
