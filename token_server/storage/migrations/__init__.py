"""Brings a database to this release's schema; the revisions themselves are Alembic's (versions/).

Importing Alembic costs half a second, so the stored revision is compared with HEAD first and
Alembic is loaded only when the database is behind. An upgrade is one transaction under a lock:
of two simultaneous first starts one migrates and the other finds nothing to do, and a process
killed in the middle leaves the old schema. A schema newer than the code is refused.
"""

from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection, inspect, text
from sqlalchemy.ext.asyncio import AsyncConnection

from token_server.errors import OperatorError
from token_server.storage import meta
from token_server.storage.engine import Store

# Oldest first; a test compares them with versions/.
REVISIONS = ("0001", "0002", "0003", "0004", "0005", "0006")
HEAD = REVISIONS[-1]

UPGRADED_AT = "schema_upgraded_at"
_WAIT_S = 60.0  # another process may be migrating a large table
_POSTGRES_LOCK_ID = 0x746F6B656E  # "token"; any constant that nobody else in the database uses


@dataclass(frozen=True)
class SchemaStatus:
    """`current` is None for a database without our tables."""

    current: str | None
    head: str
    upgraded_at: int | None

    @property
    def is_current(self) -> bool:
        return self.current == self.head

    @property
    def is_newer(self) -> bool:
        """Made by a later release: this one must not touch it."""
        return self.current is not None and self.current not in REVISIONS


async def schema_status(store: Store) -> SchemaStatus:
    async with store.read() as conn:
        current = await _stored_revision(conn)
        upgraded_at = None if current is None else await meta.get(conn, UPGRADED_AT)
    return SchemaStatus(current, HEAD, None if upgraded_at is None else int(upgraded_at))


async def upgrade(store: Store) -> bool:
    """Migrates to HEAD; True when there was something to do. Safe to call from several processes.

    Raises OperatorError when the database belongs to a newer release.
    """
    if _is_done(await schema_status(store)):
        return False
    async with store.write(wait_s=_WAIT_S) as conn:
        if store.dialect == "postgresql":
            await conn.execute(text("SELECT pg_advisory_xact_lock(:id)"), {"id": _POSTGRES_LOCK_ID})
        # Whoever held the lock before may have done it.
        current = await _stored_revision(conn)
        if not _is_done(SchemaStatus(current, HEAD, None)):
            await conn.run_sync(run_alembic)
            await meta.set(conn, UPGRADED_AT, str(store.now()))
            return True
    return False


def run_alembic(connection: Connection, revision: str = "head") -> None:
    """Runs the packaged revisions inside the transaction of `connection`."""
    from alembic import command
    from alembic.config import Config

    config = Config()
    directory = str(Path(__file__).parent).replace("%", "%%")
    config.set_main_option("script_location", directory)
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    command.upgrade(config, revision)


def _is_done(status: SchemaStatus) -> bool:
    if status.is_newer:
        raise OperatorError(
            f"The database has schema {status.current}, which is newer than this release's {HEAD}:"
            " install the newer token-server, or restore a backup made with this one."
        )
    return status.is_current


async def _stored_revision(conn: AsyncConnection) -> str | None:
    if not await conn.run_sync(lambda sync: inspect(sync).has_table("alembic_version")):
        return None
    rows = await conn.execute(text("SELECT version_num FROM alembic_version LIMIT 1"))
    stored = rows.scalar_one_or_none()
    return None if stored is None else str(stored)
