"""Clients as one process knows them: at most five seconds old."""

from tests.support.databases import TEST_EPOCH
from tests.support.records import new_client
from token_server.storage import clients
from token_server.storage.client_cache import CLIENT_MAX_AGE_S, ClientCache
from token_server.storage.engine import Store


async def test_client_is_remembered_for_a_stated_time(store: Store) -> None:
    """A peek makes no query, and ends with the age."""
    now = [0.0]
    cache = ClientCache(store, lambda: now[0])
    client = new_client()
    async with store.write() as connection:
        await clients.insert_client(connection, client)
    assert cache.peek(client.client_id) is None
    assert await cache.refresh(client.client_id) == client
    now[0] = CLIENT_MAX_AGE_S - 0.1
    assert cache.peek(client.client_id) == client
    now[0] = CLIENT_MAX_AGE_S
    assert cache.peek(client.client_id) is None


async def test_change_is_seen_by_the_next_refresh(store: Store) -> None:
    """What the command line changed, and what it deleted."""
    cache = ClientCache(store, lambda: 0.0)
    client = new_client()
    async with store.write() as connection:
        await clients.insert_client(connection, client)
    await cache.refresh(client.client_id)
    async with store.write() as connection:
        await clients.set_client_enabled(connection, client.client_id, False, TEST_EPOCH)
    changed = await cache.refresh(client.client_id)
    assert changed is not None
    assert not changed.is_enabled
    async with store.write() as connection:
        await clients.delete_client(connection, client.client_id)
    assert await cache.refresh(client.client_id) is None
    assert cache.peek(client.client_id) is None


async def test_made_up_clients_take_no_place(store: Store) -> None:
    """A flood of unknown ids does not fill the memory."""
    cache = ClientCache(store, lambda: 0.0)
    for number in range(50):
        assert await cache.refresh(f"unknown-{number}") is None
    assert not cache._clients


async def test_absence_is_remembered_as_long_as_a_client(store: Store) -> None:
    """`find` asks again only when what it knows is too old, of either kind."""
    now = [0.0]
    cache = ClientCache(store, lambda: now[0])
    client = new_client()
    assert await cache.find(client.client_id) is None
    async with store.write() as connection:
        await clients.insert_client(connection, client)
    assert await cache.find(client.client_id) is None
    now[0] = CLIENT_MAX_AGE_S
    assert await cache.find(client.client_id) == client
    assert cache.peek(client.client_id) == client
