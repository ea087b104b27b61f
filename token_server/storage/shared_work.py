"""Work that many callers want done and one run of which is enough for all of them.

One run at a time, in a task of its own: a caller that is cancelled cancels nobody else's. An
error of the run reaches everybody who waited for it, and nobody is left with an unread one.
"""

import asyncio
from collections.abc import Callable, Coroutine


class SharedWork:
    """`await work.join()` is done when a run has ended that was under way or began then."""

    def __init__(self, run: Callable[[], Coroutine[None, None, None]]) -> None:
        self._run = run
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> asyncio.Task[None]:
        """Start a run unless one is under way, without waiting for it."""
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())
            self._task.add_done_callback(_read_error)
        return self._task

    async def join(self) -> None:
        await asyncio.shield(self.begin())

    async def close(self) -> None:
        """Wait for the run under way, whatever comes of it: it uses what is closed next."""
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)


def _read_error(task: asyncio.Task[None]) -> None:
    if not task.cancelled():
        task.exception()
