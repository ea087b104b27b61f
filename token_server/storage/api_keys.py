"""The api_keys table: a digest for each key, and the numbers that its access tokens carry.

Whoever makes a key or gives it a number takes the row of its owner first, as logins do, so that
disabling the owner leaves nothing behind; then the key's own row, which orders this against its
revocation. Revoking revokes both numbers in the same transaction (revocation.md). Whether a key
may be used is the service's to decide.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import (
    BigInteger,
    Row,
    Text,
    bindparam,
    delete,
    func,
    insert,
    literal,
    or_,
    select,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from token_server.core.client_policy import ACCOUNT_CLIENT_ID
from token_server.records import ApiKey
from token_server.storage import meta, status
from token_server.storage.schema import (
    api_keys,
    clients,
    join_words,
    revoked_positions,
    split_words,
    users,
)
from token_server.storage.schema import meta as values

_K = api_keys.c
_COLUMNS = (
    _K.key_id,
    _K.user_id,
    _K.name,
    _K.secret_digest,
    _K.scope,
    _K.created_at,
    _K.expires_at,
    _K.last_used_at,
    _K.revoked_at,
)
_IS_KEY = _K.key_id == bindparam("for_key_id", type_=Text)
_IS_OF_USER = _K.user_id == bindparam("for_user_id", type_=Text)
_IS_LIVE = _K.revoked_at.is_(None) & or_(
    _K.expires_at.is_(None), _K.expires_at > bindparam("at", type_=BigInteger)
)
_FIND = select(*_COLUMNS).where(_IS_KEY)
_LIST = (
    select(*_COLUMNS)
    .where(_IS_OF_USER, _IS_LIVE)
    .order_by(_K.created_at.desc(), _K.key_id)
    .limit(bindparam("limit"))
)
_ACCOUNT = select(clients.c.is_enabled, clients.c.scopes).where(
    clients.c.client_id == ACCOUNT_CLIENT_ID
)
# One after the other for each user on PostgreSQL; on SQLite there is only one writer anyway.
_LOCK_OWNER = (
    select(users.c.user_id)
    .where(users.c.user_id == bindparam("for_user_id"), users.c.is_active)
    .with_for_update(key_share=True)
)
_COUNT = select(func.count()).select_from(api_keys).where(_IS_OF_USER, _IS_LIVE)
_INSERT = insert(api_keys)
_REVOKE = (
    update(api_keys)
    .where(_IS_KEY, _IS_OF_USER, _IS_LIVE)
    .values(revoked_at=bindparam("at"))
    .returning(_K.key_id, _K.status_number, _K.previous_status_number)
)
# In the order of ids, as every statement that takes several rows.
_LOCK_ALL = select(_K.key_id).where(_IS_OF_USER).order_by(_K.key_id).with_for_update()
_REVOKE_ALL = (
    update(api_keys)
    .where(_IS_OF_USER, _IS_LIVE)
    .values(revoked_at=bindparam("at"))
    .returning(_K.key_id, _K.status_number, _K.previous_status_number)
)
_NUMBERS_OF_USER = select(_K.key_id, _K.status_number, _K.previous_status_number).where(
    _IS_OF_USER, _K.status_number.is_not(None)
)
_FORGET_NUMBERS = (
    update(api_keys)
    .where(_IS_OF_USER, _K.status_number.is_not(None))
    .values(status_number=None, status_taken_at=None, previous_status_number=None)
)
_NUMBERS = select(
    _K.status_number,
    _K.status_taken_at,
    _K.previous_status_number,
    select(literal(1))
    .where(revoked_positions.c.number == _K.status_number)
    .correlate(api_keys)
    .scalar_subquery()
    .label("is_revoked"),
    select(values.c.value)
    .where(values.c.name == meta.MACHINES_FLOOR)
    .scalar_subquery()
    .label("floor"),
).where(_IS_KEY)
_TAKE_NUMBER = (
    update(api_keys)
    .where(
        _IS_KEY,
        _IS_LIVE,
        _K.status_number.is_not_distinct_from(bindparam("as_read", type_=BigInteger)),
    )
    .values(
        status_number=bindparam("new_number"),
        status_taken_at=bindparam("at"),
        previous_status_number=bindparam("new_previous"),
    )
)
# Stamps may arrive late and out of order: the latest use stays.
_STAMP = (
    update(api_keys)
    .where(
        _K.key_id == bindparam("used_key_id"),
        _K.last_used_at.is_(None) | (_K.last_used_at < bindparam("used_at")),
    )
    .values(last_used_at=bindparam("used_at"))
)


@dataclass(frozen=True, slots=True)
class KeyNumbers:
    """Where the access tokens from one key stand: as machine tokens, all at one number."""

    current: int | None
    taken_at: int | None
    previous: int | None
    is_revoked: bool  # the current one was revoked by itself
    floor: int  # numbers below were ended by `db restored`


@dataclass(frozen=True, slots=True)
class AccountPolicy:
    """What the account API's own client may be granted now, and whether it is open at all."""

    is_enabled: bool
    scopes: tuple[str, ...]


async def find_key(conn: AsyncConnection, key_id: str) -> ApiKey | None:
    """Revoked and expired ones, too."""
    row = (await conn.execute(_FIND, {"for_key_id": key_id})).one_or_none()
    return None if row is None else _key_of(row)


async def list_keys(conn: AsyncConnection, user_id: str, now: int, limit: int) -> list[ApiKey]:
    """The live keys of a user, the newest first."""
    found = await conn.execute(_LIST, {"for_user_id": user_id, "at": now, "limit": limit})
    return [_key_of(row) for row in found]


async def count_keys(conn: AsyncConnection, user_id: str, now: int) -> int:
    """How many live keys a user has; without a lock, so that it may be more by now."""
    counted = await conn.execute(_COUNT, {"for_user_id": user_id, "at": now})
    return int(counted.scalar_one())


async def find_account_policy(conn: AsyncConnection) -> AccountPolicy | None:
    """As the database has it: no cache, since a key is refused the moment that this changes."""
    row = (await conn.execute(_ACCOUNT)).one_or_none()
    return None if row is None else AccountPolicy(row.is_enabled, split_words(row.scopes))


async def insert_key(conn: AsyncConnection, key: ApiKey, max_live: int) -> bool | None:
    """False: the owner has `max_live` live keys already, however many come at once. None: the
    owner does not exist or is disabled."""
    if (await conn.execute(_LOCK_OWNER, {"for_user_id": key.user_id})).one_or_none() is None:
        return None
    if await count_keys(conn, key.user_id, key.created_at) >= max_live:
        return False
    await conn.execute(_INSERT, {**asdict(key), "scope": join_words(key.scope)})
    return True


async def revoke_key(conn: AsyncConnection, key_id: str, user_id: str, now: int) -> bool:
    """The key, and with it every access token from it. False: the user has no such live key."""
    bound = {"for_key_id": key_id, "for_user_id": user_id, "at": now}
    revoked = (await conn.execute(_REVOKE, bound)).all()
    await _revoke_numbers(conn, revoked, now)
    return bool(revoked)


async def revoke_keys_of_user(conn: AsyncConnection, user_id: str, now: int) -> list[str]:
    """All live keys; their ids."""
    await conn.execute(_LOCK_ALL, {"for_user_id": user_id})
    found = await conn.execute(_REVOKE_ALL, {"for_user_id": user_id, "at": now})
    revoked = found.all()
    await _revoke_numbers(conn, revoked, now)
    return sorted(row.key_id for row in revoked)


async def end_tokens_of_user(conn: AsyncConnection, user_id: str, now: int) -> None:
    """Every access token from a key of this user dies; the keys stay, and begin with a number of
    their own when they may be used again. For disabling, after the user's row was changed."""
    owner = {"for_user_id": user_id}
    await conn.execute(_LOCK_ALL, owner)
    found = await conn.execute(_NUMBERS_OF_USER, owner)
    await _revoke_numbers(conn, found.all(), now)
    await conn.execute(_FORGET_NUMBERS, owner)


async def read_numbers(conn: AsyncConnection, key_id: str) -> KeyNumbers | None:
    """None: no such key."""
    row = (await conn.execute(_NUMBERS, {"for_key_id": key_id})).one_or_none()
    if row is None:
        return None
    return KeyNumbers(
        row.status_number,
        row.status_taken_at,
        row.previous_status_number,
        row.is_revoked is not None,
        int(row.floor or 0),
    )


async def take_number(
    conn: AsyncConnection, key: ApiKey, as_read: int | None, new: KeyNumbers
) -> bool:
    """Let the key's tokens stand at `new.current` from `new.taken_at` on. False: it has another
    number than `as_read` by now, or it or its owner may not be used any more."""
    owner = {"for_user_id": key.user_id}
    if (await conn.execute(_LOCK_OWNER, owner)).one_or_none() is None:
        return False
    bound = {
        "for_key_id": key.key_id,
        "at": new.taken_at,
        "as_read": as_read,
        "new_number": new.current,
        "new_previous": new.previous,
    }
    return (await conn.execute(_TAKE_NUMBER, bound)).rowcount == 1


async def stamp_key_use(conn: AsyncConnection, used_at: Mapping[str, int]) -> None:
    """When each key was last used; ids that are gone are ignored."""
    if used_at:
        # In the order of ids: two processes that stamp at once must not deadlock.
        rows = [{"used_key_id": name, "used_at": at} for name, at in sorted(used_at.items())]
        await conn.execute(_STAMP, rows)


async def prune_keys(conn: AsyncConnection, before: int, limit: int) -> int:
    """Forget up to `limit` keys that were revoked or expired before `before`; how many."""
    gone = 0
    for ended_at in (_K.revoked_at, _K.expires_at):
        old = select(_K.key_id).where(ended_at < before).limit(limit - gone)
        gone += (await conn.execute(delete(api_keys).where(_K.key_id.in_(old)))).rowcount
    return gone


async def _revoke_numbers(
    conn: AsyncConnection, rows: Sequence[Row[*tuple[Any, ...]]], now: int
) -> None:
    numbers = {n for row in rows for n in (row.status_number, row.previous_status_number)}
    for number in sorted(numbers - {None}):
        await status.revoke_machine_token(conn, number, now)


def _key_of(row: Row[*tuple[Any, ...]]) -> ApiKey:
    found = row._asdict()
    return ApiKey(**{**found, "scope": split_words(found["scope"])})
