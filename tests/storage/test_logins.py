"""Logins that come together share a transaction, and each is judged by itself, on both engines."""

import asyncio
import dataclasses
from functools import partial

from tests.storage.test_families import start_login, stored
from tests.support.databases import TEST_EPOCH as NOW
from tests.support.records import new_family, new_login
from token_server.storage import audit, clients, users
from token_server.storage.engine import Store
from token_server.storage.errors import StorageFailedError
from token_server.storage.logins import begin_sessions, login_batcher


async def test_each_login_of_a_batch_is_judged_by_itself(store: Store) -> None:
    """refresh.md 9: a changed credential, a disabled user or client refuse only their own."""
    good, changed, disabled, closed = [await start_login(store) for _ in range(4)]
    async with store.write() as conn:
        await users.set_user_active(conn, disabled.user.user_id, False, NOW)
        await clients.set_client_enabled(conn, closed.client.client_id, False, NOW)
    news = [new_family(x.client, x.user) for x in (changed, good, disabled, closed, good)]
    versions = [1, 0, 1, 0, 0]  # 1: of the disabled user, today's
    logins = [new_login(new, version) for new, version in zip(news, versions, strict=True)]

    begun = await store.write_steps(partial(begin_sessions, logins))

    assert [family and family.sid for family in begun] == [
        None,
        news[1].sid,
        None,
        None,
        news[4].sid,
    ]
    for family in begun:
        if family is not None:
            assert await stored(store, family.family_id) == family
    async with store.read() as conn:
        events = [row.event for row in await audit.list_events(conn, 0, 100)][-2:]
    assert sorted(str(event.subject) for event in events) == sorted([news[1].sid, news[4].sid])


async def test_stale_and_fresh_login_of_one_user_in_a_batch(store: Store) -> None:
    """The version decides for each login, not for the user."""
    login = await start_login(store)
    logins = [new_login(new_family(login.client, login.user), version) for version in (1, 0)]

    stale, fresh = await store.write_steps(partial(begin_sessions, logins))

    assert stale is None
    assert fresh is not None


async def test_refused_row_fails_only_itself(store: Store) -> None:
    """What a constraint refuses takes no other login out of the batch."""
    login = await start_login(store)
    batcher = login_batcher(store)
    good = new_login(new_family(login.client, login.user))
    bad = dataclasses.replace(good, family=new_family(login.client, login.user, family_id=b"short"))

    begun, failed = await asyncio.gather(
        batcher.submit(good), batcher.submit(bad), return_exceptions=True
    )
    await batcher.close()

    assert isinstance(failed, StorageFailedError)
    assert not isinstance(begun, BaseException)
    assert begun is not None
    assert await stored(store, begun.family_id) == begun
