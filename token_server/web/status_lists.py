"""`/oauth2/status-lists` and the lists below it (draft-ietf-oauth-status-list-21 §8, §9).

Public, for every origin, GET and HEAD with ETag; errors in the shape of /oauth2. A list may be
cached for its `ttl` and no longer: that is how soon a revocation is to be known.
"""

import hashlib

import msgspec
from litestar import asgi
from litestar.enums import ScopeType
from litestar.handlers import ASGIRouteHandler
from litestar.types import HTTPScope, Receive, Scope, Send

from token_server.core.status_list import MEDIA_TYPE, PATH, parse_name
from token_server.errors import UnavailableError
from token_server.runtime import Runtime
from token_server.services.status_lists import StatusLists
from token_server.web.answers import (
    Answer,
    failure_answer,
    http_error_answer,
    send_answer,
)
from token_server.web.well_known import CORS, Document, document_answer, preflight_answer

ONE_LIST = PATH + "/{name}"
_ALLOW = (b"allow", b"GET, HEAD, OPTIONS")


def status_list_handler(runtime: Runtime) -> ASGIRouteHandler:
    """The aggregation and the lists as one mount (see web/account.py for why)."""
    lists = StatusLists(runtime)

    @asgi(PATH, is_mount=True, copy_scope=False)
    async def status_lists(scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG001
        if scope["type"] != ScopeType.HTTP:
            return
        rest = scope["path"]  # behind the prefix, with a slash at its end
        text = rest.removeprefix("/").removesuffix("/")
        scope["path_template"] = ONE_LIST if text else PATH  # for the metrics
        answer = await _answer(scope, lists, text if rest.startswith("/") else None)
        await send_answer(send, answer, without_body=scope["method"] == "HEAD")

    return status_lists


async def _answer(scope: HTTPScope, lists: StatusLists, text: str | None) -> Answer:
    match scope["method"]:
        case "GET" | "HEAD":
            try:
                return await _read(scope, lists, text)
            except UnavailableError as error:
                return failure_answer(PATH, error)
        case "OPTIONS":
            return preflight_answer()
        case _:
            answer = http_error_answer(PATH, 405)
            others = tuple(header for header in answer.headers if header[0] != b"allow")
            return Answer(answer.status, (*others, _ALLOW), answer.body)


async def _read(scope: HTTPScope, lists: StatusLists, text: str | None) -> Answer:
    if text == "":
        body = msgspec.json.encode({"status_lists": await lists.uris()})
        etag = b'"%s"' % hashlib.sha256(body).hexdigest()[:32].encode("ascii")
        return _document_answer(scope, lists, "application/json", (body, etag))
    name = None if text is None else parse_name(text)
    signed = None if name is None else await lists.find(name)
    if signed is None:
        return http_error_answer(PATH, 404)
    return _document_answer(scope, lists, MEDIA_TYPE, (signed.body, signed.etag))


def _document_answer(
    scope: HTTPScope, lists: StatusLists, media_type: str, content: tuple[bytes, bytes]
) -> Answer:
    """200 or 304; kept by caches for one `ttl` and no longer, not even while the server is away."""
    body, etag = content
    headers = (
        (b"content-type", media_type.encode("ascii")),
        (b"cache-control", b"public, max-age=%d, no-transform" % lists.ttl_s),
        (b"etag", etag),
        *CORS,
    )
    return document_answer(scope, Document(body, etag, headers))
