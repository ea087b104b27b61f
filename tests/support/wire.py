"""Requests byte for byte: what no HTTP client would send, and nothing mended on the way."""

import base64
import contextlib
import http.client
import json
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote_plus

FORM = "application/x-www-form-urlencoded"


@dataclass(frozen=True, slots=True)
class WireAnswer:
    status: int
    headers: tuple[tuple[str, str], ...]  # names in lower case
    body: bytes

    def values(self, name: str) -> list[str]:
        """All values of one header."""
        return [value for key, value in self.headers if key == name]

    def json(self) -> Any:
        return json.loads(self.body)

    def __contains__(self, text: str) -> bool:
        return text.encode() in self.body or any(text in value for _, value in self.headers)


@dataclass(frozen=True, slots=True)
class Wire:
    """One server's address; each request has a connection of its own."""

    host: str
    port: int

    def send(self, *parts: bytes, method: str = "POST") -> WireAnswer:
        """Send the bytes and read one answer, without closing our side before."""
        with socket.create_connection((self.host, self.port), timeout=20) as connection:
            # It may answer and close before it has all: the answer is what counts.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                for part in parts:
                    connection.sendall(part)
            with contextlib.closing(http.client.HTTPResponse(connection, method=method)) as answer:
                answer.begin()
                headers = tuple((name.lower(), value) for name, value in answer.getheaders())
                return WireAnswer(answer.status, headers, answer.read())

    def post(
        self, body: bytes, headers: Sequence[tuple[str, str]] = (), target: str = "/oauth2/token"
    ) -> WireAnswer:
        """POST a form body as it is; `headers` come behind Host, Content-Type and -Length."""
        names = {name.lower() for name, _ in headers}
        lines = [("Host", "auth.example"), ("Content-Length", str(len(body)))]
        if "content-type" not in names:
            lines.append(("Content-Type", FORM))
        return self.send(head("POST", target, [*lines, *headers]), body)

    def request(
        self, method: str, target: str, headers: Sequence[tuple[str, str]] = ()
    ) -> WireAnswer:
        """A request without a body."""
        return self.send(head(method, target, [("Host", "auth.example"), *headers]), method=method)


def head(method: str, target: str, headers: Iterable[tuple[str, str]]) -> bytes:
    """Request line and headers, in Latin-1."""
    lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers)]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def form(*fields: tuple[str, str]) -> bytes:
    return "&".join(f"{quote_plus(name)}={quote_plus(value)}" for name, value in fields).encode()


def basic(client_id: str, secret: str) -> tuple[str, str]:
    """The Authorization header of RFC 6749 §2.3.1."""
    text = f"{quote_plus(client_id)}:{quote_plus(secret)}"
    return ("Authorization", "Basic " + base64.b64encode(text.encode()).decode())


def assert_refused(answer: WireAnswer, status: int, error: str) -> None:
    """The shape of every error under /oauth2 (RFC 6749 §5.2, appendix A.8; D85, D86)."""
    assert (answer.status, answer.json().get("error")) == (status, error), answer
    assert answer.json().keys() == {"error", "error_description"}
    description = answer.json()["error_description"]
    assert all(" " <= c <= "~" and c not in '"\\' for c in description), description
    assert answer.values("content-type") == ["application/json"]
    assert answer.values("cache-control") == ["no-store"]
    assert answer.values("pragma") == ["no-cache"]
    challenge = ['Basic realm="token-server", charset="UTF-8"'] if status == 401 else []
    assert answer.values("www-authenticate") == challenge
    assert answer.values("allow") == (["POST"] if status == 405 else [])
