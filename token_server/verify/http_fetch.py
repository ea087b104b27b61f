"""The default fetcher: one GET with the standard library, bounded in time and in size.

No redirects (a key must come from the host that was configured), no decompression, certificates
checked, one deadline for the whole answer and not for each read. A proxy of the environment
(HTTPS_PROXY, NO_PROXY) is used for https, never for loopback. Knows nothing of keys.
"""

import http.client
import io
import socket
import ssl
import time
import urllib.request
from collections.abc import Callable
from functools import partial
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import Any
from urllib.error import URLError
from urllib.parse import urlsplit

from token_server.verify.fetch import (
    MAX_BODY_BYTES,
    FetchError,
    FetchResult,
    read_etag,
    read_max_age,
    read_seconds,
)
from token_server.verify.urls import is_loopback

_CHUNK_BYTES = 64 * 1024
_HEADERS = {
    "Accept": "application/json, application/jwk-set+json, application/statuslist+jwt",
    "Accept-Encoding": "identity",
    "User-Agent": "token-server-verify",
}


class HttpFetcher:
    """Thread-safe. `ssl_context` is for a private certificate authority."""

    def __init__(self, ssl_context: ssl.SSLContext | None = None) -> None:
        # Once: reading the system's certificates takes tens of milliseconds.
        self._ssl_context = ssl_context or ssl.create_default_context()

    def fetch(self, url: str, etag: str | None, timeout_s: float) -> FetchResult:
        """See `Fetcher.fetch`. The URL has been judged by `urls.check_url`."""
        headers = _HEADERS if etag is None else {**_HEADERS, "If-None-Match": etag}
        deadline = time.monotonic() + timeout_s
        try:
            opener = self._opener(url, deadline)
            request = urllib.request.Request(url, headers=headers)  # noqa: S310 - judged
            with opener.open(request, timeout=timeout_s) as response:
                return _read(response, is_conditional=etag is not None)
        except (OSError, HTTPException, ValueError) as error:
            problem = _describe(error)
        raise FetchError(problem)

    def _opener(self, url: str, deadline: float) -> urllib.request.OpenerDirector:
        """Only what is listed here happens: no redirect, cookie, password, file or ftp handler."""
        opener = urllib.request.OpenerDirector()
        opener.add_handler(_HttpHandler(deadline))
        opener.add_handler(_HttpsHandler(deadline, self._ssl_context))
        if not is_loopback(urlsplit(url)):
            opener.add_handler(urllib.request.ProxyHandler())
        return opener


def _read(response: HTTPResponse, *, is_conditional: bool) -> FetchResult:
    headers = response.headers
    etag = read_etag(headers.get("ETag"))
    max_age_s = read_max_age(
        ",".join(headers.get_all("Cache-Control", [])), headers.get("Age", "").strip()
    )
    if response.status == http.client.NOT_MODIFIED and is_conditional:
        return FetchResult(None, etag, max_age_s)
    if response.status != http.client.OK:
        retry_after_s = read_seconds(headers.get("Retry-After", "").strip())
        raise FetchError(f"answered {response.status}", retry_after_s)
    if headers.get("Content-Encoding", "identity").strip().lower() != "identity":
        raise FetchError("answered with a content encoding that was not asked for")
    return FetchResult(_read_body(response), etag, max_age_s)


def _read_body(response: HTTPResponse) -> bytes:
    chunks: list[bytes] = []
    size = 0
    while chunk := response.read(_CHUNK_BYTES):
        size += len(chunk)
        if size > MAX_BODY_BYTES:
            raise FetchError(f"the answer is larger than {MAX_BODY_BYTES} bytes")
        chunks.append(chunk)
    # Content-Length promised more: `read` with a size does not complain.
    if response.length:
        raise FetchError("the answer was cut short")
    return b"".join(chunks)


def _describe(error: Exception) -> str:
    """The operating system's or OpenSSL's words. Others' may quote what the other side sent."""
    cause = error.reason if isinstance(error, URLError) else error
    if isinstance(cause, TimeoutError):
        return "timed out"
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"certificate refused: {cause.verify_message}"
    if isinstance(cause, OSError) and cause.strerror:
        return f"{type(cause).__name__}: {cause.strerror}"
    return type(cause).__name__


class _DeadlineReader(io.RawIOBase):
    """Reads from a socket until a point in time. A timeout alone holds for each read: a server
    that sends a byte every few seconds would keep a thread for ever."""

    def __init__(self, raw: io.RawIOBase, connected: socket.socket, deadline: float) -> None:
        self._raw = raw
        self._socket = connected
        self._deadline = deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._socket.settimeout(left)
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Response(HTTPResponse):
    def __init__(self, sock: socket.socket, *args: Any, deadline: float, **more: Any) -> None:
        super().__init__(sock, *args, **more)
        self.fp.close()
        raw: Any = sock.makefile("rb", buffering=0)
        self.fp = io.BufferedReader(_DeadlineReader(raw, sock, deadline))


def _connection(kind: Callable[..., Any], deadline: float, *args: Any, **more: Any) -> Any:
    connection = kind(*args, **more)
    connection.response_class = partial(_Response, deadline=deadline)
    return connection


class _HttpHandler(urllib.request.HTTPHandler):
    def __init__(self, deadline: float) -> None:
        super().__init__()
        self._deadline = deadline

    def http_open(self, req: urllib.request.Request) -> HTTPResponse:
        return self.do_open(partial(_connection, HTTPConnection, self._deadline), req)


class _HttpsHandler(urllib.request.HTTPSHandler):
    def __init__(self, deadline: float, context: ssl.SSLContext) -> None:
        super().__init__(context=context)
        self._deadline = deadline
        self._verifying = context

    def https_open(self, req: urllib.request.Request) -> HTTPResponse:
        make = partial(_connection, HTTPSConnection, self._deadline)
        return self.do_open(make, req, context=self._verifying)
