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
