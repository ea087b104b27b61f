"""Web sites on loopback, over TLS: pages of several hosts, and one host that is our server.

It plays the TLS proxy that the README asks for: `auth.example` passes /api and /oauth2 on to the
server, as they came, and serves pages of the same origin beside them. What the browser really
sent to the server, and what pages report, is kept for the test.
"""

import contextlib
import datetime as dt
import http.client
import json
import queue
import ssl
import tempfile
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

AUTH = "auth.example"
_PASSED_ON = ("/api/", "/oauth2/", "/.well-known/")
_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "date", "server"}


@dataclass(frozen=True, slots=True)
class Passed:
    """One request that reached the server: what it carried, and what the answer was."""

    method: str
    path: str
    origin: str | None
    cookie: str | None
    status: int


@dataclass(slots=True)
class Sites:
    """`pages` maps host and path to HTML."""

    upstream: tuple[str, int]
    pages: Mapping[tuple[str, str], str]
    passed: list[Passed] = field(default_factory=list)
    reports: "queue.Queue[tuple[str, dict[str, Any]]]" = field(default_factory=queue.Queue)
    address: str = ""

    def next_report(self, timeout_s: float = 60.0) -> tuple[str, dict[str, Any]]:
        """The host of the page that reported, and what it found."""
        return self.reports.get(timeout=timeout_s)


@contextlib.contextmanager
def serving_sites(sites: Sites) -> Iterator[None]:
    """Serve them on a free port; `sites.address` is where."""
    server = _Server(("127.0.0.1", 0), _Handler)
    server.sites = sites
    hosts = sorted({AUTH, *(host for host, _ in sites.pages)})
    server.socket = _tls_context(hosts).wrap_socket(
        server.socket,
        server_side=True,
        do_handshake_on_connect=False,  # by the thread that reads
    )
    sites.address = f"127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Server(ThreadingHTTPServer):
    sites: Sites
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser cuts connections as it likes."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._serve(b"")

    def do_OPTIONS(self) -> None:
        self._serve(b"")

    def do_DELETE(self) -> None:
        self._serve(b"")

    def do_POST(self) -> None:
        self._serve(self.rfile.read(int(self.headers.get("Content-Length", "0"))))

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Quiet."""

    def _serve(self, body: bytes) -> None:
        host = self.headers.get("Host", "").partition(":")[0]
        path = urlsplit(self.path).path
        page = self.server.sites.pages.get((host, path))
        if page is not None and self.command == "GET":
            self._answer(200, page.encode(), {"Content-Type": "text/html; charset=utf-8"})
        elif path == "/report":
            self.server.sites.reports.put((host, json.loads(body)))
            self._answer(204, b"", {})
        elif host == AUTH and path.startswith(_PASSED_ON):
            self._pass_on(body)
        else:
            self._answer(404, b"", {})

    def _pass_on(self, body: bytes) -> None:
        connection = http.client.HTTPConnection(*self.server.sites.upstream, timeout=30)
        with contextlib.closing(connection):
            names = {"connection", "content-length", "accept-encoding"}
            headers = {k: v for k, v in self.headers.items() if k.lower() not in names}
            connection.request(self.command, self.path, body or None, headers)
            answer = connection.getresponse()
            content = answer.read()
        self.server.sites.passed.append(
            Passed(
                self.command,
                self.path,
                self.headers.get("Origin"),
                self.headers.get("Cookie"),
                answer.status,
            )
        )
        self._answer(answer.status, content, dict(answer.getheaders()))

    def _answer(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            if name.lower() not in _HOP_BY_HOP | {"content-length"}:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _tls_context(hosts: list[str]) -> ssl.SSLContext:
    """A context with a certificate made for these hosts."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "tests")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=2))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(h) for h in hosts]), False)
        .sign(key, hashes.SHA256())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "site.pem"
        file.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
            + certificate.public_bytes(serialization.Encoding.PEM)
        )
        context.load_cert_chain(file)
    return context
