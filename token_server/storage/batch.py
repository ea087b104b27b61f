"""Group commit: callers that arrive while a transaction is in flight share the next one.

A batch holds at most one entry per key, so that a second caller for the same row waits for the
outcome of the first; on PostgreSQL the statement itself locks rows in one order. A deadlock or
serialization failure is retried once; after that, and after any failure that is not the
environment's, entries run one by one, so that one bad row fails only itself. The batch is run by
a task of its own: a cancelled caller cancels nobody else. Nothing here polls.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from token_server.errors import UnavailableError
from token_server.storage.errors import CONFLICT

E = TypeVar("E")
R = TypeVar("R")

MAX_BATCH = 128
MAX_WAITING = 10_000


@dataclass(frozen=True, slots=True)
class RotationEntry:
    """One refresh token presented by one client at one instant."""

    family_id: bytes = field(repr=False)
    generation: int
    client_id: str
    now: int
    idle_ttl_s: int


@dataclass(frozen=True, slots=True)
class Work(Generic[E, R]):
    """`run` does all entries in one transaction of its own and returns their results in the same
    order; `key` names the row that an entry touches."""

    run: Callable[[Sequence[E]], Awaitable[Sequence[R]]]
    key: Callable[[E], Hashable]


@dataclass(slots=True)
class _Waiter(Generic[E, R]):
    entry: E
    result: asyncio.Future[R]


class Batcher(Generic[E, R]):
    """One per kind of statement and process; belongs to the event loop that first submits."""

    def __init__(
        self,
        work: Work[E, R],
        *,
        max_batch: int = MAX_BATCH,
        max_waiting: int = MAX_WAITING,
    ) -> None:
        self._work = work
        self._max_batch = max_batch
        self._max_waiting = max_waiting
        # Keys in the order in which their first waiter came; each with its own queue.
        self._waiting: dict[Hashable, deque[_Waiter[E, R]]] = {}
        self._waiting_count = 0
        self._task: asyncio.Task[None] | None = None
        self._is_closed = False

    @property
    def waiting_count(self) -> int:
        """Entries that no transaction has taken up yet."""
        return self._waiting_count

    async def submit(self, entry: E) -> R:
        """The entry's own result, durable. Raises UnavailableError when the queue is full, the
        batcher closed or the database away."""
        if self._is_closed:
            raise UnavailableError("storage_closed")
        if self._waiting_count >= self._max_waiting:
            raise UnavailableError("storage_queue_full")
        waiter = _Waiter[E, R](entry, asyncio.get_running_loop().create_future())
        self._waiting.setdefault(self._work.key(entry), deque()).append(waiter)
        self._waiting_count += 1
        if self._task is None:
            self._task = asyncio.create_task(self._drain(), name="batcher")
        return await waiter.result

    async def close(self) -> None:
        """Refuses new entries and waits until the accepted ones have their results."""
        self._is_closed = True
        if self._task is not None:
            await asyncio.wait([self._task])

    async def _drain(self) -> None:
        """Runs until nobody waits; the next `submit` starts it again."""
        taken: list[_Waiter[E, R]] = []
        try:
            while taken := self._take():
                await self._settle(taken)
        finally:
            self._task = None
            # Reached with waiters left only when this task was cancelled (the loop is closing).
            for waiter in (*taken, *(w for queue in self._waiting.values() for w in queue)):
                _fail(waiter, UnavailableError("storage_closed"))
            self._waiting.clear()
            self._waiting_count = 0

    def _take(self) -> list[_Waiter[E, R]]:
        """The next batch: the oldest live waiter of each of the first keys."""
        taken: list[_Waiter[E, R]] = []
        for key in list(self._waiting):
            if len(taken) == self._max_batch:
                break
            queue = self._waiting.pop(key)
            while queue:
                waiter = queue.popleft()
                self._waiting_count -= 1
                if not waiter.result.done():  # its caller is still there
                    taken.append(waiter)
                    break
            if queue:
                self._waiting[key] = queue  # behind the other keys
        return taken

    async def _settle(self, waiters: Sequence[_Waiter[E, R]]) -> None:
        """Gives every waiter its result or its error. Raises nothing but cancellation."""
        error = await self._try(waiters)
        if _is_conflict(error):
            error = await self._try(waiters)
        if error is None:
            return
        if isinstance(error, UnavailableError) and not _is_conflict(error):
            for waiter in waiters:  # an error of its own for each: they grow tracebacks
                _fail(
                    waiter, UnavailableError(error.reason, error.retry_after_s, detail=error.detail)
                )
        elif len(waiters) == 1:
            _fail(waiters[0], error)
        else:
            for waiter in waiters:
                await self._settle([waiter])

    async def _try(self, waiters: Sequence[_Waiter[E, R]]) -> Exception | None:
        try:
            results = await self._work.run([waiter.entry for waiter in waiters])
        except Exception as error:  # noqa: BLE001 - each waiter gets it
            return error
        for waiter, result in zip(waiters, results, strict=True):
            if not waiter.result.done():
                waiter.result.set_result(result)
        return None


def _is_conflict(error: Exception | None) -> bool:
    return isinstance(error, UnavailableError) and error.reason == CONFLICT


def _fail(waiter: _Waiter[E, R], error: Exception) -> None:
    if not waiter.result.done():
        waiter.result.set_exception(error)
