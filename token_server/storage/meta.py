"""Single values of the whole installation: `epoch`, `keyring_id`, `key_store`, ...

Values are text. Must not be used for anything that changes per request.
"""

from sqlalchemy import bindparam, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from token_server.storage import schema

EPOCH = "epoch"  # part of every refresh MAC; absent means 0
KEYRING_ID = "keyring_id"  # the keyring that this database belongs to
KEY_STORE = "key_store"  # where that keyring is kept; absent means in a key directory
KEYS_EMERGENCY = "keys_emergency"  # `version:instant` while `keys compromise --all` is at work
_LIST_SIZE = 131_072  # entries of a status list: a restore continues in a fresh one

_SELECT = select(schema.meta.c.value).where(schema.meta.c.name == bindparam("name"))
_INSERT = "INSERT INTO meta (name, value) VALUES (:name, :value) ON CONFLICT (name) DO "
_LAST_POSTGRES_SEQ = (
    "SELECT greatest((SELECT coalesce(max(seq), 0) FROM families), coalesce("
    "pg_sequence_last_value(pg_get_serial_sequence('families', 'seq')::regclass), 0))"
)


async def get(conn: AsyncConnection, name: str) -> str | None:
    found = (await conn.execute(_SELECT, {"name": name})).scalar_one_or_none()
    return None if found is None else str(found)


async def set(  # noqa: A001 - read as `meta.set`
    conn: AsyncConnection, name: str, value: str
) -> None:
    await conn.execute(
        text(_INSERT + "UPDATE SET value = excluded.value"), {"name": name, "value": value}
    )


async def insert_if_absent(conn: AsyncConnection, name: str, value: str) -> bool:
    """True when it was absent; False leaves the stored value as it is."""
    done = await conn.execute(text(_INSERT + "NOTHING"), {"name": name, "value": value})
    return done.rowcount == 1


async def restore_epoch(conn: AsyncConnection) -> int:
    """After a restored backup: the next epoch, and a `seq` that begins a fresh status list.
    Returns the new epoch."""
    epoch = await raise_epoch(conn)
    await _skip_to_fresh_list(conn)
    return epoch


async def raise_epoch(conn: AsyncConnection) -> int:
    """The next epoch: no refresh token from before it is good any more. Returns it."""
    raised = await conn.execute(
        text(
            "INSERT INTO meta (name, value) VALUES (:name, '1') ON CONFLICT (name) DO UPDATE"
            " SET value = CAST(CAST(meta.value AS BIGINT) + 1 AS TEXT) RETURNING value"
        ),
        {"name": EPOCH},
    )
    return int(raised.scalar_one())


async def _skip_to_fresh_list(conn: AsyncConnection) -> None:
    """The next `seq` becomes the next multiple of the list's size above every one ever given.

    What is stored is the number before it, as given: PostgreSQL forgets a start value that no
    row has used yet, and would go back behind rows that were pruned.
    """
    if conn.dialect.name == "postgresql":
        last = await conn.execute(text(_LAST_POSTGRES_SEQ))
        previous = {"previous": _last_of_list(int(last.scalar_one()))}
        await conn.execute(
            text("SELECT setval(pg_get_serial_sequence('families', 'seq'), :previous)"), previous
        )
        return
    last = await conn.execute(
        text("SELECT coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'families'), 0)")
    )
    previous = {"previous": _last_of_list(int(last.scalar_one()))}
    changed = await conn.execute(
        text("UPDATE sqlite_sequence SET seq = :previous WHERE name = 'families'"), previous
    )
    if changed.rowcount == 0:  # no family was ever inserted
        await conn.execute(
            text("INSERT INTO sqlite_sequence (name, seq) VALUES ('families', :previous)"), previous
        )


def _last_of_list(seq: int) -> int:
    """The number before the first multiple of the list's size above `seq`."""
    return (seq + 1 + _LIST_SIZE - 1) // _LIST_SIZE * _LIST_SIZE - 1
