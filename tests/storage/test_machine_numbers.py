"""Numbers of machine tokens out of reserved blocks, on both engines."""

import asyncio

import pytest

from tests.support.databases import TEST_EPOCH
from token_server.core.status_list import BLOCK_SIZE
from token_server.errors import UnavailableError
from token_server.storage import status
from token_server.storage.engine import Store, open_store
from token_server.storage.machine_numbers import TOP_UP_AT, USE_FOR_S, MachineNumbers


async def blocks_of(store: Store) -> status.Numbers:
    async with store.read() as conn:
        return await status.block_numbers(conn)


async def test_no_number_is_given_twice(store: Store, database_url: str) -> None:
    """Two processes, many tasks at once, over the ends of several blocks."""
    other = await open_store(database_url, now=lambda: TEST_EPOCH)
    sources = [MachineNumbers(store), MachineNumbers(other)]
    try:
        tasks = [source.take(TEST_EPOCH) for source in sources for _ in range(2 * BLOCK_SIZE + 9)]
        numbers = await asyncio.gather(*tasks)
        for source in sources:
            await source.close()
    finally:
        await other.close()
    assert len(set(numbers)) == len(numbers)
    found = await blocks_of(store)
    assert found.lowest is not None
    assert found.highest is not None
    assert min(numbers) >= found.lowest * BLOCK_SIZE
    assert max(numbers) < (found.highest + 1) * BLOCK_SIZE
    assert found.highest - found.lowest + 1 <= 8, "one write for each 1,024, and one ahead"


async def test_next_block_is_there_before_it_is_needed(sqlite_store: Store) -> None:
    """Reserved in the background: the token after the last of a block waits for no write."""
    numbers = MachineNumbers(sqlite_store)
    for _ in range(BLOCK_SIZE - TOP_UP_AT):
        await numbers.take(TEST_EPOCH)
    await numbers.close()  # the write that was begun
    await sqlite_store.close()
    taken = [await numbers.take(TEST_EPOCH) for _ in range(TOP_UP_AT + BLOCK_SIZE)]
    assert len(set(taken)) == TOP_UP_AT + BLOCK_SIZE
    with pytest.raises(UnavailableError):
        await numbers.take(TEST_EPOCH)


async def test_number_is_not_used_when_its_block_is_old(store: Store) -> None:
    """Pruning goes by the age of the block: its tokens must have been issued soon after."""
    numbers = MachineNumbers(store)
    first = await numbers.take(TEST_EPOCH)
    same = await numbers.take(TEST_EPOCH + USE_FOR_S - 1)
    store.now = lambda: TEST_EPOCH + USE_FOR_S
    fresh = await numbers.take(TEST_EPOCH + USE_FOR_S)
    await numbers.close()
    assert same // BLOCK_SIZE == first // BLOCK_SIZE
    assert fresh // BLOCK_SIZE == first // BLOCK_SIZE + 1


async def test_cancelled_caller_takes_no_block_with_it(store: Store) -> None:
    """A client that hangs up while a block is reserved: the next caller has it."""
    numbers = MachineNumbers(store)
    waiting = asyncio.create_task(numbers.take(TEST_EPOCH))
    await asyncio.sleep(0)
    waiting.cancel()
    await numbers.take(TEST_EPOCH)
    await numbers.close()
    found = await blocks_of(store)
    assert found.lowest == found.highest
