"""The users table on both engines: one owner of an address, and versions that order logins."""

import dataclasses

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from tests.support.databases import TEST_EPOCH as NOW
from tests.support.records import log_in, new_client, new_family, new_user
from token_server.records import Secret, User
from token_server.storage import clients, users
from token_server.storage.engine import Store, open_store
from token_server.storage.errors import AlreadyExistsError


async def insert(store: Store, **changes: object) -> User:
    user = new_user(**changes)
    async with store.write() as conn:
        await users.insert_user(conn, user)
    return user


async def stored(store: Store, user_id: str) -> dict[str, object]:
    """The stored user's fields, the hash revealed so that it can be compared."""
    async with store.read() as conn:
        user = await users.find_user(conn, user_id)
    assert user is not None
    return fields_of(user)


async def logs_in(conn: AsyncConnection, user: User, version: int, at: int) -> bool:
    client = new_client()
    await clients.insert_client(conn, client)
    new = new_family(client, user, auth_time=at, created_at=at)
    return await log_in(conn, new, version) is not None


def fields_of(user: User) -> dict[str, object]:
    fields = {field.name: getattr(user, field.name) for field in dataclasses.fields(user)}
    return {**fields, "password_hash": user.password_hash.reveal()}


async def test_user_is_read_back_as_inserted(store: Store, database_url: str) -> None:
    """Every field survives and is found by id and by canonical e-mail through a new connection."""
    user = await insert(
        store, name="Zoë 🦊", is_active=False, last_login_at=NOW, credential_version=3
    )
    second = await open_store(database_url, now=lambda: NOW)
    try:
        async with second.read() as conn:
            by_email = await users.find_user_by_email(conn, user.email_canonical)
            assert by_email is not None
            assert fields_of(by_email) == fields_of(user)
            assert await users.find_user_by_email(conn, user.email) is None
            assert await users.find_user(conn, "usr_nobody") is None
        assert await stored(second, user.user_id) == fields_of(user)
        assert by_email.is_active is False
    finally:
        await second.close()


async def test_taken_email_is_refused_and_the_transaction_goes_on(store: Store) -> None:
    """AlreadyExistsError inside a block leaves the block usable, on PostgreSQL too."""
    user = await insert(store)
    other = new_user()
    async with store.write() as conn:
        with pytest.raises(AlreadyExistsError) as caught:
            await users.insert_user(conn, new_user(email_canonical=user.email_canonical))
        assert caught.value.what == "email"
        await users.insert_user(conn, other)
    assert await stored(store, other.user_id) == fields_of(other)


async def test_users_are_listed_in_pages(store: Store) -> None:
    """Pages follow each other without gaps or doubles."""
    ids = sorted([(await insert(store)).user_id for _ in range(5)])
    seen: list[str] = []
    async with store.read() as conn:
        while page := await users.list_users(conn, seen[-1] if seen else None, 2):
            assert len(page) <= 2
            seen += [user.user_id for user in page]
    assert seen == ids


async def test_password_change_raises_the_version(store: Store) -> None:
    """A login that read the old version can tell that it lost."""
    user = await insert(store)
    async with store.write() as conn:
        assert await users.change_password(conn, user.user_id, Secret("$new"), NOW + 5)
        assert not await users.change_password(conn, "usr_nobody", Secret("$new"), NOW)
    assert await stored(store, user.user_id) == fields_of(user) | {
        "password_hash": "$new",
        "credential_version": 1,
        "password_changed_at": NOW + 5,
        "updated_at": NOW + 5,
    }


async def test_disabling_raises_the_version_and_enabling_does_not(store: Store) -> None:
    """A login that was hashing while its user was disabled and enabled again is refused."""
    user = await insert(store)
    async with store.write() as conn:
        assert await users.set_user_active(conn, user.user_id, False, NOW + 1)
        assert not await logs_in(conn, user, 1, NOW + 1)
        assert await users.set_user_active(conn, user.user_id, True, NOW + 2)
        assert not await logs_in(conn, user, 0, NOW + 2)
        assert not await users.set_user_active(conn, "usr_nobody", True, NOW)
    assert await stored(store, user.user_id) == fields_of(user) | {
        "credential_version": 1,
        "updated_at": NOW + 2,
    }


async def test_rehash_is_conditional_on_the_version(store: Store) -> None:
    """A rehash computed for an old password never overwrites a new one."""
    user = await insert(store)
    async with store.write() as conn:
        assert await users.rehash_password(conn, user.user_id, 0, Secret("$stronger"))
        await users.change_password(conn, user.user_id, Secret("$new"), NOW)
        assert not await users.rehash_password(conn, user.user_id, 0, Secret("$stale"))
    now = await stored(store, user.user_id)
    assert (now["password_hash"], now["credential_version"]) == ("$new", 1)


async def test_login_is_recorded_only_for_the_credentials_that_were_read(store: Store) -> None:
    """The one conditional UPDATE that orders a login against a password change."""
    user = await insert(store)
    async with store.write() as conn:
        assert await logs_in(conn, user, 0, NOW + 9)
        assert not await logs_in(conn, user, 1, NOW + 10)
        assert not await logs_in(conn, new_user(), 0, NOW + 10)
    assert await stored(store, user.user_id) == fields_of(user) | {"last_login_at": NOW + 9}
