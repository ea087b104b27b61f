"""Signing one turn of the event loop at a time, also on cores that it leaves idle.

What is to be signed in one turn is one batch: signatures one after the other find their tables in
the processor's caches, which saves a tenth of each. The loop works it off, and helper threads take
from the same batch (RSA runs without the GIL), so that a lone signature changes no thread and a
batch costs one change. Decides nothing about keys: a job is a function that signs.
"""

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from queue import SimpleQueue

from token_server.config_loading import usable_cores

Signed = tuple[str, str]  # compact JWS, kid
MAX_HELPERS = 3  # beyond that the event loop cannot make enough work for them


def helpers_for(processes: int) -> int:
    """How many helper threads are worth while beside each of `processes` event loops here."""
    return max(0, min(MAX_HELPERS, usable_cores() // processes - 1))


@dataclass(slots=True)
class _Job:
    sign: Callable[[], Signed]
    signed: "asyncio.Future[Signed]"
    outcome: Signed | None = field(default=None)
    error: Exception | None = field(default=None)

    def do(self) -> None:
        try:
            self.outcome = self.sign()
        except Exception as error:  # noqa: BLE001 - handed to whoever waits
            self.error = error

    def settle(self) -> None:
        """In the event loop only. Who waited may have gone."""
        if self.signed.done():
            return
        if self.error is not None:
            self.signed.set_exception(self.error)
        elif self.outcome is not None:
            self.signed.set_result(self.outcome)


@dataclass(frozen=True, slots=True)
class _Share:
    loop: asyncio.AbstractEventLoop
    batch: deque[_Job]


class SigningPool:
    """One per event loop."""

    def __init__(self, helpers: int = 0) -> None:
        self._helpers = helpers
        self._threads: list[threading.Thread] = []
        self._shares: SimpleQueue[_Share | None] = SimpleQueue()
        self._waiting: list[_Job] = []

    async def run(self, sign: Callable[[], Signed]) -> Signed:
        """What `sign` returns or raises; it may run in another thread."""
        loop = asyncio.get_running_loop()
        if not self._waiting:
            loop.call_soon(self._work_off, loop)
        job = _Job(sign, loop.create_future())
        self._waiting.append(job)
        return await job.signed

    def close(self) -> None:
        """Let the helpers finish what they have begun, and end them."""
        for _ in self._threads:
            self._shares.put(None)
        for thread in self._threads:
            thread.join()
        self._threads.clear()

    def _work_off(self, loop: asyncio.AbstractEventLoop) -> None:
        batch = deque(self._waiting)
        self._waiting.clear()
        for _ in range(min(self._helpers, len(batch) - 1)):
            self._shares.put(_Share(loop, batch))
            if len(self._threads) < self._helpers:
                self._start_helper()
        for job in _taken_from(batch):
            job.do()
            job.settle()

    def _start_helper(self) -> None:
        thread = threading.Thread(target=self._help, name="signing-helper", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _help(self) -> None:
        while (share := self._shares.get()) is not None:
            done = []
            for job in _taken_from(share.batch):
                job.do()
                done.append(job)
            with contextlib.suppress(RuntimeError):  # the loop was closed: nobody waits
                share.loop.call_soon_threadsafe(_settle, done)


def _taken_from(batch: deque[_Job]) -> Iterator[_Job]:
    """Until it is empty; several threads may take from one batch."""
    while True:
        try:
            yield batch.popleft()
        except IndexError:
            return


def _settle(done: list[_Job]) -> None:
    for job in done:
        job.settle()
