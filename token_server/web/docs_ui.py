"""`/docs` in `token-server dev`: Swagger UI over /openapi.json, from files of this package.

Nothing comes from a CDN, and the page's policy lets nothing else in. `serve` has no such path: a
page with scripts on the origin of the refresh cookie would be the place for an attacker to start.
"""

from importlib import resources

from litestar import asgi
from litestar.enums import ScopeType
from litestar.handlers import ASGIRouteHandler
from litestar.types import Receive, Scope, Send

from token_server.web.answers import NO_STORE, Answer, problem_answer, send_answer

DOCS_PATH = "/docs"
# path -> (file below web/static, media type)
_FILES = {
    DOCS_PATH: ("docs.html", b"text/html; charset=utf-8"),
    f"{DOCS_PATH}/start.js": ("start.js", b"text/javascript; charset=utf-8"),
    f"{DOCS_PATH}/swagger-ui.css": ("swagger-ui/swagger-ui.css", b"text/css; charset=utf-8"),
    f"{DOCS_PATH}/swagger-ui-bundle.js": (
        "swagger-ui/swagger-ui-bundle.js",
        b"text/javascript; charset=utf-8",
    ),
}
# Scripts and styles as files of this origin, none inline; pictures of the style sheet are `data:`.
_POLICY = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    b"connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = (
    NO_STORE,
    (b"content-security-policy", _POLICY),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
)
_ALLOW = (b"allow", b"GET, HEAD")


def docs_handlers() -> list[ASGIRouteHandler]:
    """For `dev` alone; the files are read once, here."""
    static = resources.files("token_server.web") / "static"
    return [
        _file_handler(path, static.joinpath(*name.split("/")).read_bytes(), media_type)
        for path, (name, media_type) in _FILES.items()
    ]


def _file_handler(path: str, body: bytes, media_type: bytes) -> ASGIRouteHandler:
    found = Answer(200, ((b"content-type", media_type), *_HEADERS), body)

    @asgi(path, copy_scope=False)
    async def docs_file(scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG001
        if scope["type"] == ScopeType.HTTP:
            is_read = scope["method"] in ("GET", "HEAD")
            answer = found if is_read else problem_answer(405, "method_not_allowed", (_ALLOW,))
            await send_answer(send, answer, without_body=scope["method"] == "HEAD")

    return docs_file
