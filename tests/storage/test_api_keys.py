"""API keys on both engines: what is stored, what is counted, and which numbers die."""

import asyncio
import contextlib
import dataclasses
import secrets
from typing import Any

from tests.support.databases import TEST_EPOCH as NOW
from tests.support.records import new_user
from token_server.records import ApiKey, User
from token_server.storage import api_keys, status, users
from token_server.storage.api_keys import AccountPolicy, KeyNumbers
from token_server.storage.engine import Store, open_store

MAX = 20


def new_key(user: User, **changes: Any) -> ApiKey:
    key = ApiKey(
        key_id=f"key_{secrets.token_hex(8)}",
        user_id=user.user_id,
        name="Nightly export",
        secret_digest=secrets.token_bytes(32),
        scope=("orders:write", "orders:read"),
        created_at=NOW,
        expires_at=None,
        last_used_at=None,
        revoked_at=None,
    )
    return dataclasses.replace(key, **changes)


async def add_user(store: Store, **changes: Any) -> User:
    user = new_user(**changes)
    async with store.write() as conn:
        await users.insert_user(conn, user)
    return user


async def add_key(store: Store, user: User, **changes: Any) -> ApiKey:
    key = new_key(user, **changes)
    async with store.write() as conn:
        assert await api_keys.insert_key(conn, key, MAX)
    return key


async def stored(store: Store, key: ApiKey) -> ApiKey | None:
    async with store.read() as conn:
        return await api_keys.find_key(conn, key.key_id)


async def numbers_of(store: Store, key: ApiKey) -> KeyNumbers:
    async with store.read() as conn:
        found = await api_keys.read_numbers(conn, key.key_id)
    assert found is not None
    return found


async def take(store: Store, key: ApiKey, current: int, previous: int | None = None) -> bool:
    as_read = (await numbers_of(store, key)).current
    async with store.write() as conn:
        new = KeyNumbers(current, NOW, previous, is_revoked=False, floor=0)
        return await api_keys.take_number(conn, key, as_read, new)


async def revoked_numbers(store: Store) -> list[int]:
    async with store.read() as conn:
        found = await status.revoked_after(conn, "m", status.Revoked(0, 0), 100)
    return sorted(each.number for each in found)


async def test_key_is_read_back_as_inserted(store: Store, database_url: str) -> None:
    """Every field survives, the order of scopes too."""
    user = await add_user(store)
    full = await add_key(store, user, expires_at=NOW + 9)
    bare = await add_key(store, user, scope=())
    second = await open_store(database_url, now=lambda: NOW)
    try:
        assert await stored(second, full) == full
        assert await stored(second, bare) == bare
        assert await stored(second, new_key(user)) is None
    finally:
        await second.close()


async def test_only_live_keys_are_listed_newest_first(store: Store) -> None:
    """I166: an expired one is over in the very second."""
    user, other = await add_user(store), await add_user(store)
    old = await add_key(store, user)
    new = await add_key(store, user, created_at=NOW + 1)
    await add_key(store, user, expires_at=NOW + 5)
    await add_key(store, other)
    ended = await add_key(store, user)
    async with store.write() as conn:
        assert await api_keys.revoke_key(conn, ended.key_id, user.user_id, NOW)
        found = await api_keys.list_keys(conn, user.user_id, NOW + 5, MAX)
    assert [key.key_id for key in found] == [new.key_id, old.key_id]


async def test_dead_keys_make_room_for_new_ones(store: Store) -> None:
    """The limit is one of live keys; a disabled or unknown owner gets none."""
    user = await add_user(store)
    first = await add_key(store, user)
    await add_key(store, user, expires_at=NOW + 5)
    async with store.write() as conn:
        assert await api_keys.insert_key(conn, new_key(user), 2) is False
        assert await api_keys.insert_key(conn, new_key(user, created_at=NOW + 5), 2) is True
        assert await api_keys.revoke_key(conn, first.key_id, user.user_id, NOW + 5)
        assert await api_keys.insert_key(conn, new_key(user, created_at=NOW + 5), 2) is True
        assert await api_keys.insert_key(conn, new_key(new_user()), 2) is None
        await users.set_user_active(conn, user.user_id, False, NOW)
        assert await api_keys.insert_key(conn, new_key(user), MAX) is None


async def test_limit_holds_against_many_at_once(store: Store, database_url: str) -> None:
    """I167: 100 inserts by two processes' worth of stores leave exactly 20 keys."""
    user = await add_user(store)

    async def create(one: Store) -> bool | None:
        async with one.write() as conn:
            return await api_keys.insert_key(conn, new_key(user), MAX)

    async with contextlib.AsyncExitStack() as stack:
        second = await open_store(database_url, now=lambda: NOW)
        stack.push_async_callback(second.close)
        turns = asyncio.Semaphore(16)  # PostgreSQL's pool would refuse who waits for too long

        async def in_turn(number: int) -> bool | None:
            async with turns:
                return await create((store, second)[number % 2])

        made = await asyncio.gather(*(in_turn(number) for number in range(100)))
    assert made.count(True) == MAX
    assert made.count(False) == 100 - MAX
    async with store.read() as conn:
        assert await api_keys.count_keys(conn, user.user_id, NOW) == MAX
        assert len(await api_keys.list_keys(conn, user.user_id, NOW, 100)) == MAX


async def test_key_is_revoked_once_and_by_its_owner_alone(store: Store) -> None:
    """I164: somebody else's key, a dead one and an unknown one change nothing."""
    user, other = await add_user(store), await add_user(store)
    key = await add_key(store, user)
    expired = await add_key(store, user, expires_at=NOW)
    async with store.write() as conn:
        assert not await api_keys.revoke_key(conn, key.key_id, other.user_id, NOW)
        assert not await api_keys.revoke_key(conn, "key_unknown", user.user_id, NOW)
        assert not await api_keys.revoke_key(conn, expired.key_id, user.user_id, NOW)
        assert await api_keys.revoke_key(conn, key.key_id, user.user_id, NOW + 1)
        assert not await api_keys.revoke_key(conn, key.key_id, user.user_id, NOW + 2)
    assert await stored(store, key) == dataclasses.replace(key, revoked_at=NOW + 1)


async def test_revoking_a_key_revokes_both_its_numbers(store: Store) -> None:
    """And those of no other key."""
    user = await add_user(store)
    key, other = await add_key(store, user), await add_key(store, user)
    assert await take(store, key, 5000)
    assert await take(store, key, 6000, previous=5000)
    assert await take(store, other, 7000)
    async with store.write() as conn:
        await api_keys.revoke_key(conn, key.key_id, user.user_id, NOW)
    assert await revoked_numbers(store) == [5000, 6000]
    assert (await numbers_of(store, key)).is_revoked
    assert not (await numbers_of(store, other)).is_revoked


async def test_revoking_all_keys_spares_other_users(store: Store) -> None:
    """Each number of each key dies; the ids come back in order."""
    user, other = await add_user(store), await add_user(store)
    keys = [await add_key(store, user) for _ in range(3)]
    spared = await add_key(store, other)
    for number, key in enumerate([*keys, spared], start=5000):
        assert await take(store, key, number)
    async with store.write() as conn:
        revoked = await api_keys.revoke_keys_of_user(conn, user.user_id, NOW)
        assert await api_keys.revoke_keys_of_user(conn, user.user_id, NOW) == []
    assert revoked == sorted(key.key_id for key in keys)
    assert await revoked_numbers(store) == [5000, 5001, 5002]
    assert await stored(store, spared) == spared


async def test_numbers_of_a_disabled_owner_die_and_are_forgotten(store: Store) -> None:
    """The keys stay for when the owner is enabled again, and begin with a number of their own."""
    user = await add_user(store)
    key = await add_key(store, user)
    assert await take(store, key, 5000)
    assert await take(store, key, 6000, previous=5000)
    async with store.write() as conn:
        await users.set_user_active(conn, user.user_id, False, NOW)
        await api_keys.end_tokens_of_user(conn, user.user_id, NOW)
    assert await revoked_numbers(store) == [5000, 6000]
    assert await numbers_of(store, key) == KeyNumbers(None, None, None, is_revoked=False, floor=0)
    assert await stored(store, key) == key


async def test_number_is_taken_only_for_a_live_key_of_an_active_owner(store: Store) -> None:
    """Nothing is handed out that nobody would revoke; of two who read the same, one gets it."""
    user = await add_user(store)
    key = await add_key(store, user)
    dead = await add_key(store, user)
    expired = await add_key(store, user, expires_at=NOW)
    async with store.write() as conn:
        await api_keys.revoke_key(conn, dead.key_id, user.user_id, NOW)
    assert not await take(store, dead, 5000)
    assert not await take(store, expired, 5000)
    assert await take(store, key, 5000)
    async with store.write() as conn:
        new = KeyNumbers(6000, NOW, None, is_revoked=False, floor=0)
        assert not await api_keys.take_number(conn, key, None, new)
        await users.set_user_active(conn, user.user_id, False, NOW)
    assert not await take(store, key, 6000, previous=5000)
    assert (await numbers_of(store, key)).current == 5000


async def test_taking_a_number_races_with_disabling(store: Store, database_url: str) -> None:
    """Whoever comes first: afterwards no number lives, in 60 rounds on two stores."""
    second = await open_store(database_url, now=lambda: NOW)

    async def disable(user: User) -> None:
        async with second.write() as conn:
            await users.set_user_active(conn, user.user_id, False, NOW)
            await asyncio.sleep(0)
            await api_keys.end_tokens_of_user(conn, user.user_id, NOW)

    try:
        for number in range(60):
            user = await add_user(store)
            key = await add_key(store, user)
            taken, _ = await asyncio.gather(take(store, key, 9000 + number), disable(user))
            assert (await numbers_of(store, key)).current is None
            assert (9000 + number in await revoked_numbers(store)) is taken
    finally:
        await second.close()


async def test_taking_a_number_races_with_revoking(store: Store, database_url: str) -> None:
    """A key that is revoked while a token is made from it: the number dies, or was never taken."""
    second = await open_store(database_url, now=lambda: NOW)
    user = await add_user(store)

    async def revoke(key: ApiKey) -> None:
        async with second.write() as conn:
            assert await api_keys.revoke_key(conn, key.key_id, user.user_id, NOW)

    try:
        for number in range(60):
            key = await add_key(store, user)
            taken, _ = await asyncio.gather(take(store, key, 9000 + number), revoke(key))
            assert (9000 + number in await revoked_numbers(store)) is taken
    finally:
        await second.close()


async def test_last_use_only_goes_forward(store: Store) -> None:
    """Stamps arrive late and out of order; ids that are gone are ignored."""
    user = await add_user(store)
    key = await add_key(store, user)
    async with store.write() as conn:
        await api_keys.stamp_key_use(conn, {key.key_id: NOW + 100, "key_gone": NOW})
        await api_keys.stamp_key_use(conn, {key.key_id: NOW + 50})
        await api_keys.stamp_key_use(conn, {})
    assert await stored(store, key) == dataclasses.replace(key, last_used_at=NOW + 100)


async def test_prune_forgets_keys_that_ended_long_ago(store: Store) -> None:
    """Revoked and expired ones, up to the limit; live ones never."""
    user = await add_user(store)
    live = [await add_key(store, user), await add_key(store, user, expires_at=NOW + 100)]
    for _ in range(2):
        dead = await add_key(store, user)
        await add_key(store, user, expires_at=NOW + 1)
        async with store.write() as conn:
            await api_keys.revoke_key(conn, dead.key_id, user.user_id, NOW)
    async with store.write() as conn:
        assert await api_keys.prune_keys(conn, NOW, 10) == 0
        assert await api_keys.prune_keys(conn, NOW + 50, 3) == 3
        assert await api_keys.prune_keys(conn, NOW + 50, 3) == 1
    assert [await stored(store, key) for key in live] == live


async def test_account_policy_is_the_account_clients(store: Store) -> None:
    """Open and without scopes, as the schema brings it."""
    async with store.read() as conn:
        assert await api_keys.find_account_policy(conn) == AccountPolicy(is_enabled=True, scopes=())
