"""What the OpenAPI document is built of: responses, headers, error shapes, security schemes.

The error codes come from the classes that raise them, so that the document cannot name one that
is never sent. Everything is plain data (OpenAPI 3.1, JSON Schema 2020-12).
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from token_server.errors import OAuthError

Json = dict[str, Any]

_HEADERS: Mapping[str, Json] = {
    "RequestId": {
        "description": "Names this request in the server's log; always the server's own.",
        "schema": {"type": "string", "pattern": "^[A-Za-z0-9_-]{16}$"},
    },
    "RetryAfter": {
        "description": "Seconds to wait before the same request may succeed.",
        "schema": {"type": "string", "pattern": "^[1-9][0-9]*$"},
    },
    "NoStore": {
        "description": "Never stored by any cache.",
        "schema": {"type": "string", "const": "no-store"},
    },
    "NoCache": {
        "description": "For HTTP/1.0 caches (RFC 6749 §5.1).",
        "schema": {"type": "string", "const": "no-cache"},
    },
    "PublicCache": {
        "description": "How long anybody may keep the document.",
        "schema": {"type": "string", "pattern": "^public, max-age=[0-9]+"},
    },
    "ETag": {
        "description": "Strong: changes with every byte of the document.",
        "schema": {"type": "string", "pattern": '^"[0-9a-f]{32}"$'},
    },
    "AnyOrigin": {
        "description": "The document is public and readable by every web page.",
        "schema": {"type": "string", "const": "*"},
    },
    "BasicChallenge": {
        "description": "The scheme for client authentication (RFC 6749 §5.2).",
        "schema": {"type": "string", "pattern": "^Basic realm="},
    },
    "BearerChallenge": {
        "description": "The scheme; an error code only where a token was sent (RFC 6750 §3).",
        "schema": {"type": "string", "pattern": "^Bearer realm="},
    },
    "Identity": {
        "description": "Who passes; empty where there is nothing to say.",
        "schema": {"type": "string", "pattern": "^[ -~]*$"},
    },
    "FreshToken": {
        "description": "`Bearer` and the token for `token_audience`; empty without that.",
        "schema": {"type": "string", "pattern": "^(Bearer [A-Za-z0-9._-]+)?$"},
    },
    "SetCookie": {
        "description": "`__Host-`, `HttpOnly`, `Secure`, `SameSite=Strict`; only in cookie mode.",
        "schema": {"type": "string", "pattern": "^__Host-"},
    },
}
NEVER_STORED = {"Cache-Control": "NoStore"}
NEVER_STORED_OAUTH = {"Cache-Control": "NoStore", "Pragma": "NoCache"}

_PROBLEM_SCHEMA: Json = {
    "type": "object",
    "description": "RFC 9457; programs decide by `code`, which is stable.",
    "required": ["type", "title", "status", "code"],
    "properties": {
        "type": {"const": "about:blank"},
        "title": {"type": "string", "description": "The phrase of the status."},
        "status": {"type": "integer", "minimum": 400, "maximum": 599},
        "code": {"type": "string", "pattern": "^[a-z_]+$"},
        "detail": {"type": "string", "description": "For people; with `invalid_field`."},
        "field": {"type": "string", "description": "The member that `detail` is about."},
    },
}
_OAUTH_ERROR_SCHEMA: Json = {
    "type": "object",
    "description": "RFC 6749 §5.2; programs decide by `error`.",
    "required": ["error", "error_description"],
    "properties": {
        "error": {"type": "string"},
        "error_description": {
            "type": "string",
            "description": "For developers; a constant of the server, never input.",
            "pattern": r"^[\x20-\x21\x23-\x5B\x5D-\x7E]*$",
        },
    },
}
SCHEMAS: Mapping[str, Json] = {"Problem": _PROBLEM_SCHEMA, "OAuthError": _OAUTH_ERROR_SCHEMA}
_OPTIONAL_HEADERS = frozenset({"SetCookie"})
# Without `required` a validator would accept an answer that lacks its header.
HEADERS = {
    name: {**header, "required": name not in _OPTIONAL_HEADERS} for name, header in _HEADERS.items()
}


def schema_ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def response(
    description: str,
    schema: Json | None,
    headers: Mapping[str, str] | None = None,
    media_type: str = "application/json",
) -> Json:
    """One response; `headers` maps the names of headers to names in HEADERS."""
    named = {"X-Request-Id": "RequestId", **(headers or {})}
    result: Json = {
        "description": description,
        "headers": {name: {"$ref": f"#/components/headers/{part}"} for name, part in named.items()},
    }
    if schema is not None:
        result["content"] = {media_type: {"schema": schema}}
    return result


def problem(
    description: str, codes: Iterable[str], headers: Mapping[str, str] | None = None
) -> Json:
    """A problem document whose `code` is one of `codes`."""
    schema = {
        "allOf": [schema_ref("Problem")],
        "properties": {"code": {"enum": sorted(codes)}},
    }
    return response(
        description, schema, {**NEVER_STORED, **(headers or {})}, "application/problem+json"
    )


def oauth_error(
    description: str, codes: Iterable[str], headers: Mapping[str, str] | None = None
) -> Json:
    """An error of the token endpoint whose `error` is one of `codes`."""
    schema = {
        "allOf": [schema_ref("OAuthError")],
        "properties": {"error": {"enum": sorted(codes)}},
    }
    return response(description, schema, {**NEVER_STORED_OAUTH, **(headers or {})})


def oauth_codes(status: int) -> list[str]:
    """The codes that the classes of errors.py send with this status."""
    return sorted({error.error for error in _subclasses(OAuthError) if error.status == status})


def _subclasses(parent: type[OAuthError]) -> Iterator[type[OAuthError]]:
    for child in parent.__subclasses__():
        yield child
        yield from _subclasses(child)
