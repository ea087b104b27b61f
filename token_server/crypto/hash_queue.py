"""Who may hash now, who waits, and who is told to come back: a bounded queue before few slots.

A caller takes a place before it costs anything, then waits for a slot in the order of arrival.
One network gets half of the places at most, so that one source cannot keep all others out.
Whoever goes away while waiting is passed over: nothing is hashed for it. Nothing here hashes.
"""

import asyncio
import contextlib
import math
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass

from token_server.errors import UnavailableError

_MAX_RETRY_AFTER_S = 30
_MEAN_WEIGHT = 0.1  # of the newest measurement


@dataclass(frozen=True, slots=True)
class HashCapacity:
    """How many hash at once (best no wider than the cores) and how many may wait for it."""

    slots: int
    queue: int

    @property
    def places(self) -> int:
        return self.slots + self.queue

    @property
    def network_share(self) -> int:
        """The places that callers of one network may have."""
        return max(1, self.places // 2)


@dataclass(frozen=True, slots=True)
class Asker:
    """For whom is hashed. `network` None is not counted (commands of the operator); `departure`
    is waited for only in the queue, and ends when the client has gone."""

    network: str | None = None
    departure: Callable[[], Awaitable[object]] | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """The right to wait for a slot; a HashQueue gives it."""

    asker: Asker


class HashQueue:
    """For one event loop. UnavailableError is what everybody gets who cannot have a turn."""

    def __init__(self, capacity: HashCapacity, refused: Callable[[str], None]) -> None:
        """`refused` is told the reason of each refusal."""
        if capacity.slots < 1:
            raise ValueError("at least one slot is needed")
        self._capacity = capacity
        self._refused = refused
        self._held = 0
        self._held_by_network: Counter[str] = Counter()
        self._taken = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._mean_s = 0.0
        self._is_closed = False

    @property
    def depth(self) -> int:
        """How many wait for a slot; the running ones are not counted."""
        return len(self._waiting)

    @contextlib.contextmanager
    def place(self, asker: Asker) -> Iterator[Place]:
        """A place while inside. Refused at once, without waiting, when there is none."""
        network = asker.network
        if self._is_closed:
            raise self._refusal("shutting_down")
        if self._held >= self._capacity.places:
            raise self._refusal("queue_full", self._retry_after_s())
        if network is not None:
            if self._held_by_network[network] >= self._capacity.network_share:
                raise self._refusal("share_taken", self._retry_after_s())
            self._held_by_network[network] += 1
        self._held += 1
        try:
            yield Place(asker)
        finally:
            self._held -= 1
            if network is not None:
                self._held_by_network[network] -= 1
                if not self._held_by_network[network]:
                    del self._held_by_network[network]  # names come from strangers

    async def take_slot(self, place: Place) -> None:
        """Returns when it is this one's turn; `release_slot` must follow, by whoever ends it."""
        if self._taken < self._capacity.slots:
            self._taken += 1
        else:
            await self._wait_for_turn(place.asker)
        if self._is_closed:  # since the turn was given
            self.release_slot()
            raise self._refusal("shutting_down")

    def release_slot(self) -> None:
        """Passes the slot on to the one who waits longest, who need not take it again."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._taken -= 1

    def learn_duration(self, seconds: float) -> None:
        """What one hash took; Retry-After follows it."""
        if self._mean_s == 0.0:
            self._mean_s = seconds
        self._mean_s += _MEAN_WEIGHT * (seconds - self._mean_s)

    def close(self) -> None:
        """Fails all who wait, and whoever comes from now on."""
        self._is_closed = True
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_exception(self._refusal("shutting_down"))

    async def _wait_for_turn(self, asker: Asker) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        watch = None if asker.departure is None else asyncio.ensure_future(asker.departure())

        def leave(ended: "asyncio.Future[object]") -> None:
            if not (ended.cancelled() or turn.done()):
                ended.exception()  # a broken connection is a departure, too
                self._waiting.remove(turn)
                turn.set_exception(self._refusal("client_gone"))

        if watch is not None:
            watch.add_done_callback(leave)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                with contextlib.suppress(ValueError):  # a slot may have passed over it already
                    self._waiting.remove(turn)
            elif turn.exception() is None:  # got the slot and was cancelled in the same moment
                self.release_slot()
            raise
        finally:
            if watch is not None:
                watch.cancel()

    def _refusal(self, reason: str, retry_after_s: int = 1) -> UnavailableError:
        self._refused(reason)
        return UnavailableError(f"hash_{reason}", retry_after_s)

    def _retry_after_s(self) -> int:
        wait_s = self._mean_s * self._held / self._capacity.slots
        return min(max(1, math.ceil(wait_s)), _MAX_RETRY_AFTER_S)
