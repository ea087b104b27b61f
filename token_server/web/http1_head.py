"""What the head of a request may be, and the refusal of one (RFC 9112 §2.2, §3; RFC 9110 §15.5).

For what the parser lets through and two readers could take differently. Sees no connection and no
application; a refusal has the shape of the path that was asked for, as far as it came.
"""

from collections.abc import Sequence
from http import HTTPStatus

import httptools

from token_server.web.answers import http_error_answer
from token_server.web.traffic import Traffic

Header = tuple[bytes, bytes]

# Of two of these, one reader takes the first and another the last (RFC 9112 §3.2, §6.3).
_ONCE = frozenset((b"host", b"content-length", b"transfer-encoding"))
_VERSIONS = ("1.1", "1.0")
_LONGEST_SHAPE = 256  # bytes of a path that decide what a refusal looks like


class HeadRefusedError(Exception):
    """Raised through the parser, which has to be given up then."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


def read_target(url: bytes) -> tuple[str, bytes]:
    """Path as it was sent, and query. Absolute forms are taken, too (RFC 9112 §3.2.2)."""
    if url[:1] != b"/":
        try:
            parsed = httptools.parse_url(url)
        except httptools.HttpParserInvalidURLError:
            raise HeadRefusedError(400) from None
        url = (parsed.path or b"/") + (b"?" + parsed.query if parsed.query else b"")
    path, _, query = url.partition(b"?")
    if path[:1] != b"/" or not path.isascii():
        raise HeadRefusedError(400)
    return path.decode("ascii"), query


def check_head(version: str, headers: Sequence[Header]) -> None:
    """`headers` with names in lower case. Raises HeadRefusedError."""
    if version not in _VERSIONS:
        raise HeadRefusedError(400)
    seen: set[bytes] = set()
    for name, value in headers:
        if name in _ONCE:
            if name in seen:
                raise HeadRefusedError(400)
            seen.add(name)
            if name == b"transfer-encoding" and value.lower() != b"chunked":
                raise HeadRefusedError(400)
        elif name == b"expect" and value.lower() != b"100-continue":
            raise HeadRefusedError(417)
    if b"host" not in seen and version == "1.1":
        raise HeadRefusedError(400)
    if b"transfer-encoding" in seen and b"content-length" in seen:
        raise HeadRefusedError(400)


def refusal(status: int, url: bytes, traffic: Traffic) -> bytes:
    """A whole answer after which the connection is closed."""
    path = url.partition(b"?")[0][:_LONGEST_SHAPE].decode("latin-1")
    answer = http_error_answer(path, status)
    headers = (*answer.headers, *traffic.refusal_headers)
    is_full = status == HTTPStatus.SERVICE_UNAVAILABLE
    lines = [
        b"HTTP/1.1 %d %b\r\n" % (status, HTTPStatus(status).phrase.encode("ascii")),
        traffic.date_line,
        *(b"%b: %b\r\n" % pair for pair in headers),
        b"retry-after: 1\r\n" if is_full else b"",
        b"content-length: %d\r\nconnection: close\r\n\r\n" % len(answer.body),
        answer.body,
    ]
    return b"".join(lines)
