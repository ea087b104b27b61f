"""The OpenAPI description of what happens to tokens after they were issued: revocation and
introspection (RFC 7009, RFC 7662, RFC 9701)."""

from collections.abc import Mapping

from token_server.services.introspection import MEDIA_TYPE
from token_server.services.metadata import INTROSPECTION_PATH, REVOCATION_PATH
from token_server.web.openapi_parts import (
    NEVER_STORED,
    Json,
    oauth_codes,
    oauth_error,
    response,
    schema_ref,
)

_FORM = "application/x-www-form-urlencoded"
_BASIC = "clientBasic"
_INSTANT: Json = {"type": "integer", "minimum": 0, "description": "Epoch seconds."}
_AUDIENCE: Json = {
    "oneOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 2}]
}
_STRING: Json = {"type": "string"}

SCHEMAS: Mapping[str, Json] = {
    "TokenForm": {
        "type": "object",
        "required": ["token"],
        "properties": {
            "token": {
                "type": "string",
                "minLength": 1,
                "description": "A refresh token or an access token.",
            },
            "token_type_hint": {
                "type": "string",
                "description": "Taken and not looked at: the kinds cannot be mistaken.",
            },
            "client_id": {"type": "string", "description": "When no Authorization header says it."},
            "client_secret": {
                "type": "string",
                "format": "password",
                "description": "Method `client_secret_post`; not together with an Authorization "
                "header.",
            },
        },
    },
    "Introspection": {
        "description": "RFC 7662 §2.2. Of a token that is not active, or not for the asker to know "
        "about, nothing but `active`.",
        "oneOf": [
            {
                "type": "object",
                "title": "Not active",
                "required": ["active"],
                "properties": {"active": {"const": False}},
                "additionalProperties": False,
            },
            {
                "type": "object",
                "title": "Active",
                "required": ["active", "client_id", "exp", "iat", "sub", "aud", "iss"],
                "properties": {
                    "active": {"const": True},
                    "scope": _STRING,
                    "client_id": _STRING,
                    "token_type": {
                        "const": "Bearer",
                        "description": "Absent for a refresh token, which is for no service.",
                    },
                    "exp": _INSTANT,
                    "iat": _INSTANT,
                    "sub": _STRING,
                    "aud": _AUDIENCE,
                    "iss": {"type": "string", "format": "uri"},
                    "jti": _STRING,
                    "sid": {"type": "string", "description": "The session, of a user's token."},
                    "auth_time": _INSTANT,
                    "roles": {"type": "array", "items": _STRING},
                    "act": {
                        "type": "object",
                        "description": "Who acts for the subject (RFC 8693 §4.1).",
                        "additionalProperties": True,
                    },
                },
            },
        ],
    },
}


def paths() -> dict[str, Json]:
    """Path items of both endpoints."""
    return {
        REVOCATION_PATH: {"post": _revoke_operation()},
        INTROSPECTION_PATH: {"post": _introspect_operation()},
    }


def _revoke_operation() -> Json:
    return {
        "operationId": "revokeToken",
        "tags": ["tokens"],
        "summary": "Give a token back.",
        "description": "RFC 7009. A refresh token, and an access token of a login, end the whole "
        "session; another access token ends itself. Unknown tokens, dead ones and those of other "
        "clients change nothing and get the same answer.",
        "security": [{_BASIC: []}, {}],
        "requestBody": _form_body({"client_id": "demo-cli", "token": "rt_..."}),
        "responses": {
            "200": response("Done, or there was nothing to do.", None, NEVER_STORED),
            **_failures("The client is unknown, disabled or failed to authenticate."),
        },
    }


def _introspect_operation() -> Json:
    answered = response("What the token is worth now.", schema_ref("Introspection"), NEVER_STORED)
    answered["content"][MEDIA_TYPE] = {
        "schema": {
            "type": "string",
            "pattern": r"^[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+$",
            "description": "The same, signed for whoever asked (RFC 9701): claims `iss`, `aud`, "
            "`iat`, `token_introspection`. For requests that name this type in `Accept`.",
        }
    }
    return {
        "operationId": "introspectToken",
        "tags": ["tokens"],
        "summary": "Ask what a token is worth now.",
        "description": "RFC 7662. For confidential clients: about access tokens for an audience "
        "that the client serves, and about tokens of its own.",
        "security": [{_BASIC: []}, {}],
        "requestBody": _form_body({"client_id": "orders", "client_secret": "ts_...", "token": "e"}),
        "responses": {
            "200": answered,
            **_failures("The client is public, unknown, disabled or failed to authenticate."),
        },
    }


def _form_body(example: Json) -> Json:
    content = {"schema": schema_ref("TokenForm"), "example": example}
    return {"required": True, "content": {_FORM: content}}


def _failures(unauthorized: str) -> dict[str, Json]:
    retry = {"Retry-After": "RetryAfter"}
    not_now = ["temporarily_unavailable"]
    return {
        "400": oauth_error("The request is malformed or lacks the token.", ["invalid_request"]),
        "401": oauth_error(unauthorized, oauth_codes(401), {"WWW-Authenticate": "BasicChallenge"}),
        "413": oauth_error("The body is larger than 16 KiB.", oauth_codes(413)),
        "415": oauth_error("The body is not a form in UTF-8.", oauth_codes(415)),
        "429": oauth_error("Too many wrong secrets.", not_now, retry),
        "500": oauth_error("The server failed; it is logged.", ["server_error"]),
        "503": oauth_error("Not now: nothing was changed, try again.", not_now, retry),
    }
