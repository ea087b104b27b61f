"""A PostgreSQL of our own whose processes are killed: which they are, and when it is back."""

import asyncio
import time

import asyncpg
from sqlalchemy.engine import make_url

_RECOVERY_S = 60.0


async def _connect(database_url: str) -> asyncpg.Connection:
    url = make_url(database_url).set(drivername="postgresql")
    return await asyncpg.connect(url.render_as_string(hide_password=False))


async def backends_of(database_url: str) -> list[int]:
    """PostgreSQL's processes for the connections of the server."""
    connection = await _connect(database_url)
    try:
        rows = await connection.fetch(
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database()"
            " AND backend_type = 'client backend' AND pid <> pg_backend_pid()"
        )
    finally:
        await connection.close()
    return [int(row["pid"]) for row in rows]


async def await_recovery(database_url: str) -> None:
    """It ends all its processes when one was killed, and recovers from its log."""
    deadline = time.monotonic() + _RECOVERY_S
    while True:
        try:
            connection = await _connect(database_url)
        except (OSError, asyncpg.PostgresError):
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.05)
        else:
            await connection.close()
            return


async def sync_to_disk(database_url: str) -> None:
    """A PostgreSQL of ours as operators run it: tests switch its fsync off. But what it syncs of
    old files after each crash is one call, not one for each of a thousand files."""
    connection = await _connect(database_url)
    try:
        for setting in ("fsync", "full_page_writes"):
            await connection.execute(f"ALTER SYSTEM SET {setting} = on")
        await connection.execute("ALTER SYSTEM SET recovery_init_sync_method = 'syncfs'")
        await connection.execute("SELECT pg_reload_conf()")
    finally:
        await connection.close()
