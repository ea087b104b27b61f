"""The OpenAPI description of /api/auth: bodies from the structs that decode and encode them.

The bounds of a new password and the answers of a registration follow the settings.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from token_server import errors
from token_server.config import Settings
from token_server.errors import ProblemError
from token_server.web import openapi_api_keys, openapi_operations, schemas
from token_server.web.account_call import PREFIX
from token_server.web.cookies import COOKIE_NAME
from token_server.web.openapi_operations import (
    BEARER,
    NEEDS_RECENT_LOGIN,
    NEEDS_TOKEN,
    READ_SECURITY,
    READS,
    READS_BODY,
    RECENT_LOGIN,
    Operation,
    describe,
)
from token_server.web.openapi_parts import (
    NEVER_STORED,
    NEVER_STORED_OAUTH,
    Json,
    response,
    schema_ref,
)

_COOKIE: Json = {"refreshCookie": []}
SECURITY_SCHEMES: Mapping[str, Json] = {
    **openapi_operations.SECURITY_SCHEMES,
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
    *openapi_api_keys.STRUCTS,
)
_PASSWORD = "seven quiet otters under glass"
_EXAMPLES: Mapping[str, Json] = {
    "RegisterBody": {"email": "ada@example.org", "password": _PASSWORD, "name": "Ada Lovelace"},
    "LoginBody": {"email": "ada@example.org", "password": _PASSWORD},
    "RefreshBody": {"refresh_token": "rt_..."},
    "ChangePasswordBody": {"current_password": _PASSWORD, "new_password": f"{_PASSWORD}!"},
    "EndSessionsBody": {"current_password": _PASSWORD},
}
_REF_TEMPLATE = "#/components/schemas/{name}"
_GIVES_TOKENS = (*READS_BODY, errors.OriginRefusedError)
_ID_PARAMETER: Json = {
    "name": "session_id",
    "in": "path",
    "required": True,
    "schema": {"type": "string"},
    "description": "`id` of the list, the `sid` of the session's tokens.",
}


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
        **openapi_api_keys.operations(),
    }
    return {
        PREFIX + path: {method: describe(operation) for method, operation in item.items()}
        for path, item in table.items()
    }


def _register(settings: Settings) -> Operation:
    success = _tokens()
    taken: tuple[type[ProblemError], ...] = (errors.EmailTakenError,)
    if _is_silent(settings):
        received = schema_ref("RegistrationReceived")
        text = "Received, and that is all: whether the e-mail was free is not said."
        success, taken = {"202": response(text, received, NEVER_STORED)}, ()
    return Operation(
        name="register",
        summary="Make an account and log in.",
        success=success,
        refusals=(*_GIVES_TOKENS, *taken, errors.RegistrationClosedError),
        security=(),
        body="RegisterBody",
        example=_EXAMPLES["RegisterBody"],
        is_counted=True,
    )


def _entry_operations() -> dict[str, dict[str, Operation]]:
    log_in = Operation(
        name="logIn",
        summary="Start a session.",
        success=_tokens(),
        refusals=(*_GIVES_TOKENS, errors.CredentialsRefusedError),
        security=(),
        body="LoginBody",
        example=_EXAMPLES["LoginBody"],
        is_counted=True,
        description="Unknown, wrong and disabled have one answer.",
    )
    refresh = Operation(
        name="refreshTokens",
        summary="Spend a refresh token, get the next pair.",
        success=_tokens(),
        refusals=(*_GIVES_TOKENS, errors.CredentialsRefusedError),
        security=({}, _COOKIE),
        body="RefreshBody",
        example=_EXAMPLES["RefreshBody"],
        is_counted=True,
        description='The token in the body, or `{"refresh_token_in": "cookie"}` and the cookie. '
        "The same request again within REFRESH_REPLAY_WINDOW gives the same successor.",
    )
    me = Operation(
        name="getMe",
        summary="Who is calling.",
        success={"200": response("The user.", schema_ref("Me"), NEVER_STORED)},
        refusals=READS,
        security=READ_SECURITY,
        is_counted=True,
    )
    change_password = Operation(
        name="changePassword",
        summary="Another password for whoever gives the current one.",
        success=_tokens(),
        refusals=(*NEEDS_TOKEN, *_GIVES_TOKENS, errors.CredentialsRefusedError),
        body="ChangePasswordBody",
        example=_EXAMPLES["ChangePasswordBody"],
        is_counted=True,
        description="All other sessions end. This one goes on with the tokens of the answer, and "
        "with them alone.",
    )
    log_out = Operation(
        name="logOut",
        summary="End this session at the server.",
        success={
            "204": response(
                "Ended; the cookie is cleared.", None, {**NEVER_STORED, "Set-Cookie": "SetCookie"}
            )
        },
        refusals=(*NEEDS_TOKEN, errors.CredentialsRefusedError, errors.OriginRefusedError),
        security=(BEARER, _COOKIE),
    )
    return {
        "/login": {"post": log_in},
        "/refresh": {"post": refresh},
        "/me": {"get": me},
        "/change-password": {"post": change_password},
        "/logout": {"post": log_out},
    }


def _session_operations() -> dict[str, dict[str, Operation]]:
    ended = {"204": response("Ended.", None, NEVER_STORED)}
    list_all = Operation(
        name="listSessions",
        summary="The user's live sessions.",
        success={"200": response("They are.", schema_ref("SessionList"), NEVER_STORED)},
        refusals=READS,
        security=READ_SECURITY,
        is_counted=True,
    )
    end_others = Operation(
        name="endOtherSessions",
        summary="End all sessions but this one.",
        success={"200": response("How many.", schema_ref("SessionsEnded"), NEVER_STORED)},
        refusals=NEEDS_RECENT_LOGIN,
        body="EndSessionsBody",
        example=_EXAMPLES["EndSessionsBody"],
        is_body_required=False,
        is_counted=True,
        description=RECENT_LOGIN,
    )
    show_one = Operation(
        name="getSession",
        summary="One live session of the user.",
        success={"200": response("The session.", schema_ref("Session"), NEVER_STORED)},
        refusals=(*READS, errors.SessionNotFoundError),
        security=READ_SECURITY,
        is_counted=True,
        parameters=(_ID_PARAMETER,),
    )
    end_one = Operation(
        name="endSession",
        summary="End one session of the user.",
        success=ended,
        refusals=(*NEEDS_RECENT_LOGIN, errors.SessionNotFoundError),
        body="EndSessionsBody",
        example=_EXAMPLES["EndSessionsBody"],
        is_body_required=False,
        is_counted=True,
        description=f"{RECENT_LOGIN} The session of the token itself may end at any time.",
        parameters=(_ID_PARAMETER,),
    )
    return {
        "/sessions": {"get": list_all, "delete": end_others},
        "/sessions/{session_id}": {"get": show_one, "delete": end_one},
    }


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
