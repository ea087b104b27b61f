"""One fetch in the air, and all who wait for it: threads, and coroutines of any asyncio loop.

The fetch runs in a thread of its own, so no event loop is blocked and no waiter is needed to make
it go on: cancelling one of them, or closing its loop, changes nothing for the others. Carries no
outcome; whoever waited looks at the key set again.
"""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Protocol, TypeVar


class Flight:
    """Made by `launch`; waiting ends at the deadline even when the fetch does not."""

    __slots__ = ("_deadline", "_landed")

    def __init__(self, patience_s: float) -> None:
        # Real time, not an injected clock: it bounds how long a caller is really kept.
        self._deadline = time.monotonic() + patience_s
        self._landed: Future[None] = Future()
        self._landed.set_running_or_notify_cancel()  # from now on no waiter can cancel it

    def launch(self, work: Callable[[], None]) -> None:
        """Run `work` in a daemon thread; RuntimeError when no thread can be started."""

        def run() -> None:
            try:
                work()
            finally:
                self._landed.set_result(None)

        threading.Thread(target=run, name="token-server-verify-fetch", daemon=True).start()

    @property
    def is_overdue(self) -> bool:
        """Nobody should begin to wait for it any more."""
        return time.monotonic() >= self._deadline

    def wait(self) -> None:
        """Block this thread until the fetch is over, or the deadline."""
        try:
            self._landed.result(max(0.0, self._deadline - time.monotonic()))
        except TimeoutError:
            return

    async def wait_async(self) -> None:
        """As `wait`, without blocking the running asyncio loop."""
        import asyncio

        landed = asyncio.wrap_future(self._landed)
        try:
            await asyncio.wait([landed], timeout=max(0.0, self._deadline - time.monotonic()))
        finally:
            landed.cancel()  # a loop that is closed before the landing is left alone


class MustWaitError(Exception):
    """Not an answer yet: ask again when the flight has landed, and say that `source` was waited
    for, since nothing is waited for twice."""

    def __init__(self, flight: Flight, source: object) -> None:
        super().__init__("something is being fetched")
        self.flight = flight
        self.source = source


T_co = TypeVar("T_co", covariant=True)


class Landing(Protocol[T_co]):
    """What may have to be fetched first: see `Refreshed`."""

    def ready(self) -> T_co | None: ...

    def flight(self) -> Flight | None: ...

    def available(self) -> T_co: ...


def value_now(source: Landing[T_co], waited: Sequence[object]) -> T_co:
    """What the source holds: MustWaitError when it is worth waiting, its own error when not."""
    if source in waited:
        return source.available()
    value = source.ready()
    if value is not None:
        return value
    flight = source.flight()
    if flight is not None and not flight.is_overdue:
        raise MustWaitError(flight, source)
    return source.available()
