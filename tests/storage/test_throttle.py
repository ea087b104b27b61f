"""Budgets in SQL on both engines: atomic over processes, all or nothing, bounded in rows."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import Any

import pytest
from sqlalchemy import text

from tests.support.databases import TEST_EPOCH as NOW
from token_server.core.throttle import Bucket, Budget, Done, GiveBack, Refused, Take
from token_server.storage.engine import Store, open_store
from token_server.storage.steps import Transaction
from token_server.storage.throttle import (
    PRUNE_MARGIN_S,
    Decision,
    apply_steps,
    prune_throttles,
    step_batcher,
)

ACCOUNT = Bucket("account", Budget(5, 10))
NETWORK = Bucket("network", Budget(30, 1))


def take(*buckets: Bucket, now: float = NOW) -> Take:
    return Take("group", buckets or (ACCOUNT, NETWORK), now)


async def apply(store: Store, *steps: Take | GiveBack) -> list[Decision]:
    return await store.write_steps(partial(apply_steps, steps))


async def rows(store: Store) -> dict[str, int]:
    async with store.read() as connection:
        found = await connection.execute(text("SELECT bucket, full_at FROM throttles"))
        return {row.bucket: row.full_at for row in found}


@contextlib.asynccontextmanager
async def two_stores(database_url: str) -> AsyncIterator[tuple[Store, Store]]:
    """As two processes have them; on SQLite they meet at the file lock."""
    first = await open_store(database_url, now=lambda: NOW)
    second = await open_store(database_url, now=lambda: NOW)
    try:
        yield first, second
    finally:
        await second.close()
        await first.close()


async def test_step_is_stored_in_milliseconds(store: Store) -> None:
    """The table's contract: GCRA's instant, in epoch milliseconds."""
    assert await apply(store, take()) == [
        Done({"account": NOW + 10.0, "network": NOW + 1.0}),
    ]
    assert await rows(store) == {"account": (NOW + 10) * 1000, "network": (NOW + 1) * 1000}


async def test_refused_step_writes_nothing(store: Store) -> None:
    """A spent account costs its network nothing, and new names get no rows."""
    await apply(store, *[take()] * 5)
    before = await rows(store)

    decisions = await apply(store, take(), take(Bucket("other", Budget(5, 10)), ACCOUNT))

    assert decisions == [Refused(ACCOUNT, 10.0)] * 2
    assert await rows(store) == before


async def test_steps_of_one_batch_see_each_other(store: Store) -> None:
    """Seven guesses at once against five: five, in their order."""
    decisions = await apply(store, *[take()] * 7)
    assert [isinstance(decision, Done) for decision in decisions] == [True] * 5 + [False] * 2


async def test_given_back_steps_count_no_more(store: Store) -> None:
    """After a success the account is full again and the network has its one step back."""
    await apply(store, *[take()] * 5)

    await apply(store, GiveBack("group", (NETWORK,), (ACCOUNT,), NOW))

    assert await rows(store) == {"network": (NOW + 4) * 1000}
    assert isinstance((await apply(store, take()))[0], Done)


async def test_two_processes_never_exceed_a_budget_together(database_url: str) -> None:
    """F108, 268: 200 guesses at once through two stores, five pass (CVE-2024-4629)."""
    async with two_stores(database_url) as stores:
        batchers = [step_batcher(store) for store in stores]
        try:
            decisions = await asyncio.gather(
                *(batchers[number % 2].submit(take()) for number in range(200))
            )
        finally:
            await asyncio.gather(*(batcher.close() for batcher in batchers))
        passed = [decision for decision in decisions if isinstance(decision, Done)]
        assert len(passed) == 5
        assert await rows(stores[0]) == {"account": (NOW + 50) * 1000, "network": (NOW + 5) * 1000}


async def test_unbatched_transactions_never_exceed_a_budget(database_url: str) -> None:
    """The lock, not the batch, is what makes it hold: each guess in its own transaction."""
    async with two_stores(database_url) as stores:
        decisions = await asyncio.gather(
            *(apply(stores[number % 2], take()) for number in range(40))
        )
        assert sum(isinstance(decision, Done) for (decision,) in decisions) == 5


async def test_count_outlives_the_process(database_url: str) -> None:
    """F114: what was spent before a restart is spent after it."""
    async with two_stores(database_url) as (first, _):
        await apply(first, *[take()] * 5)
    async with two_stores(database_url) as (again, _):
        assert await apply(again, take()) == [Refused(ACCOUNT, 10.0)]
        assert isinstance((await apply(again, take(now=NOW + 10)))[0], Done)


async def test_flood_shares_transactions(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """1,000 guesses at once cost a transaction for each hundred of them, not one each."""
    begun = []
    write_steps = store.write_steps

    async def noting(transaction: Transaction[Any]) -> object:
        begun.append(transaction)
        return await write_steps(transaction)

    monkeypatch.setattr(store, "write_steps", noting)
    batcher = step_batcher(store)
    try:
        await asyncio.gather(*(batcher.submit(take()) for _ in range(1000)))
    finally:
        await batcher.close()
    assert 1 <= len(begun) <= 10


async def test_past_states_go_as_new_ones_come(store: Store) -> None:
    """Nobody has to clean up: each transaction deletes more old rows than it adds."""
    await apply(store, *(take(Bucket(f"old-{n}", Budget(5, 10))) for n in range(20)))
    later = NOW + 10 + PRUNE_MARGIN_S + 1

    await apply(store, take(now=later))
    assert len(await rows(store)) == 16 + 2
    for _ in range(4):
        await apply(store, take(now=later))
    assert set(await rows(store)) == {"account", "network"}


async def test_pruning_keeps_what_still_counts(store: Store) -> None:
    """Only states that were past at the given instant go, at most as many as asked."""
    await apply(store, *(take(Bucket(f"b{n}", Budget(5, 10 + n))) for n in range(4)))
    async with store.write() as connection:
        assert await prune_throttles(connection, NOW + 12, 10) == 2
        assert await prune_throttles(connection, NOW + 100, 1) == 1
    assert set(await rows(store)) == {"b3"}


@pytest.mark.parametrize("sizes", [(1,), (3, 1, 128)])
async def test_any_number_of_steps_fits(store: Store, sizes: Sequence[int]) -> None:
    """A statement for each size of a batch, each of them right."""
    for size in sizes:
        steps = [take(Bucket(f"{size}-{n}", Budget(1, 10))) for n in range(size)]
        assert all(isinstance(decision, Done) for decision in await apply(store, *steps))
        assert all(isinstance(decision, Refused) for decision in await apply(store, *steps))
    assert len(await rows(store)) == sum(sizes)
