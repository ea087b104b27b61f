"""The load generator: closed loop, one request at a time on each connection, few µs for each.

Answers are judged, not only counted: every status, and the body of every `SAMPLE`th by its
scenario. What is answered within a window counts, whenever it was asked: as many requests are
under way at its beginning as at its end. The loop is uvloop's.
It understands what our servers send (Content-Length, or 304 without a body) and nothing more.
"""

import asyncio
import gc
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol, cast

Address = tuple[str, int]
SAMPLE = 32
ANSWER_TIMEOUT_S = 60.0
_LENGTH = b"\ncontent-length: "
_BODILESS = (b"304", b"204")


class Talk(Protocol):
    """What one connection says. It outlives connections: a talk may go on in the next window."""

    def ask(self) -> bytes | None:
        """The next request; None when there is nothing more to ask."""

    def hear(self, status: bytes, body: bytes, *, is_sample: bool) -> str | None:
        """Takes the answer to the last request; what is wrong with it, None if nothing is."""


@dataclass(slots=True)
class Repeat:
    """The same requests in turn; answers have `status`, and samples of them hold `part`."""

    requests: Sequence[bytes]
    status: bytes = b"200"
    part: bytes = b""
    _next: int = 0

    def ask(self) -> bytes:
        self._next = (self._next + 1) % len(self.requests)
        return self.requests[self._next]

    def hear(self, status: bytes, body: bytes, *, is_sample: bool) -> str | None:
        if status != self.status:
            return f"{status.decode()} {body[:100]!r}"
        if is_sample and self.part not in body:
            return f"a body without {self.part!r}"
        return None


@dataclass(slots=True)
class Drain(Repeat):
    """Each request once, shared by all connections that were given this talk."""

    waiting: Iterator[bytes] = field(default_factory=lambda: iter(()))

    def ask(self) -> bytes | None:  # type: ignore[override]
        return next(self.waiting, None)


@dataclass(slots=True)
class Chain:
    """Refresh tokens: each answer holds the next one, and each is used once."""

    token: str
    form: Callable[[str], bytes]
    access_token: str = ""
    used: int = 0
    is_open: bool = False  # a token was sent whose answer has not been read

    def ask(self) -> bytes | None:
        if self.is_open:
            return None  # its answer was lost with a connection: never the same one again
        self.is_open = True
        return self.form(self.token)

    def hear(self, status: bytes, body: bytes, *, is_sample: bool) -> str | None:
        if status != b"200":
            return f"{status.decode()} {body[:100]!r}"
        token = member(body, b"refresh_token")
        if token == self.token:
            return "the same refresh token again"
        self.token, self.is_open = token, False
        self.used += 1
        if is_sample or not self.access_token:
            self.access_token = member(body, b"access_token")
        return None


def member(body: bytes, name: bytes) -> str:
    """The text of a member of a JSON object that has no escapes in it; ValueError without it."""
    start = body.index(b'"' + name + b'":"') + len(name) + 4
    return body[start : body.index(b'"', start)].decode("ascii")


@dataclass(slots=True)
class Tally:
    """What all connections of one window heard. `latencies` are seconds."""

    latencies: list[float] = field(default_factory=list)
    failures: Counter[str] = field(default_factory=Counter)
    answers: int = 0
    is_open: bool = False  # within the window
    is_over: bool = False  # nothing more is asked


@dataclass(frozen=True, slots=True)
class Window:
    """What was measured. `server` is whatever `read` counted meanwhile, such as CPU seconds."""

    seconds: float
    latencies: list[float]  # sorted
    server: list[float]
    load_cpu_s: float

    @property
    def count(self) -> int:
        return len(self.latencies)

    def quantile_ms(self, share: float) -> float:
        return 1000 * self.latencies[min(self.count - 1, int(self.count * share))]


class LoadError(RuntimeError):
    """The server did not do what the scenario expects: nothing was measured."""


class Connection(asyncio.Protocol):
    """Asks what its talk says until the tally is over; `ended` is then done."""

    def __init__(self, talk: Talk, tally: Tally) -> None:
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._talk = talk
        self._tally = tally
        self._transport: asyncio.Transport | None = None
        self._rest = b""
        self._sent = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass

    def begin(self) -> None:
        self._ask()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _ask(self) -> None:
        tally = self._tally
        request = None if tally.is_over else self._talk.ask()
        if request is None or self._transport is None:
            self._end()
            return
        self._sent = time.perf_counter()
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        if self._rest:
            data = self._rest + data
        end = data.find(b"\r\n\r\n")
        if end < 0:
            self._rest = data
            return
        status = data[9:12]
        size = end + 4 + (0 if status in _BODILESS else content_length(data, end))
        if len(data) < size:
            self._rest = data
            return
        now = time.perf_counter()
        tally = self._tally
        tally.answers += 1
        if tally.is_open:
            tally.latencies.append(now - self._sent)
        problem = self._talk.hear(
            status, data[end + 4 : size], is_sample=tally.answers % SAMPLE == 1
        )
        if problem is None and len(data) > size:
            problem = "more than one answer to one request"
        self._rest = b""
        if problem is not None:
            tally.failures[problem] += 1
            self._end()
            return
        self._ask()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if not self.ended.done():
            self._tally.failures[f"closed by the server: {exc}"] += 1
            self._end()

    def _end(self) -> None:
        if not self.ended.done():
            self.ended.set_result(None)


def content_length(data: bytes, end: int) -> int:
    """Of an answer whose head ends at `end`; ValueError without the header."""
    start = data.find(_LENGTH, 0, end)
    if start < 0:
        start = data[:end].lower().find(_LENGTH)
        if start < 0:
            raise LoadError(f"an answer without Content-Length: {data[:end]!r}")
    start += len(_LENGTH)
    return int(data[start : data.index(b"\r\n", start)])


async def run_window(
    address: Address,
    talks: Sequence[Talk],
    times: tuple[float, float],
    read: Callable[[], Sequence[float]],
) -> Window:
    """Let each talk have a connection for `times`: seconds of warm-up, seconds of the window.

    LoadError names every failure; a window in which anything failed is not measured.
    """
    warm_up_s, window_s = times
    tally = Tally()
    loop = asyncio.get_running_loop()
    connections = [
        (await loop.create_connection(lambda talk=talk: Connection(talk, tally), *address))[1]  # type: ignore[misc]
        for talk in talks
    ]
    gc.collect()
    gc.disable()  # a collection here would be a pause of the server's there
    try:
        for connection in connections:
            connection.begin()
        await asyncio.sleep(warm_up_s)
        before, load_before, begun = read(), time.process_time(), time.perf_counter()
        tally.is_open = True
        await asyncio.sleep(window_s)
        after, load_after, ended = read(), time.process_time(), time.perf_counter()
        tally.is_open = False
        tally.is_over = True
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            await asyncio.gather(*(connection.ended for connection in connections))
    finally:
        gc.enable()
        for connection in connections:
            if not connection.ended.done():
                connection.ended.cancel()
            connection.close()
    if tally.failures or not tally.latencies:
        raise LoadError(f"{dict(tally.failures.most_common(5)) or 'no answer in the window'}")
    return Window(
        seconds=ended - begun,
        latencies=sorted(tally.latencies),
        server=[late - early for early, late in zip(before, after, strict=True)],
        load_cpu_s=load_after - load_before,
    )
