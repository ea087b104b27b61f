"""Group commit: one winner for each row, shared transactions, and failures that stay apart."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Sequence
from functools import partial

import pytest

from tests.storage.test_families import Login, start_login, stored
from tests.support.databases import TEST_EPOCH as NOW
from tests.support.records import log_in, new_family
from token_server.errors import UnavailableError
from token_server.records import Family
from token_server.storage import meta
from token_server.storage.batch import Batcher, RotationEntry, Work
from token_server.storage.engine import Store, open_store
from token_server.storage.errors import CONFLICT, unavailable
from token_server.storage.rotation import rotation_batcher


@pytest.fixture
async def rotations(store: Store) -> AsyncIterator[Batcher[RotationEntry, Family | None]]:
    batcher = rotation_batcher(store)
    yield batcher
    await batcher.close()


class Recorder:
    """Work that stores each entry as a value of its own and remembers its batches."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.failures: list[Exception] = []
        self.is_running = asyncio.Event()
        self.gate = asyncio.Event()
        self.gate.set()

    async def run(self, store: Store, entries: Sequence[str]) -> Sequence[str]:
        self.batches.append(list(entries))
        self.is_running.set()
        await self.gate.wait()
        if self.failures:
            raise self.failures.pop(0)
        async with store.write() as conn:
            for entry in entries:
                await meta.set(conn, entry, "done")
                if entry.startswith("bad"):
                    raise ValueError(entry)
        return [f"result of {entry}" for entry in entries]

    def batcher(self, store: Store, **bounds: int) -> Batcher[str, str]:
        # The part before ":" is the row that the entry touches.
        return Batcher(Work(partial(self.run, store), key=lambda e: e.partition(":")[0]), **bounds)


async def until_running(recorder: Recorder) -> None:
    async with asyncio.timeout(10):
        await recorder.is_running.wait()


async def is_stored(store: Store, *entries: str) -> list[bool]:
    async with store.read() as conn:
        return [await meta.get(conn, entry) == "done" for entry in entries]


async def test_hundred_uses_of_one_token_have_one_winner(
    store: Store, rotations: Batcher[RotationEntry, Family | None]
) -> None:
    """RFC 9700 4.14.2: 100 parallel rotations of one generation step it exactly once."""
    login = await start_login(store)
    results = await asyncio.gather(*(rotations.submit(login.entry()) for _ in range(100)))
    winners = [family for family in results if family is not None]
    assert [family.generation for family in winners] == [1]
    assert await stored(store, login.family.family_id) == winners[0]


async def test_two_processes_have_one_winner_between_them(
    store: Store, database_url: str, rotations: Batcher[RotationEntry, Family | None]
) -> None:
    """One generation step each, whichever process a use of the token reaches."""
    first = await start_login(store)
    logins: list[Login] = []
    async with store.write() as conn:
        for _ in range(10):
            family = await log_in(conn, new_family(first.client, first.user))
            assert family is not None
            logins.append(dataclasses.replace(first, family=family))
    second_store = await open_store(database_url, now=lambda: NOW)
    second = rotation_batcher(second_store)
    try:
        uses = [
            batcher.submit(login.entry())
            for _ in range(10)
            for login in logins
            for batcher in (rotations, second)
        ]
        winners = [family for family in await asyncio.gather(*uses) if family is not None]
    finally:
        await second.close()
        await second_store.close()
    assert sorted(f.family_id for f in winners) == sorted(x.family.family_id for x in logins)
    assert {family.generation for family in winners} == {1}


async def test_different_families_share_a_transaction(store: Store) -> None:
    """What arrives while one transaction is in flight goes into the next, within its bound."""
    recorder = Recorder()
    batcher = recorder.batcher(store, max_batch=4)
    recorder.gate.clear()
    first = asyncio.create_task(batcher.submit("a"))
    await until_running(recorder)
    rest = [asyncio.create_task(batcher.submit(entry)) for entry in "bcdefg"]
    await asyncio.sleep(0)
    assert batcher.waiting_count == 6
    recorder.gate.set()
    assert await asyncio.gather(first, *rest) == [f"result of {e}" for e in "abcdefg"]
    assert recorder.batches == [["a"], ["b", "c", "d", "e"], ["f", "g"]]
    assert all(await is_stored(store, *"abcdefg"))
    await batcher.close()


async def test_batch_holds_one_entry_for_each_row(store: Store) -> None:
    """A second caller for the same row waits for the next round, and overtakes nobody."""
    recorder = Recorder()
    batcher = recorder.batcher(store)
    await asyncio.gather(*(batcher.submit(e) for e in ("a:1", "a:2", "b:1", "a:3", "b:2", "c:1")))
    assert recorder.batches == [["a:1", "b:1", "c:1"], ["a:2", "b:2"], ["a:3"]]
    await batcher.close()


async def test_cancelled_caller_cancels_nobody_else(store: Store) -> None:
    """One whose entry is in flight loses only its answer; one still waiting is not run at all."""
    recorder = Recorder()
    batcher = recorder.batcher(store)
    recorder.gate.clear()
    running = [asyncio.create_task(batcher.submit(entry)) for entry in ("a", "b")]
    await until_running(recorder)
    waiting = [asyncio.create_task(batcher.submit(entry)) for entry in ("c", "d", "a:2")]
    await asyncio.sleep(0)
    running[0].cancel()
    waiting[0].cancel()
    await asyncio.sleep(0)
    recorder.gate.set()
    assert await running[1] == "result of b"
    assert await waiting[1] == "result of d"
    assert await waiting[2] == "result of a:2"
    assert recorder.batches == [["a", "b"], ["d", "a:2"]]
    assert await is_stored(store, "a", "b", "c", "d") == [True, True, False, True]
    assert batcher.waiting_count == 0
    await batcher.close()


async def test_bad_row_fails_only_itself(store: Store) -> None:
    """A failure rolls the shared transaction back; the others are done again, one by one."""
    recorder = Recorder()
    batcher = recorder.batcher(store)
    entries = ["a", "bad", "c"]
    results = await asyncio.gather(*(batcher.submit(e) for e in entries), return_exceptions=True)
    assert (results[0], results[2]) == ("result of a", "result of c")
    assert isinstance(results[1], ValueError)
    assert recorder.batches == [["a", "bad", "c"], ["a"], ["bad"], ["c"]]
    assert await is_stored(store, *entries) == [True, False, True]
    await batcher.close()


async def test_conflict_is_retried_once_and_then_one_by_one(store: Store) -> None:
    """architecture.md: 40P01 and 40001 are retried once, then entry by entry."""
    recorder = Recorder()
    batcher = recorder.batcher(store)
    recorder.failures = [unavailable(CONFLICT) for _ in range(2)]
    assert await asyncio.gather(*(batcher.submit(e) for e in "ab")) == [
        "result of a",
        "result of b",
    ]
    assert recorder.batches == [["a", "b"], ["a", "b"], ["a"], ["b"]]
    recorder.failures = [unavailable(CONFLICT) for _ in range(2)]
    with pytest.raises(UnavailableError, match=CONFLICT):
        await batcher.submit("c")
    assert recorder.failures == []
    await batcher.close()


async def test_lost_database_is_told_to_every_waiter(store: Store) -> None:
    """refresh.md 10: a retryable error for each, not one attempt per entry; then it goes on."""
    recorder = Recorder()
    batcher = recorder.batcher(store)
    recorder.failures = [UnavailableError("storage_unavailable", 5)]
    results = await asyncio.gather(*(batcher.submit(e) for e in "abc"), return_exceptions=True)
    assert [type(result) for result in results] == [UnavailableError] * 3
    assert {(r.reason, r.retry_after_s) for r in results if isinstance(r, UnavailableError)} == {
        ("storage_unavailable", 5)
    }
    assert len({id(result) for result in results}) == 3
    assert recorder.batches == [["a", "b", "c"]]
    assert await batcher.submit("d") == "result of d"
    await batcher.close()


async def test_full_queue_refuses_at_once(store: Store) -> None:
    """The queue is bounded: beyond it the answer is a retryable error, not memory."""
    recorder = Recorder()
    batcher = recorder.batcher(store, max_waiting=2)
    recorder.gate.clear()
    accepted = [asyncio.create_task(batcher.submit("a"))]
    await until_running(recorder)
    accepted += [asyncio.create_task(batcher.submit(entry)) for entry in ("b", "b:2")]
    await asyncio.sleep(0)
    with pytest.raises(UnavailableError, match="storage_queue_full"):
        await batcher.submit("c")
    recorder.gate.set()
    assert len(await asyncio.gather(*accepted)) == 3
    assert await batcher.submit("c") == "result of c"
    await batcher.close()


async def test_close_drains_what_was_accepted(store: Store) -> None:
    """Shutting down loses no accepted entry and takes no new one."""
    recorder = Recorder()
    batcher = recorder.batcher(store)
    accepted = [asyncio.create_task(batcher.submit(entry)) for entry in ("a", "a:2", "b")]
    await asyncio.sleep(0)
    await batcher.close()
    assert all(task.done() for task in accepted)
    assert [task.result() for task in accepted] == ["result of a", "result of a:2", "result of b"]
    with pytest.raises(UnavailableError, match="storage_closed"):
        await batcher.submit("c")
    await batcher.close()
