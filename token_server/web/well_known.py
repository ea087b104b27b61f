"""Public documents, served from memory: JWKS (RFC 7517) and metadata (RFC 8414).

GET, HEAD and conditional requests (RFC 9110 §13) by ourselves: Litestar derives no HEAD and
evaluates no If-None-Match. CORS is open: the documents are public and take no credentials.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import msgspec
from litestar import asgi
from litestar.enums import ScopeType
from litestar.handlers import ASGIRouteHandler
from litestar.types import HTTPScope, Receive, Scope, Send

from token_server.grants.registry import GRANTS
from token_server.runtime import Runtime
from token_server.services.metadata import JWKS_PATH, server_metadata
from token_server.web.answers import Answer, problem_answer, send_answer
from token_server.web.requests import header_values

METADATA_PATHS = (
    "/.well-known/oauth-authorization-server",
    "/.well-known/openid-configuration",
)
_ALLOW = (b"allow", b"GET, HEAD, OPTIONS")
CORS = (
    (b"access-control-allow-origin", b"*"),
    (b"cross-origin-resource-policy", b"cross-origin"),
    (b"access-control-expose-headers", b"ETag"),
)
_PREFLIGHT = (
    *CORS,
    (b"access-control-allow-methods", b"GET, HEAD"),
    (b"access-control-allow-headers", b"If-None-Match"),
    (b"access-control-max-age", b"86400"),
)
METADATA_MAX_AGE_S = 3600
_STALE_WHILE_REVALIDATE_S = 60
_STALE_IF_ERROR_S = 86400


@dataclass(frozen=True, slots=True)
class Document:
    """Bytes and the headers that go with them; the strong ETag is their digest."""

    body: bytes
    etag: bytes
    headers: tuple[tuple[bytes, bytes], ...]

    @classmethod
    def of(cls, body: bytes, max_age_s: int) -> "Document":
        etag = b'"%s"' % hashlib.sha256(body).hexdigest()[:32].encode("ascii")
        cache_control = (
            f"public, max-age={max_age_s}, stale-while-revalidate={_STALE_WHILE_REVALIDATE_S}, "
            f"stale-if-error={_STALE_IF_ERROR_S}, no-transform"
        )
        headers = (
            (b"content-type", b"application/json"),
            (b"cache-control", cache_control.encode("ascii")),
            (b"etag", etag),
            *CORS,
        )
        return cls(body, etag, headers)


def well_known_handlers(runtime: Runtime) -> list[ASGIRouteHandler]:
    """The handlers of all well-known documents over this runtime."""
    body = msgspec.json.encode(server_metadata(runtime.settings, GRANTS))
    metadata = Document.of(body, METADATA_MAX_AGE_S)
    return [
        document_handler(JWKS_PATH, _jwks_reader(runtime)),
        *(document_handler(path, lambda: metadata) for path in METADATA_PATHS),
    ]


def _jwks_reader(runtime: Runtime) -> Callable[[], Document]:
    """The key set of this instant; hashed again only when it has changed."""
    latest: list[Document] = []

    def read() -> Document:
        body = runtime.keyring.jwks(runtime.clock.now())
        if not latest or latest[0].body != body:
            latest[:] = [Document.of(body, runtime.settings.jwks_max_age_s)]
        return latest[0]

    return read


def document_handler(path: str, read: Callable[[], Document]) -> ASGIRouteHandler:
    """GET, HEAD and OPTIONS of what `read` returns."""

    @asgi(path, copy_scope=False)
    async def document(scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG001
        if scope["type"] == ScopeType.HTTP:
            answer = _answer(scope, read)
            await send_answer(send, answer, without_body=scope["method"] == "HEAD")

    return document


def _answer(scope: HTTPScope, read: Callable[[], Document]) -> Answer:
    match scope["method"]:
        case "GET" | "HEAD":
            return document_answer(scope, read())
        case "OPTIONS":
            return preflight_answer()
        case _:
            return problem_answer(405, "method_not_allowed", (_ALLOW,))


def document_answer(scope: HTTPScope, document: Document) -> Answer:
    """The document, or 304 when the client has it already."""
    if _is_unchanged(header_values(scope, b"if-none-match"), document.etag):
        return Answer(304, document.headers)
    return Answer(200, document.headers, document.body)


def preflight_answer() -> Answer:
    """To OPTIONS: any origin may read public documents."""
    return Answer(204, (_ALLOW, *_PREFLIGHT))


def _is_unchanged(if_none_match: list[str], etag: bytes) -> bool:
    """RFC 9110 §13.1.2: any of the listed tags, compared weakly, or `*`."""
    tags = [tag.strip() for value in if_none_match for tag in value.split(",")]
    return any(tag == "*" or tag.removeprefix("W/") == etag.decode("ascii") for tag in tags)
