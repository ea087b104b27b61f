"""The audit trail and the installation's single values, on both engines."""

import asyncio

from tests.storage.test_families import start_login
from tests.support.databases import TEST_EPOCH as NOW
from token_server.records import AuditEvent, AuditEventType
from token_server.storage import audit, families, meta, restoring
from token_server.storage.engine import Store

LIST_SIZE = 131_072


def event(at: int, **changes: object) -> AuditEvent:
    return AuditEvent(AuditEventType.LOGIN_FAILED, at, "anonymous", **changes)  # type: ignore[arg-type]  # a test's fields


async def test_events_are_read_back_in_order(store: Store) -> None:
    """All fields survive, details included, and pages continue behind an id."""
    full = event(
        NOW,
        subject="ses_1",
        client_id="c",
        reason="password_wrong",
        ip_address="2001:db8::1",
        request_id="r-1",
        details={"count": 2, "what": 'quote " and ü'},
    )
    events = [full, event(NOW + 1), event(NOW - 5)]
    async with store.write() as conn:
        await audit.insert_events(conn, events[:2])
        await audit.insert_events(conn, [])
        await audit.insert_events(conn, events[2:])
    async with store.read() as conn:
        first = await audit.list_events(conn, after=0, limit=2)
        rest = await audit.list_events(conn, after=first[-1].id, limit=2)
        assert [stored.event for stored in first + rest] == events
        latest = await audit.latest_events(conn, 2)
        assert latest == [first[1], rest[0]]


async def test_rolled_back_event_is_not_kept(store: Store) -> None:
    """No trace without its change: the row belongs to the transaction."""
    async with store.write() as conn:
        await audit.insert_events(conn, [event(NOW)])
        await conn.rollback()
    async with store.read() as conn:
        assert await audit.latest_events(conn, 1) == []


async def test_old_events_are_pruned_in_bounds(store: Store) -> None:
    """Only events from before the instant go, and no more than asked for at once."""
    async with store.write() as conn:
        await audit.insert_events(conn, [event(NOW + i) for i in range(5)])
        assert await audit.prune_events(conn, NOW + 3, 2) == 2
        assert await audit.prune_events(conn, NOW + 3, 2) == 1
        assert await audit.prune_events(conn, NOW + 3, 2) == 0
    async with store.read() as conn:
        left = await audit.latest_events(conn, 10)
    assert [stored.event.at for stored in left] == [NOW + 3, NOW + 4]


async def test_values_are_set_and_inserted_once(store: Store) -> None:
    """`set` replaces; of several simultaneous first inserts one wins and all see its value."""

    async def claim(value: str) -> bool:
        async with store.write() as conn:
            return await meta.insert_if_absent(conn, "keyring_id", value)

    assert sorted(await asyncio.gather(*(claim(str(i)) for i in range(4)))) == [False] * 3 + [True]
    async with store.write() as conn:
        first = await meta.get(conn, "keyring_id")
        assert first is not None
        await meta.set(conn, "keyring_id", "replaced")
        await meta.set(conn, "new", "value")
    async with store.read() as conn:
        assert await meta.get(conn, "keyring_id") == "replaced"
        assert await meta.get(conn, "new") == "value"
        assert await meta.get(conn, "absent") is None


async def test_restore_raises_the_epoch_and_starts_a_fresh_status_list(store: Store) -> None:
    """refresh.md 11: old tokens are not current again, and no status position is given twice."""
    async with store.write() as conn:
        assert await restoring.restore_epoch(conn, NOW) == 1
    login = await start_login(store)
    skipped = 1024 + NOW // 60 % 1024  # another one when the same backup is restored again
    assert login.family.seq == (1 + skipped) * LIST_SIZE
    await start_login(store)
    async with store.write() as conn:
        assert await restoring.restore_epoch(conn, NOW) == 2
        assert await meta.get(conn, meta.EPOCH) == "2"
        # Every row is pruned, and nobody logs in before the next restore.
        assert await families.prune_families(conn, NOW + 10**9, 100) == 2
        assert await restoring.restore_epoch(conn, NOW) == 3
    assert (await start_login(store)).family.seq == (2 + 3 * skipped) * LIST_SIZE
