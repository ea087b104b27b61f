"""The OpenAPI description of the token endpoint, the public documents and the health checks.

Forms and grants follow the registry (RFC 6749 §4, §6); nothing here is decided a second time.
"""

from collections.abc import Mapping

from token_server.config import Settings
from token_server.core.client_auth import ClientAuthMethod
from token_server.core.client_policy import TOKEN_EXCHANGE
from token_server.core.token_exchange import ACCESS_TOKEN_TYPE, API_KEY_TYPE, SUBJECT_TOKEN_TYPES
from token_server.crypto.rsa_keys import ALG
from token_server.grants.base import ClientPolicy, Grant
from token_server.services.metadata import JWKS_PATH, TOKEN_PATH
from token_server.web.openapi_parts import (
    NEVER_STORED,
    NEVER_STORED_OAUTH,
    Json,
    oauth_codes,
    oauth_error,
    problem,
    response,
    schema_ref,
)
from token_server.web.well_known import METADATA_PATHS

_FORM = "application/x-www-form-urlencoded"
_BASIC = "clientBasic"
_WORDS = "^[\\x21\\x23-\\x5B\\x5D-\\x7E]+( [\\x21\\x23-\\x5B\\x5D-\\x7E]+)*$"
_SCOPE: Json = {
    "type": "string",
    "pattern": _WORDS,
    "examples": ["orders:read orders:write"],
}
SECURITY_SCHEMES: Mapping[str, Json] = {
    _BASIC: {
        "type": "http",
        "scheme": "basic",
        "description": "Client authentication `client_secret_basic` (RFC 6749 §2.3.1): client id "
        "and secret, each form-encoded. Or `client_id` and `client_secret` in the form; a public "
        "client sends `client_id` alone.",
    }
}
# The grants' own parameters; a grant whose parameter is missing here fails the tests.
_GRANT_PARAMETERS: Mapping[str, Json] = {
    "username": {"type": "string", "minLength": 1, "description": "The user's e-mail."},
    "password": {
        "type": "string",
        "minLength": 1,
        "format": "password",
        "description": "As it was set; nothing is cut off.",
    },
    "refresh_token": {
        "type": "string",
        "minLength": 1,
        "description": "Spent by this request: use the one in the answer from then on.",
    },
    "subject_token": {
        "type": "string",
        "minLength": 1,
        "description": "For whom: an access token for an audience that the client serves, or of "
        "its own, or an API key.",
    },
    "subject_token_type": {
        "enum": list(SUBJECT_TOKEN_TYPES),
        "description": "What subject_token is.",
    },
    "actor_token": {
        "type": "string",
        "minLength": 1,
        "description": "Not needed. If sent, an access token of the client in its own name.",
    },
    "actor_token_type": {"const": ACCESS_TOKEN_TYPE, "description": "With actor_token alone."},
    "requested_token_type": {
        "const": ACCESS_TOKEN_TYPE,
        "description": "May be left out: there is nothing else.",
    },
    "audience": {
        "type": "string",
        "examples": ["https://orders.example"],
        "description": "The service that the token is for, as `resource`: one that the client is "
        "registered to exchange for. May be left out when there is only one.",
    },
}
# What a person would begin with; the clients are those of `dev`.
_GRANT_EXAMPLES: Mapping[str, Json] = {
    "client_credentials": {"client_id": "demo-service", "client_secret": "ts_..."},
    "password": {"client_id": "demo-cli", "username": "demo@example.com", "password": "..."},
    "refresh_token": {"client_id": "demo-cli", "refresh_token": "rt_..."},
    TOKEN_EXCHANGE: {
        "client_id": "gateway",
        "client_secret": "ts_...",
        "subject_token": "tsk_...",
        "subject_token_type": API_KEY_TYPE,
        "audience": "https://orders.example",
    },
}
_GRANT_TITLES = {
    "client_credentials": "A machine in its own name (RFC 6749 §4.4)",
    "password": "A user's name and password, for clients that are allowed it (RFC 6749 §4.3)",
    "refresh_token": "The next token pair of a session (RFC 6749 §6)",
    TOKEN_EXCHANGE: "A narrower token for the next service (RFC 8693)",
}
_ENDPOINT_PARAMETERS: Mapping[str, Json] = {
    "scope": {
        **_SCOPE,
        "description": "Words (RFC 6749 §3.3): less than all that the client or the session has.",
    },
    "resource": {
        "type": "string",
        "format": "uri",
        "examples": ["https://orders.example"],
        "description": "The one service that the token is for (RFC 8707 §2).",
    },
    "client_id": {"type": "string", "description": "When no Authorization header says it."},
    "client_secret": {
        "type": "string",
        "format": "password",
        "description": "Method `client_secret_post`; not together with an Authorization header.",
    },
}


def schemas(grants: Mapping[str, Grant]) -> dict[str, Json]:
    """Component schemas, the form of each grant among them."""
    forms = {_form_name(name): _grant_form(grant) for name, grant in sorted(grants.items())}
    return {
        "TokenResponse": _token_response(),
        **forms,
        "JsonWebKeySet": _key_set(),
        "ServerMetadata": _metadata(grants),
        "Health": {
            "type": "object",
            "required": ["status"],
            "properties": {"status": {"enum": ["ok", "draining", "unavailable"]}},
        },
    }


def paths(settings: Settings, grants: Mapping[str, Grant]) -> dict[str, Json]:
    """Path items of everything but the account API."""
    documents = {
        JWKS_PATH: ("getKeys", "The public keys that verify access tokens (RFC 7517)."),
        METADATA_PATHS[0]: ("getServerMetadata", "Where everything is (RFC 8414)."),
        METADATA_PATHS[1]: ("getOpenIdConfiguration", "The same document for other libraries."),
    }
    return {
        TOKEN_PATH: {"post": _token_operation(settings, grants)},
        **{
            path: {"get": document_operation(name, summary, _document_schema(path))}
            for path, (name, summary) in documents.items()
        },
        "/livez": {"get": _health_operation("getLiveness", "Whether the process lives.")},
        "/readyz": {
            "get": _health_operation(
                "getReadiness", "Whether the process can do its work.", may_fail=True
            )
        },
    }


def document_operation(operation_id: str, summary: str, schema: Json) -> Json:
    """GET of a public document that is served from memory."""
    cached = {"ETag": "ETag", "Cache-Control": "PublicCache"}
    headers = {**cached, "Access-Control-Allow-Origin": "AnyOrigin"}
    return {
        "operationId": operation_id,
        "tags": ["documents"],
        "summary": summary,
        "security": [],
        "parameters": [
            {
                "name": "If-None-Match",
                "in": "header",
                "schema": {"type": "string"},
                "description": "An ETag of before: 304 when nothing has changed.",
            }
        ],
        "responses": {
            "200": response("The document.", schema, headers),
            "304": response("Unchanged.", None, headers),
            "500": problem("The server failed; it is logged.", ["server_error"]),
        },
    }


def _token_operation(settings: Settings, grants: Mapping[str, Grant]) -> Json:
    one_of = {name: schema_ref(_form_name(name)) for name in sorted(grants)}
    mapping = {name: ref["$ref"] for name, ref in one_of.items()}
    failures = {
        "400": oauth_error("Refused; `error` says why.", oauth_codes(400)),
        "401": oauth_error(
            "The client is unknown, disabled or failed to authenticate: one answer for all.",
            oauth_codes(401),
            {"WWW-Authenticate": "BasicChallenge"},
        ),
        "413": oauth_error("The body is larger than 16 KiB.", oauth_codes(413)),
        "415": oauth_error("The body is not a form in UTF-8.", oauth_codes(415)),
        "429": oauth_error(
            "Too many guesses or repetitions; nothing was spent.",
            ["temporarily_unavailable"],
            {"Retry-After": "RetryAfter"},
        ),
        "500": oauth_error("The server failed; it is logged.", ["server_error"]),
        "503": oauth_error(
            "Not now; nothing was spent, the same request may succeed later.",
            ["temporarily_unavailable"],
            {"Retry-After": "RetryAfter"},
        ),
    }
    return {
        "operationId": "getToken",
        "tags": ["tokens"],
        "summary": "Get or refresh tokens.",
        "description": "RFC 6749 §3.2. Parameters belong in the body: any query string is refused, "
        "and so is a repeated parameter. Unknown parameters are ignored, and one without a value "
        f"is as if left out. Access tokens live {settings.access_token_ttl_s} s unless the client "
        "has its own lifetime.",
        "security": [{_BASIC: []}, {}],
        "requestBody": {
            "required": True,
            "content": {
                _FORM: {
                    "schema": {
                        "oneOf": list(one_of.values()),
                        "discriminator": {"propertyName": "grant_type", "mapping": mapping},
                    },
                    "examples": {
                        name: {"value": {"grant_type": name, **_GRANT_EXAMPLES.get(name, {})}}
                        for name in sorted(grants)
                    },
                }
            },
        },
        "responses": {
            "200": response("Tokens.", schema_ref("TokenResponse"), NEVER_STORED_OAUTH),
            **failures,
        },
    }


def _form_name(grant_type: str) -> str:
    words = grant_type.rsplit(":", maxsplit=1)[-1].replace("-", "_").split("_")
    return "".join(word.capitalize() for word in words) + "Form"


def _grant_form(grant: Grant) -> Json:
    own = {name: _GRANT_PARAMETERS[name] for name in (*grant.required, *grant.optional)}
    is_for_all = grant.client_policy is ClientPolicy.ANY
    return {
        "type": "object",
        "title": _GRANT_TITLES.get(grant.grant_type, grant.grant_type),
        "description": f"For {'all' if is_for_all else 'confidential'} clients.",
        "required": ["grant_type", *grant.required],
        "properties": {
            "grant_type": {"type": "string", "const": grant.grant_type},
            **own,
            **_ENDPOINT_PARAMETERS,
        },
    }


def _token_response() -> Json:
    return {
        "type": "object",
        "description": "RFC 6749 §5.1, RFC 8693 §2.2.1.",
        "required": ["access_token", "token_type", "expires_in"],
        "properties": {
            "access_token": {
                "type": "string",
                "pattern": r"^[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+$",
                "examples": ["eyJhbGciOiJSUzI1NiIs.eyJpc3MiOiJodHRwczov.AbCdEf"],
                "description": "A JWT (RFC 9068), signed with RS256.",
            },
            "token_type": {"const": "Bearer"},
            "expires_in": {"type": "integer", "minimum": 1, "description": "Seconds."},
            "refresh_token": {
                "type": "string",
                "description": "Opaque, and new with every refresh. Absent for machines, for "
                "clients without the grant, and when it is in the cookie.",
            },
            "scope": {**_SCOPE, "description": "What was granted; absent when empty."},
            "issued_token_type": {
                "const": ACCESS_TOKEN_TYPE,
                "description": "Of an exchange alone (RFC 8693 §2.2.1).",
            },
        },
    }


def _key_set() -> Json:
    number = {"type": "string", "pattern": "^[A-Za-z0-9_-]+$"}
    key = {
        "type": "object",
        "required": ["kty", "use", "alg", "kid", "n", "e"],
        "properties": {
            "kty": {"const": "RSA"},
            "use": {"const": "sig"},
            "alg": {"const": "RS256"},
            "kid": {"type": "string", "description": "RFC 7638 thumbprint; named by the tokens."},
            "n": number,
            "e": number,
        },
    }
    return {
        "type": "object",
        "description": "RFC 7517 §5; the signing key first.",
        "required": ["keys"],
        "properties": {"keys": {"type": "array", "items": key}},
    }


def _metadata(grants: Mapping[str, Grant]) -> Json:
    methods = [method.value for method in ClientAuthMethod]
    url = {"type": "string", "format": "uri"}
    properties = {
        "issuer": url,
        "token_endpoint": url,
        "jwks_uri": url,
        "status_list_aggregation_endpoint": url,
        "response_types_supported": {"type": "array", "maxItems": 0},
        "grant_types_supported": {"type": "array", "items": {"enum": sorted(grants)}},
        "token_endpoint_auth_methods_supported": {"type": "array", "items": {"enum": methods}},
        "revocation_endpoint": url,
        "revocation_endpoint_auth_methods_supported": {
            "type": "array",
            "items": {"enum": methods},
        },
        "introspection_endpoint": url,
        "introspection_endpoint_auth_methods_supported": {
            "type": "array",
            "items": {"enum": methods},
        },
        "introspection_signing_alg_values_supported": {"type": "array", "items": {"const": ALG}},
    }
    return {"type": "object", "required": list(properties), "properties": properties}


def _document_schema(path: str) -> Json:
    return schema_ref("JsonWebKeySet" if path == JWKS_PATH else "ServerMetadata")


def _health_operation(operation_id: str, summary: str, *, may_fail: bool = False) -> Json:
    responses = {
        "200": response("Yes.", schema_ref("Health"), NEVER_STORED),
        "500": problem("The server failed; it is logged.", ["server_error"]),
    }
    if may_fail:
        responses["503"] = response(
            "No: stopping, or something it needs is away.", schema_ref("Health"), NEVER_STORED
        )
    return {
        "operationId": operation_id,
        "tags": ["health"],
        "summary": summary,
        "security": [],
        "responses": responses,
    }
