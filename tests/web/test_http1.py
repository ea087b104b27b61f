"""HTTP/1.1 byte for byte: what is taken, what is refused, and in which order (M217, M218, M221)."""

import json
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from litestar.enums import ScopeType
from litestar.types import Receive, Scope, Send

from tests.support.small_apps import Served, answer, read_all, small_app
from token_server.web.traffic import Limits

LIMITS = Limits(head_bytes=8192, target_bytes=4096, header_lines=40, pipelined=4)
END = b"Connection: close\r\n\r\n"
HOST = b"Host: x\r\n"


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with small_app(LIMITS) as served:
        yield served


def told(raw: bytes) -> Any:
    head, _, body = raw.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n"), raw
    return json.loads(body)


def status_of(raw: bytes) -> int:
    assert raw.startswith(b"HTTP/1.1 "), raw
    return int(raw[9:12])


def assert_refused(raw: bytes, status: int) -> None:
    """One answer, a problem document, and the end of the connection."""
    assert status_of(raw) == status
    head, _, body = raw.partition(b"\r\n\r\n")
    assert b"connection: close" in head
    assert b"content-type: application/problem+json" in head
    assert json.loads(body)["status"] == status


@pytest.mark.parametrize(
    ("start", "lines"),
    [
        (b"POST / HTTP/1.1", b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n"),
        (b"POST / HTTP/1.1", b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n"),
        (b"POST / HTTP/1.1", b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"),
        (b"POST / HTTP/1.1", b"Transfer-Encoding: identity\r\n"),
        (b"POST / HTTP/1.1", b"Transfer-Encoding: chunked, gzip\r\n"),
        (b"POST / HTTP/1.1", b"Transfer-Encoding: xchunked\r\n"),
        (b"POST / HTTP/1.1", b"Content-Length: +4\r\n"),
        (b"POST / HTTP/1.1", b"Content-Length: -4\r\n"),
        (b"POST / HTTP/1.1", b"Content-Length: 0x4\r\n"),
        (b"POST / HTTP/1.1", b"Content-Length: 4, 4\r\n"),
        (b"POST / HTTP/1.1", b"Content-Length: 4\r\nContent-Length: 4\r\n"),
        (b"POST / HTTP/1.1", b"Content-Length: 4\r\nContent-Length: 5\r\n"),
        (b"POST / HTTP/1.1", b"Content-Length: 99999999999999999999999\r\n"),
        (b"POST / HTTP/1.1", b"Content-Length : 4\r\n"),
        (b"GET / HTTP/1.1", b"X: a\r\n b\r\n"),
        (b"GET / HTTP/1.1", b"X: a\nY: b\r\n"),
        (b"GET / HTTP/1.1", b"X: a\rY: b\r\n"),
        (b"GET / HTTP/1.1", b"X: a\x00b\r\n"),
        (b"GET / HTTP/1.1", b"X\x00: a\r\n"),
        (b"GET / HTTP/1.1", b": a\r\n"),
        (b"GET / HTTP/1.1", b"Host: y\r\n"),
        (b"GET / HTTP/1.1 ", b""),
        (b"GET /\x00 HTTP/1.1", b""),
        (b"GET /\xff HTTP/1.1", b""),
        (b"GET / HTTP/1.2", b""),
        (b"GET / HTTP/3.0", b""),
        (b"GET / HTTP/2.0", b""),
        (b"GET /", b""),
        (b"OPTIONS * HTTP/1.1", b""),
        (b"CONNECT x:1 HTTP/1.1", b""),
        (b"GET x/y HTTP/1.1", b""),
        (b"BREW / HTTP/1.1", b""),
    ],
)
def test_what_two_readers_could_take_differently_is_refused(
    served: Served, start: bytes, lines: bytes
) -> None:
    """M217: nothing is mended, nothing reaches the application, the connection ends."""
    served.seen.clear()
    raw = served.exchange(start + b"\r\n" + HOST + lines + b"\r\n", b"0\r\n\r\n")
    assert_refused(raw, 400)
    assert served.seen == []


@pytest.mark.parametrize(
    "chunks",
    [b"4;a=b\nxx\r\nabcd\r\n0\r\n\r\n", b"-4\r\nabcd\r\n", b"0x4\r\nabcd\r\n", b"4 \nabcd\r\n",
     b"4\r\nabcdXX0\r\n\r\n", b"fffffffffffffffff\r\n"],
)  # fmt: skip
def test_a_bad_chunk_is_no_body(served: Served, chunks: bytes) -> None:
    """M217: the application, if it was called, hears that the client is gone."""
    head = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n" + HOST + b"\r\n"
    assert_refused(served.exchange(head + chunks), 400)


def test_a_host_is_needed_once(served: Served) -> None:
    """RFC 9112 §3.2; HTTP/1.0 knows none."""
    assert_refused(served.exchange(b"GET / HTTP/1.1\r\n\r\n"), 400)
    assert told(served.exchange(b"GET /old HTTP/1.0\r\n\r\n"))["path"] == "/old"


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        (b"GET / HTTP/1.1\r\n" + HOST + b"A: b\r\n" * 10_000 + b"\r\n", 431),
        (b"GET / HTTP/1.1\r\n" + HOST + b"A: b\r\n" * 40 + b"\r\n", 431),
        (b"GET / HTTP/1.1\r\n" + HOST + b"A: " + b"b" * 200_000 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\n" + HOST + b"A" * 200_000 + b": b\r\n\r\n", 431),
        (b"GET /" + b"a" * 64_000 + b" HTTP/1.1\r\n" + HOST + b"\r\n", 414),
        (b"GET / HTTP/1.1\r\nExpect: 200-ok\r\n" + HOST + b"\r\n", 417),
    ],
)
def test_a_head_beyond_the_limits_is_refused(served: Served, lines: bytes, status: int) -> None:
    """M218: by its kind, however it is cut into packets."""
    assert_refused(served.exchange(lines), status)
    pieces = [lines[at : at + 1000] for at in range(0, len(lines), 1000)]
    assert status_of(served.exchange(*pieces)) in (status, 431)


@pytest.mark.parametrize("size", [1, 2, 7, 4096])
def test_a_request_may_come_in_any_pieces(served: Served, size: int) -> None:
    """Header names, lines and chunks may be cut anywhere."""
    raw = (
        b"POST /a%20b?x=y HTTP/1.1\r\nhOST: x\r\nX-Y: z\r\nTransfer-Encoding: chunked\r\n"
        b"Connection: close\r\n\r\n3\r\nabc\r\n4;ext=1\r\ndefg\r\n0\r\nX-Y: trailer\r\n\r\n"
    )
    found = told(served.exchange(*(raw[at : at + size] for at in range(0, len(raw), size))))
    assert (found["method"], found["path"], found["query"]) == ("POST", "/a b", "x=y")
    assert found["body"] == "abcdefg"
    assert [value for name, value in found["headers"] if name == "x-y"] == ["z"], "no trailer"


def test_an_absolute_target_is_its_path(served: Served) -> None:
    """RFC 9112 §3.2.2; the host in it decides nothing here."""
    raw = b"GET http://evil.example/p?q HTTP/1.1\r\n" + HOST + END
    found = told(served.exchange(raw))
    assert (found["path"], found["query"]) == ("/p", "q")


def test_pipelined_requests_are_answered_in_their_order(served: Served) -> None:
    """RFC 9112 §9.3.2: the slow one first, and one at a time."""
    served.seen.clear()
    ask = b"".join(
        b"GET /%b HTTP/1.1\r\n" % path + HOST + b"\r\n" for path in (b"slow", b"1", b"2")
    )
    raw = served.exchange(ask + b"GET /3 HTTP/1.1\r\n" + HOST + END)
    answers = [json.loads(one.partition(b"\r\n\r\n")[2]) for one in raw.split(b"HTTP/1.1 200 ")[1:]]
    assert [one["path"] for one in answers] == ["/slow", "/1", "/2", "/3"]
    assert served.seen == ["/slow", "/1", "/2", "/3"]


def test_too_many_pipelined_requests_end_the_connection(served: Served) -> None:
    """The one under way is answered and is the last: memory is bounded."""
    ask = b"GET /slow HTTP/1.1\r\n" + HOST + b"\r\n"
    raw = served.exchange(ask * 50)
    assert raw.count(b"HTTP/1.1 ") == 1
    assert b"connection: close" in raw


def test_junk_behind_a_request_does_not_spoil_its_answer(served: Served) -> None:
    """What was understood is answered; then the connection ends."""
    raw = served.exchange(b"GET /slow HTTP/1.1\r\n" + HOST + b"\r\n\x00\x01junk")
    assert told(raw)["path"] == "/slow"


def test_an_upgrade_is_not_followed(served: Served) -> None:
    """RFC 9110 §7.8: answered as it is; what comes behind it is not taken for a request."""
    served.seen.clear()
    lines = b"Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
    raw = served.exchange(
        b"GET /a HTTP/1.1\r\n" + HOST + lines + b"GET /b HTTP/1.1\r\n" + HOST + END
    )
    assert raw.count(b"HTTP/1.1 ") == 1
    assert told(raw)["path"] == "/a"
    assert served.seen == ["/a"]


def test_a_client_that_asks_first_is_told_to_go_on(served: Served) -> None:
    """RFC 9110 §10.1.1: 100 when the body is wanted."""
    with served.connect() as connection:
        head = b"POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n"
        connection.sendall(head + HOST + END)
        assert connection.recv(1024) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(b"ok")
        assert told(read_all(connection))["body"] == "ok"


def test_a_refused_body_does_not_reset_the_refusal(served: Served) -> None:
    """RFC 9112 §9.6: whoever is still sending can read why, and is cut off when it goes on."""
    with served.connect() as connection:
        head = b"POST /deaf HTTP/1.1\r\nContent-Length: 900000\r\n" + HOST + b"\r\n"
        connection.sendall(head)
        for _ in range(9):
            connection.sendall(bytes(100_000))
        raw = read_all(connection)
    assert status_of(raw) == 413
    assert b"connection: close" in raw


def test_head_has_no_body(served: Served) -> None:
    """RFC 9110 §9.3.2."""
    raw = served.exchange(b"HEAD / HTTP/1.1\r\n" + HOST + END)
    assert raw.endswith(b"\r\n\r\n")
    assert b"content-length: " in raw


def test_old_clients_are_answered_and_closed(served: Served) -> None:
    """HTTP/1.0 has no kept connections here, whatever it asks for."""
    raw = served.exchange(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    assert told(raw)["path"] == "/"
    assert b"connection: close" in raw


@pytest.mark.parametrize("value", [b"a\r\nX: y", b"a\nb", b"a\x00b"])
def test_a_header_of_an_answer_cannot_split_it(
    value: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    """Even if something of a request found its way into one: no answer is better than two."""

    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        headers = [(b"x-a", value), (b"content-length", b"0")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    with small_app(app=app) as served:
        assert served.exchange(b"GET / HTTP/1.1\r\n" + HOST + b"\r\n") == b""
    assert "connection_failed" in capfd.readouterr().err


def test_an_application_that_fails_ends_the_connection(capfd: pytest.CaptureFixture[str]) -> None:
    """The last line of defence: Edge answers for itself, and this one is below it."""

    async def app(scope: Scope, _receive: Receive, send: Send) -> None:
        if scope["type"] == ScopeType.HTTP and scope["path"] == "/silent":
            return
        await answer(send, 200, b"{}")
        raise ValueError("too late")

    with small_app(app=app) as served:
        assert served.exchange(b"GET /silent HTTP/1.1\r\n" + HOST + b"\r\n") == b""
        assert status_of(served.exchange(b"GET / HTTP/1.1\r\n" + HOST + END)) == 200
    assert "connection_failed" in capfd.readouterr().err


def test_a_streamed_answer_has_its_end(served: Served) -> None:
    """Parts without a length are chunks (RFC 9112 §7.1), or end with the connection."""

    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"ab", "more_body": True})
        await send({"type": "http.response.body", "body": b"c", "more_body": False})

    with small_app(app=app) as streaming:
        new = streaming.exchange(b"GET / HTTP/1.1\r\n" + HOST + END)
        old = streaming.exchange(b"GET / HTTP/1.0\r\n\r\n")
    assert new.endswith(b"\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n")
    assert old.endswith(b"\r\n\r\nabc")


def test_a_kept_connection_serves_one_request_after_the_other(served: Served) -> None:
    """RFC 9112 §9.3."""
    with served.connect() as connection:
        for number in range(5):
            connection.sendall(b"GET /%d HTTP/1.1\r\n" % number + HOST + b"\r\n")
            assert told(_read_one(connection))["path"] == f"/{number}"


def _read_one(connection: socket.socket) -> bytes:
    raw = b""
    while b"\r\n\r\n" not in raw:
        raw += connection.recv(65536)
    head, _, body = raw.partition(b"\r\n\r\n")
    length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
    while len(body) < length:
        body += connection.recv(65536)
    return head + b"\r\n\r\n" + body
