"""Turns to write a SQLite database: fair between processes, bounded, and never left behind."""

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.databases import TEST_EPOCH as NOW
from token_server.errors import UnavailableError
from token_server.storage import meta
from token_server.storage.engine import Store, open_store
from token_server.storage.write_lock import WriteLock


@pytest.fixture
async def store(sqlite_url: str) -> AsyncIterator[Store]:
    opened = await open_store(sqlite_url, now=lambda: NOW)
    yield opened
    await opened.close()


_HOLDER = """
import asyncio, sys
from token_server.storage.engine import open_store
from token_server.storage import meta

async def main():
    store = await open_store(sys.argv[1], now=lambda: 1)
    async with store.write() as conn:
        await meta.set(conn, "uncommitted", "value")
        print("holding", flush=True)
        await asyncio.sleep(60)

asyncio.run(main())
"""

# What a command does: open, change one thing in a write block, close; again and again.
_COMMANDS = """
import asyncio, sys, time
from token_server.storage.engine import open_store
from token_server.storage import meta

async def main():
    longest = 0.0
    for number in range(int(sys.argv[2])):
        began = time.monotonic()
        store = await open_store(sys.argv[1], now=lambda: 1)
        async with store.write() as conn:
            await meta.set(conn, f"command-{number}", "done")
        await store.close()
        longest = max(longest, time.monotonic() - began)
    print(longest)

asyncio.run(main())
"""


@contextmanager
def holder(database_url: str) -> Iterator[subprocess.Popen[str]]:
    """Another process inside a write block."""
    command = [sys.executable, "-c", _HOLDER, database_url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "holding\n"
        try:
            yield process
        finally:
            process.kill()


async def write(store: Store, name: str, wait_s: float | None = None) -> None:
    async with store.write(wait_s=wait_s) as conn:
        await meta.set(conn, name, "done")


async def test_command_line_writes_while_a_server_writes_under_load(
    store: Store, sqlite_url: str
) -> None:
    """A busy server does not starve the command line, and neither sees an error."""
    commands = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _COMMANDS, sqlite_url, "15", stdout=asyncio.subprocess.PIPE
    )
    writes = 0
    lags: list[float] = []

    async def serve() -> None:
        nonlocal writes
        while commands.returncode is None:
            await write(store, "server")
            writes += 1

    async def probe() -> None:
        while commands.returncode is None:
            began = time.monotonic()
            await asyncio.sleep(0.005)
            lags.append(time.monotonic() - began - 0.005)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(8):
            tasks.create_task(serve())
        tasks.create_task(probe())
        out, _ = await commands.communicate()
    assert commands.returncode == 0
    assert float(out) < 5.0, "a turn came within the bound every time"
    assert writes > 15, "the server was not starved either"
    assert sorted(lags)[len(lags) // 2] < 0.1, "waiting does not block the event loop"
    async with store.read() as conn:
        assert await meta.get(conn, "command-14") == "done"


async def test_wait_for_another_process_is_bounded(store: Store, sqlite_url: str) -> None:
    """refresh.md 10: a lock that does not come is a retryable error, for all who wait, in time."""
    with holder(sqlite_url):
        began = time.monotonic()
        results = await asyncio.gather(
            *(write(store, f"w{i}", wait_s=0.3) for i in range(20)), return_exceptions=True
        )
        assert time.monotonic() - began < 3.0
    assert [type(result) for result in results] == [UnavailableError] * 20
    assert {r.reason for r in results if isinstance(r, UnavailableError)} == {"storage_busy"}
    await write(store, "after")


async def test_killed_holder_frees_the_lock_and_leaves_nothing(
    store: Store, sqlite_url: str
) -> None:
    """kill -9 inside a write block: the next turn comes at once, and the change is not there."""
    with holder(sqlite_url) as process:
        waiting = asyncio.create_task(write(store, "next"))
        await asyncio.sleep(0.1)
        assert not waiting.done()
        process.send_signal(signal.SIGKILL)
        await asyncio.wait_for(waiting, timeout=3)
    async with store.read() as conn:
        assert await meta.get(conn, "uncommitted") is None
        assert await meta.get(conn, "next") == "done"


async def test_cancelled_waiter_leaves_no_lock_behind(store: Store, sqlite_url: str) -> None:
    """Whoever is cancelled while another process holds the lock has let go of the turnstile."""
    with holder(sqlite_url):
        waiting = [asyncio.create_task(write(store, f"w{i}")) for i in range(3)]
        await asyncio.sleep(0.05)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
    await write(store, "after", wait_s=1)


async def test_writer_cancelled_at_any_point_leaves_no_transaction_open(
    store: Store, sqlite_url: str
) -> None:
    """Between two hops to the driver's thread, or in one: the next writer finds it free."""
    second = await open_store(sqlite_url, now=lambda: NOW)
    try:
        for step in range(60):
            writing = asyncio.create_task(write(store, "cancelled"))
            for _ in range(step % 12):
                await asyncio.sleep(0)
            await asyncio.sleep(step // 12 * 0.0004)
            writing.cancel()
            await asyncio.gather(writing, return_exceptions=True)
            await write(second, "second", wait_s=1)
            await write(store, "first", wait_s=1)
    finally:
        await second.close()


async def test_waiter_comes_before_a_holder_that_returns(tmp_path: Path) -> None:
    """The turnstile: who lets go cannot come back past somebody who has been waiting."""
    database = tmp_path / "x.db"
    ours, theirs = WriteLock(database, 5.0), WriteLock(database, 5.0)
    order: list[str] = []

    async def take(lock: WriteLock, name: str) -> None:
        async with lock.hold():
            order.append(name)
            await asyncio.sleep(0.02)

    async def keep_coming() -> None:
        for _ in range(10):
            await take(ours, "busy")

    busy = asyncio.create_task(keep_coming())
    await asyncio.sleep(0.01)  # the first turn is on
    await take(theirs, "waiter")
    await busy
    ours.close()
    theirs.close()
    # It may meet one more turn of the busy one before it has passed the turnstile itself.
    assert order.index("waiter") <= 2
    assert order.count("busy") == 10


async def test_lock_files_are_private(store: Store) -> None:
    """Nobody else on the machine can hold the server's turn."""
    assert store.path is not None
    for name in (store.path.name + ".lock", store.path.name + ".lock-queue"):
        assert (store.path.parent / name).stat().st_mode & 0o777 == 0o600
