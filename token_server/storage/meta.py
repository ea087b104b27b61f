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
STATUS_KEY = "status_key"  # of the permutation in status lists; never changes
SESSIONS_FLOOR = "sessions_floor"  # sessions with a smaller `seq` were ended by `db restored`
MACHINES_FLOOR = "machines_floor"  # machine tokens with a smaller number were
GUESS_ALARM = "guess_alarm"  # failed guesses of all processes in this minute (JSON)

_SELECT = select(schema.meta.c.value).where(schema.meta.c.name == bindparam("name"))
_HOLD = _SELECT.with_for_update()  # SQLite has one writer anyway
_INSERT = "INSERT INTO meta (name, value) VALUES (:name, :value) ON CONFLICT (name) DO "


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


async def hold(conn: AsyncConnection, name: str, initial: str) -> str:
    """The value, `initial` if there was none, which nobody else changes before this transaction
    ends."""
    await insert_if_absent(conn, name, initial)
    return str((await conn.execute(_HOLD, {"name": name})).scalar_one())


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
