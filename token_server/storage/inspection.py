"""What a database says of itself: version, clock, size, damage. Reads only, changes nothing."""

from dataclasses import dataclass

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection


@dataclass(frozen=True, slots=True)
class DatabaseFacts:
    """`clock_at` is the database server's clock; None where it is this machine's (SQLite)."""

    version: str
    size_bytes: int
    clock_at: float | None
    journal_mode: str | None
    damage: str | None  # what SQLite's quick check found


async def granted_connections(conn: AsyncConnection) -> int:
    """How many connections PostgreSQL grants this role to this database, over all programs."""
    granted = await conn.execute(
        text(
            # A limit of -1 is none; `reserved_connections` is of PostgreSQL 16.
            "SELECT least(current_setting('max_connections')::int"
            " - current_setting('superuser_reserved_connections')::int"
            " - coalesce(current_setting('reserved_connections', true)::int, 0),"
            " nullif(r.rolconnlimit, -1), nullif(d.datconnlimit, -1))"
            " FROM pg_roles r, pg_database d"
            " WHERE r.rolname = current_user AND d.datname = current_database()"
        )
    )
    return int(granted.scalar_one())


async def read_clock(conn: AsyncConnection) -> float | None:
    """The database server's clock; None where it is this machine's (SQLite)."""
    if conn.dialect.name != "postgresql":
        return None
    return float((await conn.execute(text("SELECT extract(epoch FROM now())"))).scalar_one())


async def describe_database(conn: AsyncConnection, *, check: bool = False) -> DatabaseFacts:
    """`check` looks through a SQLite file for damage, which takes a while for a large one."""
    if conn.dialect.name == "postgresql":
        row = (
            await conn.execute(
                text(
                    "SELECT current_setting('server_version'), extract(epoch FROM now()),"
                    " pg_database_size(current_database())"
                )
            )
        ).one()
        return DatabaseFacts(f"PostgreSQL {row[0]}", int(row[2]), float(row[1]), None, None)
    version = (await conn.execute(text("SELECT sqlite_version()"))).scalar_one()
    mode = (await conn.execute(text("PRAGMA journal_mode"))).scalar_one()
    pages = (await conn.execute(text("PRAGMA page_count"))).scalar_one()
    page_bytes = (await conn.execute(text("PRAGMA page_size"))).scalar_one()
    damage = None
    if check:
        found = str((await conn.execute(text("PRAGMA quick_check(1)"))).scalar_one())
        damage = None if found == "ok" else found
    return DatabaseFacts(f"SQLite {version}", pages * page_bytes, None, str(mode), damage)
