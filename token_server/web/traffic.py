"""What all connections of one listener share: limits, deadlines, and who may connect (RFC 9112 §9).

uvicorn has no defence against slow or many clients, so it is here. One look over all connections
twice a second closes what is overdue: a timer for each request would cost more than the request's
own bytes. Decides nothing about requests; web/http1.py speaks the protocol.
"""

import asyncio
import heapq
import ipaddress
import math
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from email.utils import formatdate
from functools import lru_cache
from typing import Protocol

from token_server.config import IPNetwork
from token_server.logs import flush_lines, get_logger
from token_server.metrics import Metrics

_log = get_logger(__name__)

LOOK_INTERVAL_S = 0.5
_LEAST_IDLE_S = 5.0  # a connection that was used a moment ago may have a request on its way
_BEING_REFUSED = 64
_EVICTED_AT_ONCE = 64  # looking for them costs a look at all connections
_SAY_AGAIN_S = 60.0
_NEVER = math.inf
_FULL = frozenset({"connections_full", "source_full"})  # the rest is the client's matter


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one listener. Seconds run from the first byte of a head, from the end of a head to the
    end of its body, from when a client stops reading, and from the end of an answer."""

    connections: int = 10_000
    connections_per_source: int = 1_000  # of one IPv4 address or IPv6 /64; trusted proxies: any
    head_s: float = 10.0
    body_s: float = 15.0
    write_s: float = 15.0
    keep_alive_s: float = 75.0  # longer than the usual 60 s of load balancers: they close first
    head_bytes: int = 32 * 1024
    target_bytes: int = 8 * 1024
    header_lines: int = 100
    pipelined: int = 16


class Guarded(Protocol):
    """A connection, as the look over all of them sees it."""

    deadline: float  # on the monotonic clock
    source: str | None  # None: not counted

    @property
    def is_idle(self) -> bool:
        """No request is under way, and at least one was answered."""
        ...

    def expire(self) -> None:
        """The deadline has passed, or the place is needed."""
        ...


@dataclass(slots=True)
class Traffic:
    """`now` is the monotonic clock as of the last look: half a second is exact enough for
    deadlines, and reading it costs nothing."""

    limits: Limits = field(default_factory=Limits)
    trusted: Sequence[IPNetwork] = ()
    metrics: Metrics | None = None
    refusal_headers: Sequence[tuple[bytes, bytes]] = ()  # beside those that every refusal has
    is_draining: bool = False
    now: float = field(default_factory=time.monotonic)
    date_line: bytes = field(default=b"", init=False)
    connections: set[Guarded] = field(default_factory=set, init=False)
    _by_source: Counter[str] = field(default_factory=Counter, init=False)
    _outbox: list[tuple[asyncio.Transport, bytes]] = field(default_factory=list, init=False)
    _said: dict[str, float] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self._tell_time()

    def source_of(self, peer: tuple[str, int] | None) -> str | None:
        """What the connections of this peer are counted by."""
        return None if peer is None else _source(peer[0], tuple(self.trusted))

    def admit(self, connection: Guarded) -> bool:
        """Whether there is a place for it. It has to `leave` in either case."""
        source, limits = connection.source, self.limits
        self.connections.add(connection)
        if source is not None:
            self._by_source[source] += 1
            if self._by_source[source] > limits.connections_per_source:
                self.note("source_full", source=source)
                return False
        if len(self.connections) > limits.connections and not self._make_room():
            self.note("connections_full")
            return False
        return True

    @property
    def is_overrun(self) -> bool:
        """So many more than there are places for that nobody is told so."""
        return len(self.connections) > self.limits.connections + _BEING_REFUSED

    def leave(self, connection: Guarded) -> None:
        self.connections.discard(connection)
        source = connection.source
        if source is not None:
            self._by_source[source] -= 1
            if self._by_source[source] <= 0:
                del self._by_source[source]

    def note(self, reason: str, **facts: object) -> None:
        """Count what was refused or cut off; of each kind one line a minute."""
        if self.metrics is not None:
            self.metrics.connection_refused(reason)
        if self.now - self._said.get(reason, -_NEVER) >= _SAY_AGAIN_S:
            self._said[reason] = self.now
            log = _log.warning if reason in _FULL else _log.info
            log("connection_refused", reason=reason, connections=len(self.connections), **facts)

    def post(self, transport: asyncio.Transport, data: bytes) -> None:
        """Let `data` leave at the end of this turn of the event loop, after its log lines."""
        self._outbox.append((transport, data))
        if len(self._outbox) == 1:
            asyncio.get_running_loop().call_soon(self.send_out)

    def send_out(self) -> None:
        """What was posted leaves now."""
        flush_lines()
        outbox, self._outbox = self._outbox, []
        for transport, data in outbox:
            transport.write(data)

    async def keep_looking(self) -> None:
        """Until cancelled: close whatever is overdue, and tell the time."""
        while True:
            await asyncio.sleep(LOOK_INTERVAL_S)
            self.look()

    def look(self) -> None:
        self.now = now = time.monotonic()
        self._tell_time()
        for connection in [one for one in self.connections if one.deadline <= now]:
            connection.expire()
        if self.metrics is not None:
            self.metrics.connections(len(self.connections))

    def _make_room(self) -> bool:
        """Close the connections that have been idle for longest, but no proxy's."""
        # An idle connection's deadline says since when it is.
        latest = time.monotonic() + self.limits.keep_alive_s - _LEAST_IDLE_S
        idle = (
            one
            for one in self.connections
            if one.source is not None and one.is_idle and one.deadline < latest
        )
        oldest = heapq.nsmallest(_EVICTED_AT_ONCE, idle, key=lambda one: one.deadline)
        for connection in oldest:
            connection.expire()
        return bool(oldest)

    def _tell_time(self) -> None:
        # The header is for caches (RFC 9110 §6.6.1): the machine's clock is as good as any.
        date = formatdate(time.time(), usegmt=True)  # noqa: TID251
        self.date_line = b"date: %b\r\n" % date.encode("ascii")


@lru_cache(maxsize=4096)
def _source(host: str, trusted: tuple[IPNetwork, ...]) -> str | None:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address):
        mapped = address.ipv4_mapped
        if mapped is None:
            network = ipaddress.ip_network((int(address), 64), strict=False)
            return None if any(address in one for one in trusted) else str(network)
        address = mapped
    return None if any(address in one for one in trusted) else str(address)
