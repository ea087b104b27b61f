"""Writes that follow the answer: collected, bounded, repeated, finished at the end."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

from tests.storage.test_api_keys import new_key
from tests.support.databases import TEST_EPOCH
from tests.support.records import new_client, new_secret, new_user
from token_server.errors import UnavailableError
from token_server.records import AuditEvent, AuditEventType
from token_server.storage import api_keys, audit, clients, users
from token_server.storage.background import BackgroundWriter
from token_server.storage.engine import Store


def failure(reason: str) -> AuditEvent:
    return AuditEvent(AuditEventType.LOGIN_FAILED, at=TEST_EPOCH, actor="anonymous", reason=reason)


async def reasons(store: Store) -> list[str | None]:
    async with store.read() as connection:
        return [e.event.reason for e in await audit.list_events(connection, 0, 5000)]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - the writer tells nobody when it has written
            await asyncio.sleep(0.01)


async def test_events_are_written_in_order_without_being_asked(store: Store) -> None:
    """A moment later, in the order in which they happened."""
    writer = BackgroundWriter(store, lambda: 0.0, lambda: None)
    for number in range(5):
        writer.add_event(failure(str(number)))
    await until(lambda: not writer._events)
    assert await reasons(store) == ["0", "1", "2", "3", "4"]
    await writer.close()


async def test_closing_writes_what_is_left(store: Store) -> None:
    """Nothing that was accepted is lost by a graceful stop."""
    writer = BackgroundWriter(store, lambda: 0.0, lambda: None)
    for number in range(1200):
        writer.add_event(failure(str(number)))
    await writer.close()
    assert len(await reasons(store)) == 1200


async def test_last_use_of_a_secret_is_stamped(store: Store) -> None:
    """Once a minute is enough for any operator: one write, not one per request."""
    secret = new_secret()
    client = new_client(secrets=(secret,))
    async with store.write() as connection:
        await clients.insert_client(connection, client)
    writer = BackgroundWriter(store, lambda: 0.0, lambda: None)
    writer.note_secret_use(secret.secret_id, TEST_EPOCH + 100)
    await until(lambda: secret.secret_id in writer._secret_uses._written)
    writer.note_secret_use(secret.secret_id, TEST_EPOCH + 120)
    assert not writer._secret_uses
    await writer.close()
    async with store.read() as connection:
        found = await clients.find_client(connection, client.client_id)
    assert found is not None
    assert found.secrets[0].last_used_at == TEST_EPOCH + 100


async def test_last_use_of_an_api_key_is_stamped_with_it(store: Store) -> None:
    """In the same write as what else is due."""
    user = new_user()
    key = new_key(user)
    async with store.write() as connection:
        await users.insert_user(connection, user)
        assert await api_keys.insert_key(connection, key, 1)
    writer = BackgroundWriter(store, lambda: 0.0, lambda: None)
    writer.note_key_use(key.key_id, TEST_EPOCH + 100)
    writer.note_key_use("key_gone", TEST_EPOCH + 100)
    await until(lambda: key.key_id in writer._key_uses._written)
    writer.note_key_use(key.key_id, TEST_EPOCH + 120)
    await writer.close()
    async with store.read() as connection:
        found = await api_keys.find_key(connection, key.key_id)
    assert found is not None
    assert found.last_used_at == TEST_EPOCH + 100


async def test_flood_of_events_is_bounded_and_counted(store: Store) -> None:
    """Strangers cannot fill the disk with refusals; what was left out is counted."""
    dropped = []
    writer = BackgroundWriter(store, lambda: 0.0, lambda: dropped.append(1))
    for _ in range(3000):
        writer.add_event(failure("flood"))
    await writer.close()
    assert len(await reasons(store)) == 2000
    assert len(dropped) == 1000


class BusyStore:
    """The real store behind a door that stays shut for the first tries."""

    def __init__(self, store: Store, refusals: int) -> None:
        self._store = store
        self.refusals = refusals

    @contextlib.asynccontextmanager
    async def write(self) -> AsyncIterator[object]:
        if self.refusals > 0:
            self.refusals -= 1
            raise UnavailableError("storage_busy", 0)
        async with self._store.write() as connection:
            yield connection


async def test_busy_database_is_tried_again(store: Store) -> None:
    """A refused write keeps its rows for the next turn, each exactly once."""
    busy = BusyStore(store, refusals=2)
    writer = BackgroundWriter(busy, lambda: 0.0, lambda: None)  # type: ignore[arg-type]  # a door
    writer.add_event(failure("kept"))
    await until(lambda: not writer._events)
    await writer.close()
    assert await reasons(store) == ["kept"]


async def test_database_that_is_away_at_the_end_costs_a_count_not_a_hang(store: Store) -> None:
    """Shutdown ends; the lost rows are counted."""
    dropped = []
    busy = BusyStore(store, refusals=1000)
    writer = BackgroundWriter(busy, lambda: 0.0, lambda: dropped.append(1))  # type: ignore[arg-type]
    writer.add_event(failure("lost"))
    async with asyncio.timeout(5):
        await writer.close()
    assert len(dropped) == 1
