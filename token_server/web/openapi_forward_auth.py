"""The OpenAPI description of forward authentication, for whoever configures a proxy."""

from collections.abc import Mapping

from token_server.web.forward_auth import PATH
from token_server.web.openapi_parts import NEVER_STORED, Json, oauth_error, response

_CREDENTIAL, _KEY, _PROXY = "anyAccessToken", "anyApiKey", "forwardAuthClient"
_URI: Json = {"type": "string", "format": "uri", "maxLength": 512}
_IDENTITY = ("Subject", "Client-Id", "Scope", "Roles", "Session", "Actor", "Api-Key-Id")
_CHALLENGE = {"WWW-Authenticate": "BearerChallenge"}
_RETRY = {"Retry-After": "RetryAfter"}

SECURITY_SCHEMES: Mapping[str, Json] = {
    _CREDENTIAL: {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "JWT",
        "description": "An access token of this server for the audience that is demanded.",
    },
    _KEY: {
        "type": "apiKey",
        "in": "header",
        "name": "X-API-Key",
        "description": "An API key of a user; not together with an Authorization header.",
    },
    _PROXY: {
        "type": "apiKey",
        "in": "header",
        "name": "X-Forward-Auth-Client",
        "description": "`Basic` and the proxy's client credentials (RFC 6749 §2.3.1), where it "
        "demands a token; set by the proxy, never by clients.",
    },
}


def paths() -> dict[str, Json]:
    """The path item."""
    return {PATH: {"get": _operation()}}


def _operation() -> Json:
    headers = {f"X-Auth-{name}": "Identity" for name in _IDENTITY}
    headers["Authorization"] = "FreshToken"
    not_now = ["temporarily_unavailable"]
    return {
        "operationId": "forwardAuth",
        "tags": ["tokens"],
        "summary": "May this request pass?",
        "description": "For nginx `auth_request`, Traefik forwardAuth, Caddy `forward_auth`: the "
        "request's own headers come in, the identity goes out. The query is the operator's.",
        "security": [
            {_CREDENTIAL: []},
            {_KEY: []},
            {_CREDENTIAL: [], _PROXY: []},
            {_KEY: [], _PROXY: []},
        ],
        "parameters": [
            _parameter("audience", _URI, "For whom a token must be; DEFAULT_AUDIENCE unless set."),
            _parameter("scope", _list("string"), "All of them; also separated by spaces."),
            _parameter("role", _list("string"), "One of them, as the user has them now."),
            _parameter(
                "token_audience",
                _URI,
                "Asks for a fresh access token for the service behind, by the policy of the "
                "proxy's client (RFC 8693).",
            ),
        ],
        "responses": {
            "200": response("It may.", None, {**NEVER_STORED, **headers}),
            "400": oauth_error(
                "The proxy asks wrongly, or may not have the token; see the server's log.",
                ["invalid_request"],
            ),
            "401": oauth_error(
                "No credentials, several, or bad ones.",
                ["invalid_request", "invalid_token"],
                _CHALLENGE,
            ),
            "403": oauth_error(
                "A scope or every one of the roles is missing.", ["insufficient_scope"], _CHALLENGE
            ),
            "429": oauth_error("Too many wrong API keys or secrets.", not_now, _RETRY),
            "500": oauth_error("The server failed; it is logged.", ["server_error"]),
            "503": oauth_error("Not now: try again.", not_now, _RETRY),
        },
    }


def _parameter(name: str, schema: Json, description: str) -> Json:
    return {
        "name": name,
        "in": "query",
        "required": False,
        "schema": schema,
        "description": description,
    }


def _list(kind: str) -> Json:
    return {"type": "array", "items": {"type": kind}}
