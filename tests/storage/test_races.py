"""What races in production, on both engines: the loser loses whole, and nobody sees an error.

Each side of a race uses a store of its own, as two processes would.
"""

import asyncio
import dataclasses
import secrets
from collections.abc import AsyncIterator
from functools import partial

import pytest

from tests.storage.test_families import Login, start_login
from tests.support import records
from tests.support.databases import TEST_EPOCH as NOW
from tests.support.records import new_family, new_login, new_user
from token_server.records import Secret
from token_server.storage import clients, families, users
from token_server.storage.engine import Store, open_store
from token_server.storage.errors import AlreadyExistsError
from token_server.storage.family_sweeps import Sweep, begin_sweep
from token_server.storage.logins import begin_sessions
from token_server.storage.rotation import rotate_families

ROUNDS = 25


@pytest.fixture
async def second_store(database_url: str) -> AsyncIterator[Store]:
    opened = await open_store(database_url, now=lambda: NOW)
    yield opened
    await opened.close()


async def log_in(store: Store, login: Login, version: int, start: float = 0) -> bool:
    await asyncio.sleep(start)
    new = new_login(new_family(login.client, login.user), version)
    (family,) = await store.write_steps(partial(begin_sessions, [new]))
    return family is not None


def delay_s(round_: int) -> float:
    """Some rounds begin together, in some the logins have a start: both orders are met."""
    return round_ % 5 / 200


def late_s(round_: int) -> float:
    """In one round a login comes when all is over, so that on a slow machine, too, both orders
    are met: in the others it may always win."""
    return 0.5 if round_ == 1 else 0


async def live_sessions(store: Store, login: Login) -> int:
    async with store.read() as conn:
        return len(await families.list_families(conn, user_id=login.user.user_id, now=NOW))


async def test_password_change_leaves_no_session_of_a_racing_login(
    store: Store, second_store: Store
) -> None:
    """refresh.md 9: a login that was hashing while the password changed creates no family."""
    login = await start_login(store)
    outcomes: set[bool | None] = set()
    for version in range(ROUNDS):

        async def change_password(start: float = delay_s(version)) -> None:
            await asyncio.sleep(start)
            async with second_store.write() as conn:
                await users.change_password(conn, login.user.user_id, Secret("$new"), NOW)
                await asyncio.sleep(0)
                await families.revoke_families_of_user(conn, login.user.user_id, "changed", NOW)

        late = late_s(version)
        work = [
            log_in(store, login, version, late),
            change_password(),
            log_in(store, login, version),
        ]
        if version % 2:
            work.reverse()
        results = await asyncio.gather(*work)
        outcomes.update(r for r in results if r is not None)
        assert await live_sessions(store, login) == 0
    assert outcomes == {True, False}, "the rounds must have met both orders"


@pytest.mark.parametrize("is_deleted", [False, True], ids=["disabled", "deleted"])
async def test_disabled_client_has_no_session_of_a_racing_login(
    store: Store, second_store: Store, is_deleted: bool
) -> None:
    """refresh.md 9: an INSERT of a family is conditional on the client, however it races."""
    login = await start_login(store)
    client = login.client
    outcomes: set[bool | None] = set()
    for round_ in range(ROUNDS):

        async def end_client(start: float = delay_s(round_)) -> None:
            await asyncio.sleep(start)
            async with second_store.write() as conn:
                if is_deleted:
                    await clients.delete_client(conn, client.client_id)
                else:
                    await clients.set_client_enabled(conn, client.client_id, False, NOW)
                await asyncio.sleep(0)
                await begin_sweep(conn, Sweep("client", client.client_id, "ended", NOW), 100)

        late = late_s(round_)
        work = [log_in(store, login, 0, late), end_client(), log_in(store, login, 0)]
        if round_ % 2:
            work.reverse()
        results = await asyncio.gather(*work)
        outcomes.update(r for r in results if r is not None)
        assert await live_sessions(store, login) == 0
        async with store.write() as conn:
            if is_deleted:
                await clients.insert_client(conn, client)
            else:
                await clients.set_client_enabled(conn, client.client_id, True, NOW)
    assert outcomes == {True, False}, "the rounds must have met both orders"


async def revoke(store: Store, login: Login) -> None:
    async with store.write() as conn:
        await families.revoke_family(conn, login.family.family_id, "logout", NOW)


async def rotate(store: Store, login: Login) -> int:
    return len(await rotate_families(store, [login.entry()]))


async def test_rotation_and_revocation_of_one_family_leave_it_dead(
    store: Store, second_store: Store
) -> None:
    """Whichever comes first, after a revocation no generation is current any more."""
    for _ in range(ROUNDS):
        login = await start_login(store)

        stepped, _ = await asyncio.gather(rotate(store, login), revoke(second_store, login))
        next_entry = login.entry(generation=stepped)
        assert await rotate_families(store, [next_entry]) == []


async def test_two_processes_rotate_the_same_families_without_deadlock(
    store: Store, second_store: Store
) -> None:
    """architecture.md: rows are locked in `seq` order, whatever the order of the entries, also
    against the revocation of all families of their user; each generation has one winner."""
    first = await start_login(store)
    logins = [first]
    async with store.write() as conn:
        for _ in range(19):
            family = await records.log_in(conn, new_family(first.client, first.user))
            assert family is not None
            logins.append(dataclasses.replace(first, family=family))
    won = [0, 0]

    async def rotate_all(number: int, source: Store) -> None:
        for generation in range(ROUNDS):
            order = sorted(logins, key=lambda _: secrets.token_bytes(4))
            entries = [login.entry(generation=generation) for login in order]
            won[number] += len(await rotate_families(source, entries))

    async def revoke_nothing() -> None:
        for _ in range(ROUNDS):
            async with second_store.write() as conn:
                # Locks all rows of the user, and then lets them be.
                keep = first.user.user_id
                await families.revoke_families_of_user(conn, keep, "x", NOW)
                await conn.rollback()

    await asyncio.gather(rotate_all(0, store), rotate_all(1, second_store), revoke_nothing())
    assert sum(won) == ROUNDS * len(logins)


async def test_same_email_registered_twice_at_once_exists_once(
    store: Store, second_store: Store
) -> None:
    """Of simultaneous registrations one gets the address; the others hear that it is taken."""

    async def register(source: Store) -> str:
        user = new_user(email_canonical="taken@example.com")
        try:
            async with source.write() as conn:
                await users.insert_user(conn, user)
        except AlreadyExistsError as error:
            return error.what
        return "registered"

    outcomes = await asyncio.gather(*(register(s) for s in (store, second_store) * 4))
    assert sorted(outcomes) == ["email"] * 7 + ["registered"]
