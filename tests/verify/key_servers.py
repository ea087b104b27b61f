"""Issuers for the tests of remote keys: one in memory with a clock of its own, one over real HTTP.

`FakeIssuer` is a `Fetcher`: it fakes the network and nothing else. `KeyServer` is a real server on
a free loopback port, whose answers a test can spoil.
"""

import http.server
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import ClassVar

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from tests.verify import forge
from token_server.verify import FetchError, Fetching, FetchResult, RemoteKeySet, Verifier
from token_server.verify.keys import thumbprint

METADATA_PATH = "/.well-known/oauth-authorization-server"


def jwk(name: str = "good") -> dict[str, object]:
    """A published key; its kid is the thumbprint, as `token_of` names it."""
    key: RSAPublicKey = forge.private_key(name).public_key()
    modulus = forge.b64(key.public_numbers().n.to_bytes(256, "big"))
    kid = kid_of(name)
    return {"kty": "RSA", "use": "sig", "alg": "RS256", "kid": kid, "n": modulus, "e": "AQAB"}


def kid_of(name: str) -> str:
    return thumbprint(forge.private_key(name).public_key())


def key_set(*names: str) -> bytes:
    return forge.compact_json({"keys": [jwk(name) for name in names]})


def token_of(name: str = "good", **changes: object) -> str:
    """A good token, signed by the key of that name."""
    return forge.token(header_changes={"kid": kid_of(name)}, key=name, **changes)


def random_kid_token(number: int) -> str:
    """Signed by nobody: three segments with a kid that no set holds."""
    header = forge.compact_json({"alg": "RS256", "typ": "at+jwt", "kid": f"random-{number}"})
    return f"{forge.b64(header)}.{forge.b64(b'{}')}.{forge.b64(bytes(256))}"


def wait_until(is_true: Callable[[], bool]) -> None:
    """For what a background thread will have done in a moment."""
    end = time.monotonic() + 10
    while not is_true():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.002)


@dataclass
class FakeIssuer:
    """A JWKS without a network, and the monotonic clock by which its age is measured."""

    names: tuple[str, ...] = ("good",)
    max_age_s: int | None = 100
    problem: Exception | None = None
    etag: str | None = None
    body: bytes | None = None
    now: float = 1000.0
    gate: threading.Event | None = None
    """When set, a fetch waits for it."""
    fetched: list[str | None] = field(default_factory=list)
    """The etag of each request."""

    def fetch(self, url: str, etag: str | None, timeout_s: float) -> FetchResult:
        assert (url, timeout_s) == ("https://auth.example/jwks", 5.0)
        self.fetched.append(etag)
        if self.gate is not None:
            self.gate.wait(10)
        if self.problem is not None:
            raise self.problem
        if etag is not None and etag == self.etag:
            return FetchResult(None, None, self.max_age_s)
        body = key_set(*self.names) if self.body is None else self.body
        return FetchResult(body, self.etag, self.max_age_s)

    def clock(self) -> float:
        return self.now

    def keys(self, **fetching: float) -> RemoteKeySet:
        return RemoteKeySet(
            jwks_uri="https://auth.example/jwks",
            fetching=Fetching(**fetching),  # type: ignore[arg-type]  # ints and floats alike
            fetcher=self,
            monotonic=self.clock,
        )


def verifier_of(keys: RemoteKeySet, *, cache_size: int = 100) -> Verifier:
    return Verifier(
        issuer=forge.ISSUER,
        audience=forge.AUDIENCE,
        keys=keys,
        cache_size=cache_size,
        clock=lambda: forge.NOW,
    )


def down(problem: str = "answered 500", retry_after_s: int | None = None) -> FetchError:
    return FetchError(problem, retry_after_s)


Answer = tuple[int, Mapping[str, str], bytes]


class KeyServer:
    """Serves metadata and a key set over HTTP. `answers` replaces what a path gives."""

    def __init__(self, port: int) -> None:
        self.issuer = f"http://127.0.0.1:{port}"
        self.jwks_uri = f"{self.issuer}/jwks"
        self.names: tuple[str, ...] = ("good",)
        self.requests: list[str] = []
        self.headers: list[Mapping[str, str]] = []
        self.answers: dict[str, Callable[[http.server.BaseHTTPRequestHandler], None] | Answer] = {}
        self.before: Callable[[], object] = lambda: None

    def answer(self, path: str) -> Answer:
        if path == METADATA_PATH:
            document = {"issuer": self.issuer, "jwks_uri": self.jwks_uri}
            return 200, {}, forge.compact_json(document)
        if path == "/jwks":
            return 200, {"Cache-Control": "max-age=300"}, key_set(*self.names)
        return 404, {}, b""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    key_server: ClassVar[KeyServer]

    def do_GET(self) -> None:
        served = self.key_server
        served.requests.append(self.path)
        served.headers.append(dict(self.headers.items()))
        served.before()
        answer = served.answers.get(self.path) or served.answer(self.path)
        if callable(answer):
            answer(self)
            return
        status, headers, body = answer
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - their name
        """Silent."""


@contextmanager
def key_server(tls: ssl.SSLContext | None = None) -> Iterator[KeyServer]:
    class Handler(_Handler):
        pass

    class Server(http.server.ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128

        def handle_error(self, request: object, client_address: object) -> None:
            """A client that has gone away is no event here."""

    server = Server(("127.0.0.1", 0), Handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    Handler.key_server = KeyServer(server.server_address[1])
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield Handler.key_server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
