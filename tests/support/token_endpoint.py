"""A token endpoint on a real port that answers as a test tells it: for what a good server never
does, and for counting what it is asked."""

import contextlib
import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs


@dataclass(frozen=True, slots=True)
class Asked:
    """One request as it came in."""

    path: str
    authorization: str | None
    form: dict[str, str]


@dataclass(frozen=True, slots=True)
class Said:
    """One answer; `cut_bytes` closes the connection after so many bytes of the body, `drip_s` is
    waited before each of them."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    delay_s: float = 0.0
    cut_bytes: int | None = None
    drip_s: float = 0.0


def granted(access_token: str = "token-1", **members: object) -> Said:
    body = {"access_token": access_token, "token_type": "Bearer", "expires_in": 900, **members}
    return said_json(200, body)


def refused(status: int, error: str, **headers: str) -> Said:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return said_json(status, {"error": error, "error_description": "words of the server"}, named)


def said_json(status: int, body: object, headers: dict[str, str] | None = None) -> Said:
    return Said(status, json.dumps(body).encode(), headers or {})


class ScriptedEndpoint:
    """`answer` is called for each request, in the order in which they came; by default each gets
    another token."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.asked: list[Asked] = []
        self.answer: Callable[[Asked], Said] = lambda _: granted(f"token-{len(self.asked)}")

    @property
    def token_endpoint(self) -> str:
        return f"{self.url}/oauth2/token"

    def will_say(self, *script: Said) -> None:
        """These answers, and the last one for ever."""
        waiting = list(script)
        self.answer = lambda _: waiting.pop(0) if len(waiting) > 1 else waiting[0]


@contextlib.contextmanager
def scripted_endpoint(tls: ssl.SSLContext | None = None) -> Iterator[ScriptedEndpoint]:
    """On a free loopback port, with a thread for each connection."""
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            length = int(self.headers.get("Content-Length", "0"))
            form = parse_qs(self.rfile.read(length).decode("ascii"), strict_parsing=bool(length))
            asked = Asked(
                self.path,
                self.headers.get("Authorization"),
                {name: values[0] for name, values in form.items() if len(values) == 1},
            )
            with lock:
                endpoint.asked.append(asked)
                said = endpoint.answer(asked)
            time.sleep(said.delay_s)
            self.send_response(said.status)
            for name, value in said.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(said.body)))
            self.end_headers()
            with contextlib.suppress(OSError):  # a client that does not want all of it
                for octet in said.body[:100] if said.drip_s else b"":
                    time.sleep(said.drip_s)
                    self.wfile.write(bytes([octet]))
                self.wfile.write(said.body[: said.cut_bytes])

        do_GET = do_POST  # noqa: N815 - the standard library's names

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    scheme = "http" if tls is None else "https"
    endpoint = ScriptedEndpoint(f"{scheme}://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield endpoint
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
