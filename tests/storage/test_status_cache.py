"""The status lists of one process follow what any other revokes, on both engines."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.storage.test_families import start_login
from tests.support.databases import TEST_EPOCH
from tests.support.people import StandingClock
from tests.support.status_lists import continue_at, revoke
from token_server.config import SETTINGS
from token_server.core.status_list import BLOCK_SIZE, LIST_SIZE, ListName
from token_server.errors import UnavailableError
from token_server.records import Family
from token_server.storage import families, restoring, status, status_cache
from token_server.storage.engine import Store, open_store
from token_server.storage.status_cache import HORIZON_S, OVERLAP_S, StatusCache, ensure_status_key

KEY = bytes(32)


@pytest.fixture
def clock(store: Store) -> StandingClock:
    clock = StandingClock()
    store.now = clock.now
    return clock


@pytest.fixture
async def cache(store: Store, clock: StandingClock) -> AsyncIterator[StatusCache]:
    cache = StatusCache(store, KEY, clock.monotonic)
    await cache.follow()
    yield cache
    await cache.close()


async def start(store: Store, **changes: object) -> Family:
    return (await start_login(store, **changes)).family


def is_revoked(cache: StatusCache, family: Family) -> bool:
    position = cache.session_position(family.seq)
    entry = cache.find(position.name)
    assert entry is not None
    return entry.bits.is_set(position.index)


async def look(cache: StatusCache, clock: StandingClock, seconds: int = 1) -> None:
    clock.at += seconds
    await cache.follow()


async def test_start_reads_only_what_tokens_can_still_be_shown_for(
    store: Store, clock: StandingClock
) -> None:
    """No access token lives for more than a day: millions of log-outs of the last month must not
    keep the first list waiting, and nothing younger may be missed."""
    longest_life_s = SETTINGS["access_token_ttl"].high
    assert longest_life_s is not None
    assert longest_life_s < HORIZON_S
    past, young = await start(store), await start(store)
    await revoke(store, past.family_id, clock.at)
    clock.at += HORIZON_S - longest_life_s
    await revoke(store, young.family_id, clock.at)
    clock.at += longest_life_s + 1

    restarted = StatusCache(store, KEY, clock.monotonic)
    await restarted.follow()

    assert (is_revoked(restarted, past), is_revoked(restarted, young)) == (False, True)
    await restarted.close()


async def test_revocation_of_another_process_is_seen(
    store: Store, cache: StatusCache, clock: StandingClock
) -> None:
    """One bit, and no other; the list's version says that it has changed."""
    gone, here = await start(store), await start(store)
    await look(cache, clock)
    before = cache.find(ListName("s", 0))
    assert before is not None
    assert not is_revoked(cache, gone)
    version = before.version
    await revoke(store, gone.family_id, clock.at)
    await look(cache, clock)
    assert (is_revoked(cache, gone), is_revoked(cache, here)) == (True, False)
    after = cache.find(ListName("s", 0))
    assert after is not None
    assert after.version != version
    await look(cache, clock)
    assert after.version == cache.find(ListName("s", 0)).version  # type: ignore[union-attr]  # is


async def test_revocations_are_read_in_pages(
    store: Store, clock: StandingClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More than a page of the same instant, at the start and while following."""
    monkeypatch.setattr(status_cache, "PAGE", 2)
    sessions = [await start(store) for _ in range(10)]
    for family in sessions[:5]:
        await revoke(store, family.family_id, clock.at)
    cache = StatusCache(store, KEY, clock.monotonic)
    await cache.follow()
    assert [is_revoked(cache, family) for family in sessions] == [True] * 5 + [False] * 5
    for family in sessions[5:]:
        await revoke(store, family.family_id, clock.at)
    await look(cache, clock)
    assert all(is_revoked(cache, family) for family in sessions)


@pytest.mark.parametrize("late_s", [1, OVERLAP_S // 2, OVERLAP_S - 2])
async def test_late_commit_is_found(
    store: Store, cache: StatusCache, clock: StandingClock, late_s: int
) -> None:
    """A slow request, or a clock that is behind, commits an instant that was passed already."""
    first, late = await start(store), await start(store)
    await revoke(store, first.family_id, clock.at)
    await look(cache, clock)
    assert (is_revoked(cache, first), is_revoked(cache, late)) == (True, False)
    clock.at += late_s - 1
    await revoke(store, late.family_id, clock.at - late_s)
    await look(cache, clock)
    assert is_revoked(cache, late)


async def test_clock_that_goes_fast_hides_nobody_elses_revocation(
    store: Store, cache: StatusCache, clock: StandingClock
) -> None:
    """An instance an hour ahead revokes; the revocations of all others are found all the same."""
    ahead = await start(store)
    await revoke(store, ahead.family_id, clock.at + 3600)
    await look(cache, clock)
    assert is_revoked(cache, ahead)
    for _ in range(3):
        family = await start(store)
        clock.at += OVERLAP_S + 5
        await revoke(store, family.family_id, clock.at - 3)
        await look(cache, clock)
        assert is_revoked(cache, family)


async def test_what_was_all_found_is_not_read_again(
    store: Store, cache: StatusCache, clock: StandingClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Following costs what is new: many sessions that ended at once are read once."""
    for _ in range(3):
        await revoke(store, (await start(store)).family_id, clock.at)
    read: list[int] = []
    original = status.revoked_after

    async def counting(*arguments: object) -> list[status.Revoked]:
        found = await original(*arguments)  # type: ignore[arg-type]  # handed on
        read.append(len(found))
        return found

    monkeypatch.setattr(status, "revoked_after", counting)
    for seconds in (1, 1, 10, OVERLAP_S, OVERLAP_S):
        await look(cache, clock, seconds)
    assert sum(read) == 3


async def test_sessions_from_131072_on_are_in_the_next_list(
    store: Store, cache: StatusCache, clock: StandingClock
) -> None:
    """The last of one list and the first of the next; both lists are named, the newest last."""
    async with store.write() as conn:
        await continue_at(conn, "families", "seq", LIST_SIZE - 1)
    last, first = await start(store), await start(store)
    assert (last.seq, first.seq) == (LIST_SIZE - 1, LIST_SIZE)
    await revoke(store, first.family_id, clock.at)
    await look(cache, clock)
    assert [str(name) for name in cache.names()] == ["s0", "s1"]
    assert (is_revoked(cache, last), is_revoked(cache, first)) == (False, True)
    assert cache.session_position(first.seq).name == ListName("s", 1)


async def test_list_ends_with_its_last_session(
    store: Store, cache: StatusCache, clock: StandingClock
) -> None:
    """When the rows are pruned, their tokens have long expired: the list is gone."""
    old = await start(store, idle_expires_at=clock.at, absolute_expires_at=clock.at)
    await revoke(store, old.family_id, clock.at)
    async with store.write() as conn:
        await continue_at(conn, "families", "seq", LIST_SIZE)
    await start(store)
    await look(cache, clock)
    assert [str(name) for name in cache.names()] == ["s0", "s1"]
    async with store.write() as conn:
        assert await families.prune_families(conn, clock.at, 9) == 1
    await look(cache, clock)
    assert [str(name) for name in cache.names()] == ["s1"]
    assert cache.find(ListName("s", 0)) is None


async def test_only_the_list_after_the_newest_is_there_ahead(
    store: Store, cache: StatusCache, clock: StandingClock
) -> None:
    """Another instance may be giving out its first position; anything else is made up."""
    await start(store)
    await look(cache, clock)
    assert cache.find(ListName("s", 1)) is not None
    assert cache.find(ListName("s", 2)) is None
    assert cache.find(ListName("s", 10**11)) is None


async def test_list_of_machine_tokens_begins_with_the_first_block(
    store: Store, cache: StatusCache, clock: StandingClock
) -> None:
    """Nobody fetches a list that no token names; a revoked number shows in its place."""
    assert [str(name) for name in cache.names()] == ["s0"]
    number = await cache.machine_number(clock.at)
    assert number // BLOCK_SIZE > 0
    async with store.write() as conn:
        await status.revoke_machine_token(conn, number, clock.at)
    await look(cache, clock)
    assert [str(name) for name in cache.names()] == ["m0", "s0"]
    position = cache.machine_position(number)
    entry = cache.find(position.name)
    assert entry is not None
    assert entry.bits.is_set(position.index)
    assert cache.number_at(position) == number
    sessions = cache.find(ListName("s", 0))
    assert sessions is not None
    assert sessions.version == 0


async def test_restored_backup_ends_all_older_lists(
    store: Store, cache: StatusCache, clock: StandingClock
) -> None:
    """Also those that only sessions of the lost stretch can be in; new ones begin afresh."""
    old = await start(store)
    number = await cache.machine_number(clock.at)
    await look(cache, clock)
    before = cache.find(ListName("s", 0))
    assert before is not None
    async with store.write() as conn:
        await restoring.restore_epoch(conn, clock.at)
    await look(cache, clock)
    after = cache.find(ListName("s", 0))
    assert after is not None
    assert after.version != before.version
    assert is_revoked(cache, old)
    lost = cache.find(ListName("s", 700))
    assert lost is not None
    assert all(lost.bits.is_set(index) for index in (0, 4711, LIST_SIZE - 1))
    fresh = await start(store)
    await look(cache, clock)
    assert not is_revoked(cache, fresh)
    fresh_list = fresh.seq // LIST_SIZE
    assert [str(name) for name in cache.names()] == [f"m{fresh_list}", f"s{fresh_list}"]
    newer = await cache.machine_number(clock.at)
    assert newer // LIST_SIZE > number // LIST_SIZE + 1000
    machine = cache.machine_position(newer)
    await look(cache, clock)
    entry = cache.find(machine.name)
    assert entry is not None
    assert not entry.bits.is_set(machine.index)


async def test_callers_at_the_same_time_share_one_look(
    store: Store, clock: StandingClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many verifiers poll; one of them hanging up disturbs nobody."""
    looks = 0
    original = status.session_numbers

    async def counting(conn: object) -> status.Numbers:
        nonlocal looks
        looks += 1
        return await original(conn)  # type: ignore[arg-type]  # handed on

    monkeypatch.setattr(status, "session_numbers", counting)
    cache = StatusCache(store, KEY, clock.monotonic)
    tasks = [asyncio.create_task(cache.follow()) for _ in range(20)]
    await asyncio.sleep(0)
    tasks[0].cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(results[0], asyncio.CancelledError)
    assert results[1:] == [None] * 19
    await cache.follow()
    assert looks == 1


async def test_database_that_is_away_costs_no_bit(
    database_url: str, clock: StandingClock, store: Store
) -> None:
    """What was known stays; the age says since when it was not confirmed."""
    own = await open_store(database_url, now=clock.now)
    cache = StatusCache(own, KEY, clock.monotonic)
    assert cache.age_s == float("inf")
    family = await start(store)
    await revoke(store, family.family_id, clock.at)
    await cache.follow()
    await own.close()
    clock.at += 7
    with pytest.raises(UnavailableError):
        await cache.follow()
    assert cache.age_s == 7
    assert is_revoked(cache, family)


async def test_key_of_the_permutation_is_made_once(store: Store, database_url: str) -> None:
    """Two first starts agree; with another key every session would stand elsewhere."""
    other = await open_store(database_url, now=lambda: TEST_EPOCH)
    try:
        found = await asyncio.gather(
            ensure_status_key(store, lambda length: b"a" * length),
            ensure_status_key(other, lambda length: b"b" * length),
        )
    finally:
        await other.close()
    assert found[0] == found[1] == await ensure_status_key(store, lambda _: b"")
    assert len(found[0]) == 32
