"""Clients and their secrets' digests on both engines."""

import dataclasses

import pytest

from tests.support.databases import TEST_EPOCH as NOW
from tests.support.records import new_client, new_secret
from token_server.records import Client, ClientSecret
from token_server.storage import clients
from token_server.storage.engine import Store, open_store
from token_server.storage.errors import AlreadyExistsError


async def insert(store: Store, **changes: object) -> Client:
    client = new_client(**changes)
    async with store.write() as conn:
        await clients.insert_client(conn, client)
    return client


async def stored(store: Store, client_id: str) -> Client | None:
    async with store.read() as conn:
        return await clients.find_client(conn, client_id)


async def secrets_of(store: Store, client: Client) -> dict[str, ClientSecret]:
    found = await stored(store, client.client_id)
    assert found is not None
    return {secret.secret_id: secret for secret in found.secrets}


async def test_client_is_read_back_as_inserted(store: Store, database_url: str) -> None:
    """Every field and secret survives; the order of scopes and audiences, too."""
    secrets = (new_secret(created_at=NOW), new_secret(created_at=NOW + 1, expires_at=NOW + 2))
    full = await insert(
        store,
        is_public=True,
        is_enabled=False,
        scopes=("z", "a"),
        default_audience=("urn:a", "urn:b"),
        access_token_ttl_s=60,
        access_token_typ="JWT",
        refresh_idle_ttl_s=1,
        refresh_absolute_ttl_s=2,
        refresh_replay_window_s=0,
        shadow_limit=3,
        secrets=secrets,
    )
    bare = await insert(store, scopes=(), audiences=(), grant_types=frozenset())
    second = await open_store(database_url, now=lambda: NOW)
    try:
        assert await stored(second, full.client_id) == full
        assert await stored(second, bare.client_id) == bare
        assert await stored(second, "nobody") is None
    finally:
        await second.close()


async def test_taken_client_id_is_refused_and_the_transaction_goes_on(store: Store) -> None:
    """A second client of the same id changes nothing, its secrets included."""
    client = await insert(store)
    async with store.write() as conn:
        with pytest.raises(AlreadyExistsError, match="client_id"):
            await clients.insert_client(
                conn, dataclasses.replace(client, name="other", secrets=(new_secret(),))
            )
        await clients.insert_client(conn, new_client(client_id="next"))
    assert await stored(store, client.client_id) == client
    assert await stored(store, "next") is not None


async def test_clients_are_listed_in_pages_with_their_secrets(store: Store) -> None:
    """Pages follow each other without gaps or doubles, and secrets stay with their client."""
    made = [await insert(store, secrets=(new_secret(),)) for _ in range(3)]
    seen: list[Client] = []
    async with store.read() as conn:
        while page := await clients.list_clients(conn, seen[-1].client_id if seen else None, 2):
            seen += page
        assert await clients.list_clients(conn, seen[-1].client_id, 2) == []
    built_in, *others = seen
    assert others == sorted(made, key=lambda client: client.client_id)
    assert (built_in.client_id, built_in.is_public, built_in.grant_types, built_in.secrets) == (
        "account",
        True,
        frozenset({"refresh_token"}),
        (),
    )


async def test_client_is_disabled_and_enabled(store: Store) -> None:
    """The flag and its instant change; an unknown client is told."""
    client = await insert(store)
    async with store.write() as conn:
        assert await clients.set_client_enabled(conn, client.client_id, False, NOW + 1)
        assert not await clients.set_client_enabled(conn, "nobody", False, NOW + 1)
    changed = dataclasses.replace(client, is_enabled=False, updated_at=NOW + 1)
    assert await stored(store, client.client_id) == changed
    async with store.write() as conn:
        assert await clients.set_client_enabled(conn, client.client_id, True, NOW + 2)
    assert await stored(store, client.client_id) == dataclasses.replace(client, updated_at=NOW + 2)


async def test_deleted_client_takes_its_secrets_along(store: Store) -> None:
    """The same id, registered again, does not accept the old secret."""
    client = await insert(store, secrets=(new_secret(),))
    async with store.write() as conn:
        assert await clients.delete_client(conn, client.client_id)
        assert not await clients.delete_client(conn, client.client_id)
        await clients.insert_client(conn, dataclasses.replace(client, secrets=()))
    assert await secrets_of(store, client) == {}


async def test_secrets_come_and_go_one_by_one(store: Store) -> None:
    """Several live secrets overlap; one is deleted only through its own client."""
    client, other = await insert(store, secrets=(new_secret(),)), await insert(store)
    added = new_secret(created_at=NOW + 1, label="second")
    async with store.write() as conn:
        assert await clients.insert_secret(conn, client.client_id, added)
        assert not await clients.insert_secret(conn, "nobody", new_secret())
        assert not await clients.delete_secret(conn, other.client_id, added.secret_id)
        assert await clients.delete_secret(conn, client.client_id, client.secrets[0].secret_id)
        assert not await clients.delete_secret(conn, client.client_id, "cs_unknown")
    assert await secrets_of(store, client) == {added.secret_id: added}


async def test_other_secrets_expire_never_later_than_before(store: Store) -> None:
    """Rotating a secret shortens the life of the others and lengthens none."""
    keep, endless, late, soon = (
        new_secret(expires_at=end) for end in (NOW + 900, None, NOW + 500, NOW + 50)
    )
    client = await insert(store, secrets=(keep, endless, late, soon))
    other = await insert(store, secrets=(new_secret(),))
    async with store.write() as conn:
        changed = await clients.expire_other_secrets(
            conn, client.client_id, keep.secret_id, NOW + 100
        )
    assert changed == 2
    expiries = {name: s.expires_at for name, s in (await secrets_of(store, client)).items()}
    assert expiries == {
        keep.secret_id: NOW + 900,
        endless.secret_id: NOW + 100,
        late.secret_id: NOW + 100,
        soon.secret_id: NOW + 50,
    }
    assert await stored(store, other.client_id) == other


async def test_late_stamp_of_use_does_not_turn_back(store: Store) -> None:
    """Stamps are collected in several processes: the latest use stays, unknown ids are ignored."""
    first, second = new_secret(), new_secret()
    client = await insert(store, secrets=(first, second))
    async with store.write() as conn:
        await clients.stamp_secret_use(conn, {first.secret_id: NOW + 9, second.secret_id: NOW + 1})
        await clients.stamp_secret_use(conn, {first.secret_id: NOW + 8, "cs_gone": NOW})
        await clients.stamp_secret_use(conn, {})
    used = {name: s.last_used_at for name, s in (await secrets_of(store, client)).items()}
    assert used == {first.secret_id: NOW + 9, second.secret_id: NOW + 1}
