"""`GET /openapi.json`: the OpenAPI 3.1 description of everything on the public port.

Built once at the start from the grant registry, the settings and the structs of the account API,
and served as bytes from memory. Litestar's own generator is off: it does not see raw handlers.
"""

from collections.abc import Mapping

import msgspec
from litestar.handlers import ASGIRouteHandler

from token_server.config import Settings
from token_server.grants.base import Grant
from token_server.grants.registry import GRANTS
from token_server.runtime import Runtime
from token_server.web import (
    openapi_account,
    openapi_forward_auth,
    openapi_oauth,
    openapi_parts,
    openapi_status,
    openapi_tokens,
)
from token_server.web.openapi_parts import Json
from token_server.web.well_known import Document, document_handler

OPENAPI_PATH = "/openapi.json"
_MAX_AGE_S = 300
# Of the interface, not of the program: which release runs is nobody's business (ASVS 13.4.6).
_API_VERSION = "1"
_DESCRIPTION = """\
A token server: RS256 access tokens (RFC 9068) that every service verifies with the public keys.

Under `/oauth2` errors are those of RFC 6749 §5.2, everywhere else RFC 9457 problem documents with
a stable `code`. `HEAD` works wherever `GET` does, public documents answer `OPTIONS`, any other
method is 405 with `Allow`, an unknown path 404, a path beyond 2048 characters 414. No answer
repeats what was sent. Every answer has an `X-Request-Id`.
"""
_TAGS = (
    ("tokens", "The OAuth 2.0 endpoints: get, give back and examine tokens."),
    ("accounts", "People: registration, login, their password, their sessions and API keys."),
    ("status lists", "What was revoked, for whoever verifies tokens without asking."),
    ("documents", "Public, cacheable, readable from every origin."),
    ("health", "For load balancers and orchestrators."),
)


def openapi_handler(runtime: Runtime) -> ASGIRouteHandler:
    """The handler of the document for these settings."""
    body = msgspec.json.encode(openapi_document(runtime.settings, GRANTS))
    document = Document.of(body, _MAX_AGE_S)
    return document_handler(OPENAPI_PATH, lambda: document)


def openapi_document(settings: Settings, grants: Mapping[str, Grant]) -> Json:
    """The whole description; URLs come from the configured issuer, never from a header."""
    own = openapi_oauth.document_operation(
        "getOpenApi", "This description.", {"type": "object", "required": ["openapi", "paths"]}
    )
    return {
        "openapi": "3.1.1",
        "info": {
            "title": "Token Server",
            "version": _API_VERSION,
            "description": _DESCRIPTION,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": settings.issuer.rstrip("/")}],
        "tags": [{"name": name, "description": text} for name, text in _TAGS],
        "security": [],
        "paths": {
            **openapi_oauth.paths(settings, grants),
            **openapi_tokens.paths(),
            **openapi_forward_auth.paths(),
            **openapi_account.paths(settings),
            **openapi_status.paths(),
            OPENAPI_PATH: {"get": own},
        },
        "components": {
            "schemas": {
                **openapi_parts.SCHEMAS,
                **openapi_oauth.schemas(grants),
                **openapi_tokens.SCHEMAS,
                **openapi_account.component_schemas(settings),
                **openapi_status.SCHEMAS,
            },
            "headers": openapi_parts.HEADERS,
            "securitySchemes": {
                **openapi_oauth.SECURITY_SCHEMES,
                **openapi_account.SECURITY_SCHEMES,
                **openapi_forward_auth.SECURITY_SCHEMES,
            },
        },
    }
