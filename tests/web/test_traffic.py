"""Who is too slow or too many is cut off, and nobody else (M219, M220)."""

import contextlib
import ipaddress
import socket
import time
from collections.abc import Iterator

import pytest

from tests.support.small_apps import Served, read_all, small_app
from token_server.web.traffic import Limits, Traffic

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: x\r\n"
QUICK = Limits(head_s=0.5, body_s=0.5, write_s=0.5, keep_alive_s=0.5)
WAIT_S = 15.0
LOCAL = "127.0.0.1"


@pytest.fixture
def quick() -> Iterator[Served]:
    with small_app(QUICK) as served:
        yield served


def reasons(served: Served) -> set[str]:
    return set(served.traffic._said)


def ask(connection: socket.socket) -> bytes:
    connection.sendall(GET)
    return connection.recv(65536)


@pytest.mark.parametrize(
    ("sent", "status", "reason"),
    [
        (b"G", b"408", "head_too_slow"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nA: ", b"408", "head_too_slow"),
        (POST + b"Content-Length: 5\r\n\r\n", b"408", "body_too_slow"),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n2\r\na", b"408", "body_too_slow"),
        (GET + b"GET / HT", b"408", "head_too_slow"),
    ],
    ids=["first_byte", "header", "body", "chunk", "second_head"],
)  # fmt: skip
def test_whoever_stops_sending_is_told_and_cut_off(
    quick: Served, sent: bytes, status: bytes, reason: str
) -> None:
    """M219: a byte now and then does not move the deadline of head or body."""
    with quick.connect() as connection:
        connection.sendall(sent)
        raw = read_all(connection)
    assert raw.rpartition(b"HTTP/1.1 ")[2].startswith(status)
    assert reasons(quick) == {reason}


def test_a_trickle_does_not_move_the_deadline(quick: Served) -> None:
    """Slowloris: a header line each 0.1 s is not progress."""
    started = time.monotonic()
    with quick.connect() as connection, contextlib.suppress(OSError):
        connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n")
        while time.monotonic() - started < WAIT_S:
            connection.sendall(b"A: b\r\n")
            connection.settimeout(0.1)
            with contextlib.suppress(TimeoutError):
                if connection.recv(1024) == b"":
                    break
    assert time.monotonic() - started < WAIT_S
    assert reasons(quick) == {"head_too_slow"}


@pytest.mark.parametrize("asked", [0, 1], ids=["silent", "kept"])
def test_an_idle_connection_ends(quick: Served, asked: int) -> None:
    """Whether it ever asked for something or not; that is no complaint, and nothing is said."""
    with quick.connect() as connection:
        for _ in range(asked):
            assert ask(connection)
        assert read_all(connection) == b""
    assert reasons(quick) == set()


def test_a_client_that_does_not_read_is_cut_off(quick: Served) -> None:
    """M219: answers wait in our memory only so long, and only so many."""
    with quick.connect() as connection:
        connection.sendall(GET.replace(b"/ ", b"/large ", 1))
        deadline = time.monotonic() + WAIT_S
        while not quick.seen or quick.traffic.connections:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    assert reasons(quick) == {"reader_too_slow"}


def test_a_slow_application_is_no_slow_client() -> None:
    """A login that waits for its hash has no deadline of the connection's."""
    with small_app(Limits(head_s=0.1, body_s=0.1, write_s=0.1, keep_alive_s=10)) as served:
        raw = served.exchange(b"GET /slow HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert raw.startswith(b"HTTP/1.1 200 ")


def test_one_source_has_its_share_of_connections() -> None:
    """M220: beyond it 503 with Retry-After; other addresses are served."""
    with small_app(Limits(connections_per_source=3)) as served, contextlib.ExitStack() as stack:
        held = [stack.enter_context(served.connect("127.0.0.2")) for _ in range(3)]
        for connection in held:
            assert ask(connection).startswith(b"HTTP/1.1 200 ")
        with served.connect("127.0.0.2") as one_more:
            refused = read_all(one_more)
        with served.connect("127.0.0.3") as other:
            assert ask(other).startswith(b"HTTP/1.1 200 ")
        held[0].close()
        deadline = time.monotonic() + WAIT_S
        while True:
            with served.connect("127.0.0.2") as again:
                if ask(again).startswith(b"HTTP/1.1 200 "):
                    break
            assert time.monotonic() < deadline
    assert refused.startswith(b"HTTP/1.1 503 ")
    assert b"\r\nretry-after: 1\r\n" in refused
    assert reasons(served) == {"source_full"}


def test_a_full_house_is_said(capfd: pytest.CaptureFixture[str]) -> None:
    """M220: connections that were used a moment ago keep their places; one line, not thousands."""
    with small_app(Limits(connections=3)) as served, contextlib.ExitStack() as stack:
        for number in range(3):
            assert ask(stack.enter_context(served.connect(f"127.0.0.{number + 2}")))
        answers = []
        for _ in range(20):
            with served.connect() as one_more:
                answers.append(read_all(one_more))
    assert all(one.startswith(b"HTTP/1.1 503 ") for one in answers)
    assert reasons(served) == {"connections_full"}
    assert capfd.readouterr().err.count("connection_refused") == 1


def test_idle_connections_make_room_for_new_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """5,000 connections that nobody uses keep nobody out: the longest idle ones go first."""
    monkeypatch.setattr("token_server.web.traffic._LEAST_IDLE_S", 0.2)
    monkeypatch.setattr("token_server.web.traffic._EVICTED_AT_ONCE", 1)
    with small_app(Limits(connections=3)) as served, contextlib.ExitStack() as stack:
        held = []
        for number in range(3):
            held.append(stack.enter_context(served.connect(f"127.0.0.{number + 2}")))
            assert ask(held[-1])
            time.sleep(0.6)  # the traffic's clock has half seconds
        with served.connect() as new:
            assert ask(new).startswith(b"HTTP/1.1 200 ")
        assert read_all(held[0]) == b""
        assert ask(held[2]).startswith(b"HTTP/1.1 200 ")
    assert reasons(served) == set()


class FakeConnection:
    """What Traffic needs to know of one."""

    def __init__(self, source: str | None) -> None:
        self.source = source
        self.deadline = float("inf")
        self.is_idle = False

    def expire(self) -> None:
        raise AssertionError("it is not idle")


@pytest.mark.parametrize(
    ("peer", "source"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::1", "2001:db8:1:2::/64"),
        ("10.1.2.3", None),
        ("::ffff:10.1.2.3", None),
        ("2001:db8:9::1", None),
        ("no address", None),
    ],
)
def test_connections_are_counted_by_source(peer: str, source: str | None) -> None:
    """An IPv6 host has a /64 to itself; trusted proxies speak for many."""
    trusted = (ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("2001:db8:9::/48"))
    assert Traffic(trusted=trusted).source_of((peer, 1)) == source


def test_proxies_are_not_counted_and_places_come_back() -> None:
    """Whoever leaves leaves nothing behind."""
    traffic = Traffic(Limits(connections=100, connections_per_source=1))
    for _ in range(10):
        assert traffic.admit(FakeConnection(None))
    first, second = FakeConnection(LOCAL), FakeConnection(LOCAL)
    assert traffic.admit(first)
    assert not traffic.admit(second)
    traffic.leave(second)
    traffic.leave(first)
    assert traffic.admit(FakeConnection(LOCAL))
    assert not traffic.is_overrun
