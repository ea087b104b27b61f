"""The database as a key store (core/key_store.KeyStore), for several instances.

One row says which keyring it is and in which generation, one row per key has the public half, the
instants and the private half, encrypted under a master key that the database never sees. A change
is one transaction that begins with a conditional write of the generation, so that of two exactly
one is made (I5). What is read must carry the seal made with the master key: whoever can write the
tables still cannot add a key. Nothing here decides which key signs or when.
"""

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import msgspec
from sqlalchemy import Row, bindparam, delete, insert, or_, select, true, update
from sqlalchemy.dialects import postgresql, sqlite

from token_server.core.key_policy import KeyPolicy, Serving
from token_server.core.key_store import KeyringSeal, KeyStore
from token_server.errors import OperatorError
from token_server.records import SigningKey, StoredKey, StoredKeyring
from token_server.storage.engine import Store
from token_server.storage.schema import keyring as ring
from token_server.storage.schema import signing_keys

_RING_ID = 1
_R, _K = ring.c, signing_keys.c
_IS_RING = _R.id == _RING_ID
# One statement, so that the keyring and its keys are of one generation on both engines.
_LOAD = (
    select(_R.keyring_id, _R.generation, _R.master_key_check, _R.seal, *signing_keys.c)
    .select_from(ring.outerjoin(signing_keys, true()))
    .where(_IS_RING)
    .order_by(_K.position)
)
_PEEK = select(_R.keyring_id, _R.generation).where(_IS_RING)
_SERVING = select(_R.served_at, _R.serving).where(_IS_RING)
_NEW_VALUES: dict[str, Any] = {
    name: bindparam(f"new_{name}") for name in ("generation", "master_key_check", "seal")
}
_UPDATE = (
    update(ring)
    .where(_IS_RING, _R.generation == bindparam("expected"))
    .values(keyring_id=bindparam("new_keyring_id"), **_NEW_VALUES)
)
_FIRST = {"id": _RING_ID, "keyring_id": bindparam("new_keyring_id"), **_NEW_VALUES}
_INSERT_FIRST = {
    "postgresql": postgresql.insert(ring).values(_FIRST).on_conflict_do_nothing(),
    "sqlite": sqlite.insert(ring).values(_FIRST).on_conflict_do_nothing(),
}
# A clock that lags must not take back what another process said.
_RECORD_SERVING = (
    update(ring)
    .where(_IS_RING, or_(_R.served_at.is_(None), _R.served_at <= bindparam("at")))
    .values(served_at=bindparam("at"), serving=bindparam("policy"))
)
_policy = msgspec.json.Decoder(KeyPolicy)


class DatabaseKeyStore:
    """KeyStore in the tables `keyring` and `signing_keys`."""

    def __init__(self, store: Store, seal: KeyringSeal) -> None:
        self._store = store
        self._seal = seal

    async def load(self) -> StoredKeyring | None:
        async with self._store.read() as conn:
            rows = (await conn.execute(_LOAD)).all()
        if not rows:
            return None
        seal, keyring = _keyring_of(rows)
        problem = self._seal.problem(keyring, seal)
        if problem is not None:
            raise OperatorError(f"the keyring in the database: {problem}")
        return keyring

    async def replace(self, keyring: StoredKeyring, expected_generation: int) -> bool:
        if keyring.generation != expected_generation + 1:
            raise ValueError("a keyring's generation rises by one with each change")
        values = {
            "new_keyring_id": keyring.keyring_id,
            "new_generation": keyring.generation,
            "new_master_key_check": keyring.master_key_check,
            "new_seal": self._seal.make(keyring),
        }
        rows = [_row_of(entry, position) for position, entry in enumerate(keyring.keys)]
        async with self._store.write() as conn:
            if expected_generation == 0:
                done = await conn.execute(_INSERT_FIRST[conn.dialect.name], values)
            else:
                done = await conn.execute(_UPDATE, {**values, "expected": expected_generation})
            if done.rowcount != 1:
                return False
            await conn.execute(delete(signing_keys))
            if rows:
                await conn.execute(insert(signing_keys), rows)
        return True

    async def peek(self) -> Hashable:
        async with self._store.read() as conn:
            found = (await conn.execute(_PEEK)).one_or_none()
        return None if found is None else tuple(found)

    async def last_serving(self) -> Serving | None:
        async with self._store.read() as conn:
            found = (await conn.execute(_SERVING)).one_or_none()
        if found is None or found.serving is None:
            return None
        try:
            return Serving(found.served_at, _policy.decode(found.serving))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None

    async def record_serving(self, serving: Serving) -> None:
        policy = msgspec.json.encode(serving.policy).decode()
        async with self._store.write() as conn:
            await conn.execute(_RECORD_SERVING, {"at": serving.served_at, "policy": policy})

    def locate(self, stored: StoredKey) -> str:
        return f"signing_keys {stored.key.kid} in the database"


def sealed_store(store: Store) -> Callable[[KeyringSeal], KeyStore]:
    """The key store in `store`, for each seal."""
    return lambda seal: DatabaseKeyStore(store, seal)


def _keyring_of(rows: Sequence[Row[*tuple[Any, ...]]]) -> tuple[str, StoredKeyring]:
    """The seal and what it must fit. OperatorError for what this server cannot have written."""
    head = rows[0]
    try:
        keyring = StoredKeyring(
            keyring_id=str(head.keyring_id),
            generation=int(head.generation),
            master_key_check=str(head.master_key_check),
            keys=tuple(_key_of(row) for row in rows if row.kid is not None),
        )
    except (TypeError, ValueError, AttributeError):
        raise OperatorError(
            "the signing keys in the database are damaged: restore it from its backup"
        ) from None
    return str(head.seal), keyring


def _key_of(row: Row[*tuple[Any, ...]]) -> StoredKey:
    key = SigningKey(
        kid=row.kid,
        alg=row.alg,
        bits=int(row.bits),
        n=int.from_bytes(row.n, "big"),
        e=int(row.e),
        created_at=row.created_at,
        published_at=row.published_at,
        activate_at=row.activate_at,
        retire_at=row.retire_at,
        exp_high_water=row.exp_high_water,
        compromised_at=row.compromised_at,
    )
    pem = None if row.private_pem is None else row.private_pem.encode("ascii")
    return StoredKey(key, row.master_version, pem)


def _row_of(entry: StoredKey, position: int) -> dict[str, object]:
    key, pem = entry.key, entry.private_pem
    return {
        "kid": key.kid,
        "position": position,
        "alg": key.alg,
        "bits": key.bits,
        "n": key.n.to_bytes((key.n.bit_length() + 7) // 8, "big"),
        "e": key.e,
        "created_at": key.created_at,
        "published_at": key.published_at,
        "activate_at": key.activate_at,
        "retire_at": key.retire_at,
        "exp_high_water": key.exp_high_water,
        "compromised_at": key.compromised_at,
        "master_version": entry.master_version,
        "private_pem": None if pem is None else pem.decode("ascii"),
    }
