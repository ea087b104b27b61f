"""An issuer's public documents over ASGI and HTTP: JWKS, metadata, status lists.

GET and HEAD of what is there, 404 and 405 else. For tests: threads of the standard library, on
loopback only.
"""

import contextlib
import json
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping, MutableMapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple, TypeAlias

Documents: TypeAlias = Mapping[str, Callable[[], Mapping[str, object] | bytes]]
"""By path: JSON, or a status list token."""
AsgiApp: TypeAlias = Callable[
    [
        MutableMapping[str, Any],
        Callable[[], Awaitable[MutableMapping[str, Any]]],
        Callable[[MutableMapping[str, Any]], Awaitable[None]],
    ],
    Awaitable[None],
]

# Short, as of the real server in development: tests rotate keys.
_HEADERS = {"content-type": "application/json", "cache-control": "public, max-age=5"}
_LIST_HEADERS = {
    "content-type": "application/statuslist+jwt",
    "cache-control": "public, max-age=1",
}


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes


def answer(documents: Documents, method: str, path: str) -> Answer:
    """The whole response; a HEAD leaves the body to be dropped by its sender."""
    read = documents.get(path)
    if read is None:
        return Answer(404, {"content-length": "0"}, b"")
    if method not in {"GET", "HEAD"}:
        return Answer(405, {"allow": "GET, HEAD", "content-length": "0"}, b"")
    content = read()
    if isinstance(content, bytes):
        return Answer(200, {**_LIST_HEADERS, "content-length": str(len(content))}, content)
    body = json.dumps(content, separators=(",", ":")).encode("ascii")
    return Answer(200, {**_HEADERS, "content-length": str(len(body))}, body)


def asgi_app(documents: Documents) -> AsgiApp:
    """An ASGI 3 application; it takes part in `lifespan` by saying that all is well."""

    async def app(
        scope: MutableMapping[str, Any],
        receive: Callable[[], Awaitable[MutableMapping[str, Any]]],
        send: Callable[[MutableMapping[str, Any]], Awaitable[None]],
    ) -> None:
        if scope["type"] == "lifespan":
            while True:
                event = (await receive())["type"]
                await send({"type": f"{event}.complete"})
                if event == "lifespan.shutdown":
                    return
        if scope["type"] != "http":
            return
        # Mounted, `path` has the mount point in front (ASGI 2.4), or a slash behind (Litestar).
        path = scope["path"].removeprefix(scope.get("root_path", "")).rstrip("/")
        status, headers, body = answer(documents, scope["method"], path)
        raw = [(name.encode("ascii"), value.encode("ascii")) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": status, "headers": raw})
        is_head = scope["method"] == "HEAD"
        await send({"type": "http.response.body", "body": b"" if is_head else body})

    return app


@contextlib.contextmanager
def serving() -> Iterator[tuple[str, dict[str, Callable[[], Mapping[str, object] | bytes]]]]:
    """A server on a free loopback port: its URL, and the documents, to be filled in by path."""
    documents: dict[str, Callable[[], Mapping[str, object] | bytes]] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, headers, body = answer(documents, self.command, self.path)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_HEAD = do_POST = do_GET  # noqa: N815 - the standard library's names

        def log_message(self, *_: object) -> None:
            """Nothing: a test's output is its own."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield url, documents
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
