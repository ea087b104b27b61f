"""What every key store keeps (core/key_store.KeyStore): one suite for the key directory and for the
database on both engines."""

import asyncio
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import text

from tests.support.keyrings import MASTER
from token_server.core.key_policy import KeyPolicy, Serving
from token_server.core.key_store import KeyStore
from token_server.crypto.keystore import DirectoryKeyStore
from token_server.crypto.manifest import MasterKeySeal
from token_server.crypto.rewrapping import rewrapped
from token_server.crypto.secrets import MasterKeys
from token_server.errors import OperatorError, UnavailableError
from token_server.records import StoredKeyring
from token_server.storage.engine import Store
from token_server.storage.signing_keys import DatabaseKeyStore

StoreUnder = Callable[[MasterKeys], KeyStore]
OLD, NEW = bytes(range(32)), bytes(range(50, 82))  # MASTER is version 1: OLD
POLICY = KeyPolicy(86400, 90 * 86400, 300, 5, 10, 900)


@pytest.fixture(params=["directory", "sqlite", "postgresql"])
def store_under(request: pytest.FixtureRequest, tmp_path: Path) -> StoreUnder:
    """An empty store, opened under any master keys."""
    if request.param == "directory":
        return lambda keys: DirectoryKeyStore(tmp_path / "keys", keys, os.urandom)
    return request.getfixturevalue(f"{request.param}_key_store")  # type: ignore[no-any-return]


@pytest.fixture
def sqlite_key_store(sqlite_store: Store) -> StoreUnder:
    return lambda keys: DatabaseKeyStore(sqlite_store, MasterKeySeal(keys))


@pytest.fixture
def postgresql_key_store(postgres_store: Store) -> StoreUnder:
    return lambda keys: DatabaseKeyStore(postgres_store, MasterKeySeal(keys))


async def test_what_is_put_is_what_another_process_finds(
    store_under: StoreUnder, first: StoredKeyring
) -> None:
    """Every instant, every number, the order and the encrypted private halves."""
    assert await store_under(MASTER).load() is None
    assert await store_under(MASTER).replace(first, 0)
    assert await store_under(MASTER).load() == first
    active, waiting = first.keys
    key = replace(active.key, retire_at=3, exp_high_water=4, compromised_at=5)
    second = replace(
        first, generation=2, keys=(waiting, replace(active, key=key, private_pem=None))
    )
    second = replace(second, keys=(waiting, replace(second.keys[1], master_version=None)))
    assert await store_under(MASTER).replace(second, 1)
    assert await store_under(MASTER).load() == second


async def test_change_of_a_generation_that_has_passed_is_not_made(
    store_under: StoreUnder, first: StoredKeyring
) -> None:
    """Compare-and-set: the second first start and the second change find that they are late."""
    store = store_under(MASTER)
    assert await store.replace(first, 0)
    assert not await store.replace(replace(first, keyring_id="kr_other"), 0)
    second = replace(first, generation=2, keys=first.keys[:1])
    assert await store.replace(second, 1)
    assert not await store.replace(replace(first, generation=2), 1)
    assert await store.load() == second
    with pytest.raises(ValueError, match="rises by one"):
        await store.replace(replace(first, generation=9), 2)


async def test_of_many_changes_at_once_exactly_one_is_made(
    store_under: StoreUnder, first: StoredKeyring
) -> None:
    """First starts and changes of one generation race; readers see one of them whole (I5)."""
    rivals = [replace(first, keyring_id=f"kr_{n}") for n in range(4)]
    done = await asyncio.gather(*(store_under(MASTER).replace(ring, 0) for ring in rivals))
    assert sorted(done) == [False, False, False, True]
    previous = winner = rivals[done.index(True)]
    for generation in range(1, 6):
        rivals = [
            replace(winner, generation=generation + 1, keys=winner.keys[:count])
            for count in (1, 2, 1, 2)
        ]
        stores = [store_under(MASTER) for _ in rivals]
        readers = [store_under(MASTER).load() for _ in range(3)]
        changes = asyncio.gather(
            *(store.replace(ring, generation) for store, ring in zip(stores, rivals, strict=True))
        )
        seen = await asyncio.gather(*readers)
        done = await changes
        assert sorted(done) == [False, False, False, True]
        now_stored = rivals[done.index(True)]
        assert await store_under(MASTER).load() == now_stored
        assert all(one in (previous, now_stored) for one in seen)
        previous = now_stored


async def test_look_differs_after_a_change_and_only_then(
    store_under: StoreUnder, first: StoredKeyring
) -> None:
    """By this other processes learn within a second that there is something to read."""
    store = store_under(MASTER)
    assert await store.replace(first, 0)
    before = await store.peek()
    assert await store_under(MASTER).peek() == before
    await store.record_serving(Serving(5, POLICY))
    assert await store.peek() == before
    assert await store.replace(replace(first, generation=2), 1)
    assert await store.peek() != before


async def test_word_of_a_serving_process_is_kept_beside_the_keyring(
    store_under: StoreUnder, first: StoredKeyring
) -> None:
    """It survives changes of the keyring; nobody's word is there at first."""
    store = store_under(MASTER)
    assert await store.last_serving() is None
    assert await store.replace(first, 0)
    assert await store.last_serving() is None
    await store.record_serving(Serving(100, POLICY))
    assert await store.replace(replace(first, generation=2), 1)
    assert await store_under(MASTER).last_serving() == Serving(100, POLICY)
    later = Serving(200, replace(POLICY, lead_s=7))
    await store.record_serving(later)
    assert await store.last_serving() == later


async def test_keyring_of_another_master_key_is_refused(
    store_under: StoreUnder, first: StoredKeyring
) -> None:
    """With an explanation, and without a change of what is there."""
    assert await store_under(MASTER).replace(first, 0)
    with pytest.raises(OperatorError, match="another master key: point MASTER_KEY_FILE"):
        await store_under(MasterKeys({1: NEW})).load()
    with pytest.raises(OperatorError, match="version 1, which is missing"):
        await store_under(MasterKeys({2: NEW})).load()
    assert await store_under(MASTER).load() == first


async def test_keyring_says_under_which_master_key_it_is_sealed(
    store_under: StoreUnder, first: StoredKeyring
) -> None:
    """A new version in the file of one instance shuts no other instance out: what that instance
    changes stays under the old one, until the keyring itself is moved."""
    both = MasterKeys({1: OLD, 2: NEW})
    assert await store_under(MASTER).replace(first, 0)
    assert await store_under(both).replace(replace(first, generation=2), 1)
    assert await store_under(MASTER).load() == replace(first, generation=2)
    moved = rewrapped(replace(first, generation=3), both)
    assert await store_under(both).replace(moved, 2)
    assert await store_under(MasterKeys({2: NEW})).load() == moved
    assert {entry.master_version for entry in moved.keys} == {2}
    with pytest.raises(OperatorError, match="version 2, which is missing"):
        await store_under(MASTER).load()


# ---- what only the database has -------------------------------------------------------------

TAMPERING = {
    "activation brought forward": "UPDATE signing_keys SET activate_at = 1",
    "key brought back": "UPDATE signing_keys SET retire_at = NULL, exp_high_water = 1",
    "algorithm": "UPDATE signing_keys SET alg = 'none'",
    "size": "UPDATE signing_keys SET bits = 1024",
    "exponent": "UPDATE signing_keys SET e = 3",
    "key taken away": "DELETE FROM signing_keys WHERE position = 1",
    "order": "UPDATE signing_keys SET position = position + 5 WHERE position = 0",
    "generation": "UPDATE keyring SET generation = generation + 1",
    "keyring": "UPDATE keyring SET keyring_id = 'kr_other'",
    "seal": "UPDATE keyring SET seal = '1:AAAA'",
    "no seal": "UPDATE keyring SET seal = ''",
    "key added": (
        "INSERT INTO signing_keys SELECT 'x', 7, alg, bits, n, e, created_at, published_at, 1, NULL"
        ", NULL, NULL, master_version, private_pem FROM signing_keys WHERE position = 0"
    ),
}


@pytest.mark.parametrize("name", TAMPERING)
async def test_row_changed_by_somebody_else_is_refused(
    store: Store, first: StoredKeyring, name: str
) -> None:
    """Whoever can write the database has no master key, and so neither adds a key nor changes an
    instant (the seal of the keyring)."""
    keys = DatabaseKeyStore(store, MasterKeySeal(MASTER))
    assert await keys.replace(first, 0)
    async with store.write() as conn:
        await conn.execute(text(TAMPERING[name]))
    with pytest.raises(OperatorError, match="changed by something else than this server"):
        await keys.load()


async def test_foreign_private_half_is_not_covered_by_the_seal_but_by_its_name(
    store: Store, first: StoredKeyring
) -> None:
    """An exchanged private half is read as it is: opening it finds that it is another key."""
    keys = DatabaseKeyStore(store, MasterKeySeal(MASTER))
    assert await keys.replace(first, 0)
    async with store.write() as conn:
        await conn.execute(
            text(
                "UPDATE signing_keys SET private_pem ="
                " (SELECT o.private_pem FROM signing_keys AS o WHERE o.position = 1)"
            )
        )
    found = await keys.load()
    assert found is not None
    with pytest.raises(Exception, match="another key than its name says"):
        rewrapped(found, MasterKeys({1: OLD, 2: NEW}))


async def test_damaged_private_half_is_refused_by_name(store: Store, first: StoredKeyring) -> None:
    """Text that no server wrote is an operator's problem with an explanation, not a failure."""
    keys = DatabaseKeyStore(store, MasterKeySeal(MASTER))
    assert await keys.replace(first, 0)
    async with store.write() as conn:
        await conn.execute(text("UPDATE signing_keys SET private_pem = 'k\u00e4se'"))
    with pytest.raises(OperatorError, match="damaged: restore it"):
        await keys.load()


async def test_word_of_a_process_whose_clock_lags_takes_nothing_back(
    store: Store, first: StoredKeyring
) -> None:
    """Of several instances the newest word counts, in whatever order they arrive."""
    keys = DatabaseKeyStore(store, MasterKeySeal(MASTER))
    assert await keys.replace(first, 0)
    await keys.record_serving(Serving(200, POLICY))
    await keys.record_serving(Serving(199, POLICY))
    assert await keys.last_serving() == Serving(200, POLICY)
    async with store.write() as conn:
        await conn.execute(text("UPDATE keyring SET serving = '[]'"))
    assert await keys.last_serving() is None


async def test_store_that_does_not_answer_says_so(store: Store, first: StoredKeyring) -> None:
    """As any other query: retryable, and never taken for an empty store."""
    keys = DatabaseKeyStore(store, MasterKeySeal(MASTER))
    assert await keys.replace(first, 0)
    await store.close()
    for call in (keys.load(), keys.peek(), keys.replace(replace(first, generation=2), 1)):
        with pytest.raises(UnavailableError):
            await call
