"""The turn to write a SQLite database: one writer over all tasks and processes of a machine.

SQLite before 3.51.3 can corrupt a WAL when two connections write or checkpoint at once, and its
own busy handler is unfair. So every write block holds an exclusive flock on `<database>.lock`.
Whoever waits for it holds a second file, the turnstile, meanwhile: a busy server that lets go
cannot come back past a waiting command line, because it would have to pass the turnstile first.
The kernel drops both when a process dies. Nothing here blocks the event loop or uses a thread:
flock is only tried, every millisecond and only while another process holds it, so that a
cancelled or late waiter leaves nothing behind.
"""

import asyncio
import contextlib
import fcntl
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

from token_server.storage.errors import BUSY, unavailable

_RETRY_S = 0.001


class WriteLock:
    """`async with lock.hold():` is this task's turn; UnavailableError("storage_busy") if none
    comes within `timeout_s`."""

    def __init__(self, database: Path, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._tasks = asyncio.Lock()  # first come, first served among this process's tasks
        self._turnstile = _open(database.with_name(database.name + ".lock-queue"))
        self._gate = _open(database.with_name(database.name + ".lock"))

    @contextlib.asynccontextmanager
    async def hold(self, timeout_s: float | None = None) -> AsyncIterator[None]:
        deadline = time.monotonic() + (self._timeout_s if timeout_s is None else timeout_s)
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                await self._tasks.acquire()
        except TimeoutError:
            raise unavailable(BUSY, "another process writes") from None
        try:
            await self._acquire(deadline)
            try:
                yield
            finally:
                fcntl.flock(self._gate, fcntl.LOCK_UN)
        finally:
            self._tasks.release()

    async def _acquire(self, deadline: float) -> None:
        await _poll(self._turnstile, deadline)
        try:
            await _poll(self._gate, deadline)
        finally:
            fcntl.flock(self._turnstile, fcntl.LOCK_UN)

    def close(self) -> None:
        os.close(self._turnstile)
        os.close(self._gate)


async def _poll(descriptor: int, deadline: float) -> None:
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise unavailable(BUSY, "another process writes") from None
        else:
            return
        await asyncio.sleep(_RETRY_S)


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
