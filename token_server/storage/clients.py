"""The clients table and their secrets' digests. Expired secrets are returned, too: the service
decides what counts.

Disabling or deleting takes the row's lock, for which an `insert_family` of this client waits: do
it first, then revoke the client's families in the same write block, and none stays alive.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import Row, bindparam, delete, insert, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from token_server.records import Client, ClientSecret
from token_server.storage.errors import AlreadyExistsError
from token_server.storage.schema import client_secrets, clients, join_words, split_words

_C = clients.c
_S = client_secrets.c
_COLUMNS = (
    _C.client_id,
    _C.name,
    _C.is_public,
    _C.is_enabled,
    _C.grant_types,
    _C.scopes,
    _C.audiences,
    _C.default_audience,
    _C.access_token_ttl_s,
    _C.access_token_typ,
    _C.refresh_idle_ttl_s,
    _C.refresh_absolute_ttl_s,
    _C.refresh_replay_window_s,
    _C.shadow_limit,
    _C.created_at,
    _C.updated_at,
    _C.serves_audiences,
    _C.exchange_audiences,
    _C.is_revocable,
)
_SECRET_COLUMNS = (
    _S.secret_id,
    _S.secret_digest,
    _S.label,
    _S.created_at,
    _S.expires_at,
    _S.last_used_at,
)
_FIND = select(*_COLUMNS).where(_C.client_id == bindparam("client_id"))
_LIST = (
    select(*_COLUMNS)
    .where(_C.client_id > bindparam("after"))
    .order_by(_C.client_id)
    .limit(bindparam("limit"))
)
_MAX_SECRETS = 1000  # of one client: beyond any sensible rotation, but bounded
_SECRETS_OF = (
    select(_S.client_id, *_SECRET_COLUMNS)
    .where(_S.client_id.in_(bindparam("client_ids", expanding=True)))
    .order_by(_S.created_at, _S.secret_id)
    .limit(bindparam("limit"))
)
_INSERT = text(
    "INSERT INTO clients (client_id, name, is_public, is_enabled, grant_types, scopes, audiences,"
    " default_audience, access_token_ttl_s, access_token_typ, refresh_idle_ttl_s,"
    " refresh_absolute_ttl_s, refresh_replay_window_s, shadow_limit, created_at, updated_at,"
    " serves_audiences, exchange_audiences, is_revocable)"
    " VALUES (:client_id, :name, :is_public, :is_enabled, :grant_types, :scopes, :audiences,"
    " :default_audience, :access_token_ttl_s, :access_token_typ, :refresh_idle_ttl_s,"
    " :refresh_absolute_ttl_s, :refresh_replay_window_s, :shadow_limit, :created_at, :updated_at,"
    " :serves_audiences, :exchange_audiences, :is_revocable)"
    " ON CONFLICT (client_id) DO NOTHING"
)
_SET_ENABLED = (
    update(clients)
    .where(_C.client_id == bindparam("for_client_id"))
    .values(is_enabled=bindparam("enabled"), updated_at=bindparam("now"))
)
_CHANGE = text(
    "UPDATE clients SET name = :name, grant_types = :grant_types, scopes = :scopes,"
    " audiences = :audiences, default_audience = :default_audience,"
    " serves_audiences = :serves_audiences, exchange_audiences = :exchange_audiences,"
    " is_revocable = :is_revocable, updated_at = :updated_at"
    " WHERE client_id = :client_id"
)
_LOCK_TO_CHANGE = (
    select(_C.client_id).where(_C.client_id == bindparam("client_id")).with_for_update()
)
_DELETE = delete(clients).where(_C.client_id == bindparam("client_id"))
# FOR SHARE on PostgreSQL; on SQLite there is only one writer anyway.
_LOCK = (
    select(_C.client_id).where(_C.client_id == bindparam("client_id")).with_for_update(read=True)
)
_INSERT_SECRET = insert(client_secrets)
_DELETE_SECRET = delete(client_secrets).where(
    _S.client_id == bindparam("client_id"), _S.secret_id == bindparam("secret_id")
)
# Never later than before: an earlier expiry of another secret stays.
_EXPIRE_OTHERS = (
    update(client_secrets)
    .where(
        _S.client_id == bindparam("for_client_id"),
        _S.secret_id != bindparam("keep_secret_id"),
        _S.expires_at.is_(None) | (_S.expires_at > bindparam("expire_at")),
    )
    .values(expires_at=bindparam("expire_at"))
)
# Stamps may arrive late and out of order: the latest use stays.
_STAMP = (
    update(client_secrets)
    .where(
        _S.secret_id == bindparam("used_secret_id"),
        _S.last_used_at.is_(None) | (_S.last_used_at < bindparam("used_at")),
    )
    .values(last_used_at=bindparam("used_at"))
)


async def find_client(conn: AsyncConnection, client_id: str) -> Client | None:
    row = (await conn.execute(_FIND, {"client_id": client_id})).one_or_none()
    # Asked for in any case: one statement less would tell strangers that there is no such client.
    secrets = await _secrets_of(conn, [client_id])
    return None if row is None else _client_of(row, secrets.get(client_id, []))


async def list_clients(conn: AsyncConnection, after: str | None, limit: int) -> list[Client]:
    """In the order of client ids, beginning behind `after` (the last one of the page before)."""
    rows = (await conn.execute(_LIST, {"after": after or "", "limit": limit})).all()
    secrets = await _secrets_of(conn, [row.client_id for row in rows])
    return [_client_of(row, secrets.get(row.client_id, [])) for row in rows]


async def insert_client(conn: AsyncConnection, client: Client) -> None:
    """With its secrets. Raises AlreadyExistsError("client_id"); the transaction stays usable."""
    done = await conn.execute(
        _INSERT,
        {
            "client_id": client.client_id,
            "name": client.name,
            "is_public": client.is_public,
            "is_enabled": client.is_enabled,
            "grant_types": join_words(client.grant_types),
            "scopes": join_words(client.scopes),
            "audiences": join_words(client.audiences),
            "default_audience": join_words(client.default_audience),
            "access_token_ttl_s": client.access_token_ttl_s,
            "access_token_typ": client.access_token_typ,
            "refresh_idle_ttl_s": client.refresh_idle_ttl_s,
            "refresh_absolute_ttl_s": client.refresh_absolute_ttl_s,
            "refresh_replay_window_s": client.refresh_replay_window_s,
            "shadow_limit": client.shadow_limit,
            "created_at": client.created_at,
            "updated_at": client.updated_at,
            "serves_audiences": join_words(client.serves_audiences),
            "exchange_audiences": join_words(client.exchange_audiences),
            "is_revocable": client.is_revocable,
        },
    )
    if done.rowcount == 0:
        raise AlreadyExistsError("client_id")
    if client.secrets:
        rows = [_secret_values(client.client_id, secret) for secret in client.secrets]
        await conn.execute(_INSERT_SECRET, rows)


async def set_client_enabled(
    conn: AsyncConnection, client_id: str, enabled: bool, now: int
) -> bool:
    """False: no such client. Revoke its families after this, in the same block."""
    values = {"for_client_id": client_id, "enabled": enabled, "now": now}
    return (await conn.execute(_SET_ENABLED, values)).rowcount == 1


async def lock_client(conn: AsyncConnection, client_id: str) -> Client | None:
    """The client, which nobody else can change before the end of this write block."""
    await conn.execute(_LOCK_TO_CHANGE, {"client_id": client_id})
    return await find_client(conn, client_id)


async def change_client(conn: AsyncConnection, client: Client) -> None:
    """Name, grants, scopes, audiences, `is_revocable` and `updated_at` as they are in `client`;
    the row was read by `lock_client` in the same block."""
    await conn.execute(
        _CHANGE,
        {
            "client_id": client.client_id,
            "name": client.name,
            "grant_types": join_words(client.grant_types),
            "scopes": join_words(client.scopes),
            "audiences": join_words(client.audiences),
            "default_audience": join_words(client.default_audience),
            "serves_audiences": join_words(client.serves_audiences),
            "exchange_audiences": join_words(client.exchange_audiences),
            "is_revocable": client.is_revocable,
            "updated_at": client.updated_at,
        },
    )


async def delete_client(conn: AsyncConnection, client_id: str) -> bool:
    """With its secrets; families stay, for their status: revoke them after this, in the block."""
    return (await conn.execute(_DELETE, {"client_id": client_id})).rowcount == 1


async def insert_secret(conn: AsyncConnection, client_id: str, secret: ClientSecret) -> bool:
    """False: no such client (locked against a deletion, so that the foreign key always holds)."""
    found = await conn.execute(_LOCK, {"client_id": client_id})
    if found.one_or_none() is None:
        return False
    await conn.execute(_INSERT_SECRET, _secret_values(client_id, secret))
    return True


async def delete_secret(conn: AsyncConnection, client_id: str, secret_id: str) -> bool:
    values = {"client_id": client_id, "secret_id": secret_id}
    return (await conn.execute(_DELETE_SECRET, values)).rowcount == 1


async def expire_other_secrets(
    conn: AsyncConnection, client_id: str, keep_secret_id: str, expires_at: int
) -> int:
    """The client's other secrets end at `expires_at` at the latest; returns how many it changed."""
    values = {
        "for_client_id": client_id,
        "keep_secret_id": keep_secret_id,
        "expire_at": expires_at,
    }
    return (await conn.execute(_EXPIRE_OTHERS, values)).rowcount


async def stamp_secret_use(conn: AsyncConnection, used_at: Mapping[str, int]) -> None:
    """When each secret was last used; ids that are gone are ignored."""
    if used_at:
        # In the order of ids: two processes that stamp at once must not deadlock.
        rows = [{"used_secret_id": name, "used_at": at} for name, at in sorted(used_at.items())]
        await conn.execute(_STAMP, rows)


async def _secrets_of(
    conn: AsyncConnection, client_ids: Sequence[str]
) -> dict[str, list[ClientSecret]]:
    if not client_ids:
        return {}
    limit = _MAX_SECRETS * len(client_ids)
    found = await conn.execute(_SECRETS_OF, {"client_ids": client_ids, "limit": limit})
    secrets: dict[str, list[ClientSecret]] = {}
    for row in found:
        values = row._asdict()
        secrets.setdefault(values.pop("client_id"), []).append(ClientSecret(**values))
    return secrets


def _secret_values(client_id: str, secret: ClientSecret) -> dict[str, object]:
    return {
        "secret_id": secret.secret_id,
        "client_id": client_id,
        "secret_digest": secret.secret_digest,
        "label": secret.label,
        "created_at": secret.created_at,
        "expires_at": secret.expires_at,
        "last_used_at": secret.last_used_at,
    }


def _client_of(row: Row[*tuple[Any, ...]], secrets: Iterable[ClientSecret]) -> Client:
    values = row._asdict()
    return Client(
        **{
            **values,
            "grant_types": frozenset(split_words(values["grant_types"])),
            "scopes": split_words(values["scopes"]),
            "audiences": split_words(values["audiences"]),
            "default_audience": split_words(values["default_audience"]),
            "serves_audiences": split_words(values["serves_audiences"]),
            "exchange_audiences": split_words(values["exchange_audiences"]),
            "secrets": tuple(secrets),
        }
    )
