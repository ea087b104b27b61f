"""Bulk loading into a migrated database of either engine, and what the rows take up.

SQLite: large transactions with a large cache, a rollback journal and no syncs, so that a killed
load goes on where it was but a power cut may damage the file; afterwards it is in WAL mode again,
as production opens it. PostgreSQL: COPY. The indexes stay in place on both, so that they grow
as those of a server do. Nobody else may use the SQLite file meanwhile.
"""

import contextlib
import itertools
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
from sqlalchemy.engine import make_url

from tests.growth.rows import (
    AUDIT_COLUMNS,
    FAMILY_COLUMNS,
    USER_COLUMNS,
    Login,
    Shape,
    logins,
)
from token_server.storage.database_url import SqliteAddress, parse_database_url

Advance = Callable[[int], object]  # is told how many more logins are stored

COLUMNS = {"users": USER_COLUMNS, "families": FAMILY_COLUMNS, "audit_events": AUDIT_COLUMNS}
SQLITE_TRANSACTION = 500_000  # each one writes nearly every page of the indexes
SQLITE_CACHE_KIB = 2_000_000
BATCH = 10_000
POSTGRES_TRANSACTION = 50_000

_LOADED = "SELECT coalesce(max(seq), 0) FROM families WHERE seq <= {families}"
_EXPIRED = "SELECT count(*) FROM families WHERE seq <= {expired}"
_DROP_EXPIRED = "DELETE FROM families WHERE seq <= {expired}"
_NEXT_SEQ = (
    "SELECT setval(pg_get_serial_sequence('families', 'seq'), (SELECT max(seq) FROM families))"
)


@dataclass(frozen=True, slots=True)
class Part:
    """Logins `first` to `last` into some of the tables."""

    first: int
    last: int
    tables: tuple[str, ...]

    def split(self, size: int) -> Iterator["Part"]:
        for first in range(self.first, self.last + 1, size):
            yield Part(first, min(first + size - 1, self.last), self.tables)


@dataclass(frozen=True, slots=True)
class TableSize:
    table_bytes: int
    index_bytes: dict[str, int]  # by name

    @property
    def total_bytes(self) -> int:
        return self.table_bytes + sum(self.index_bytes.values())


async def load(
    database_url: str,
    shape: Shape,
    advance: Advance | None = None,
    tables: tuple[str, ...] = tuple(COLUMNS),
) -> int:
    """Brings the database to `shape` and returns how many logins were stored: all of a new one,
    the rest of an interrupted load, the expired sessions of one that was pruned since. `tables`
    are those that a new one gets, `families` among them."""
    path = sqlite_path(database_url)
    if path is not None:
        return _load_sqlite(path, shape, advance or _nobody, tables)
    return await _load_postgres(database_url, shape, advance or _nobody, tables)


async def sizes(database_url: str) -> dict[str, TableSize]:
    """Of the loaded tables, by name; in bytes, as the database counts pages."""
    path = sqlite_path(database_url)
    return _sqlite_sizes(path) if path is not None else await _postgres_sizes(database_url)


def sqlite_path(database_url: str) -> Path | None:
    """The file of a SQLite database; None for PostgreSQL."""
    address = parse_database_url(database_url)
    return address.path if isinstance(address, SqliteAddress) else None


@contextlib.asynccontextmanager
async def postgres(database_url: str) -> Any:
    """A connection of its own, without the bounds of a server's."""
    url = make_url(database_url).set(drivername="postgresql")
    connection = await asyncpg.connect(url.render_as_string(hide_password=False))
    try:
        yield connection
    finally:
        await connection.close()


def _nobody(_count: int) -> None:
    pass


def _parts(shape: Shape, loaded: int, expired: int, tables: tuple[str, ...]) -> list[Part]:
    if loaded < shape.families:
        return [Part(loaded + 1, shape.families, tables)]
    if expired < shape.expired:
        return [Part(1, shape.expired, ("families",))]
    return []


def _rows(table: str, batch: Sequence[Login]) -> list[tuple[object, ...]]:
    match table:
        case "users":
            return [login.user for login in batch]
        case "families":
            return [login.family for login in batch]
        case _:
            return [login.audit for login in batch]


def _load_sqlite(path: Path, shape: Shape, advance: Advance, tables: tuple[str, ...]) -> int:
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        names = {"families": shape.families, "expired": shape.expired}
        loaded = connection.execute(_LOADED.format(**names)).fetchone()[0]
        expired = connection.execute(_EXPIRED.format(**names)).fetchone()[0]
        parts = _parts(shape, loaded, expired, tables)
        if not parts:
            return 0
        connection.execute("PRAGMA journal_mode=TRUNCATE")
        connection.execute("PRAGMA synchronous=OFF")
        connection.execute(f"PRAGMA cache_size=-{SQLITE_CACHE_KIB}")
        if loaded == shape.families:
            connection.execute(_DROP_EXPIRED.format(**names))
        for part in itertools.chain(*(part.split(SQLITE_TRANSACTION) for part in parts)):
            connection.execute("BEGIN IMMEDIATE")
            for batch in _batches(shape, part, BATCH):
                for table in part.tables:
                    connection.executemany(_insert(table), _rows(table, batch))
                advance(len(batch))
            connection.execute("COMMIT")
        # To disk at last, and as a server opens it.
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return sum(part.last - part.first + 1 for part in parts)


def _insert(table: str) -> str:
    columns = COLUMNS[table]
    marks = ", ".join("?" * len(columns))
    return f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks})"  # noqa: S608 - constants


async def _load_postgres(
    database_url: str, shape: Shape, advance: Advance, tables: tuple[str, ...]
) -> int:
    async with postgres(database_url) as connection:
        names = {"families": shape.families, "expired": shape.expired}
        loaded = await connection.fetchval(_LOADED.format(**names))
        expired = await connection.fetchval(_EXPIRED.format(**names))
        parts = _parts(shape, loaded, expired, tables)
        if loaded == shape.families and parts:
            await connection.execute(_DROP_EXPIRED.format(**names))
        for part in itertools.chain(*(part.split(POSTGRES_TRANSACTION) for part in parts)):
            # One transaction for all tables, so that what is stored is whole.
            async with connection.transaction():
                batch = list(logins(shape, part.first, part.last))
                for table in part.tables:
                    await connection.copy_records_to_table(
                        table, records=_rows(table, batch), columns=COLUMNS[table]
                    )
            advance(len(batch))
        if parts:
            await connection.execute(_NEXT_SEQ)
            for table in COLUMNS:
                await connection.execute(f"VACUUM (ANALYZE) {table}")
    return sum(part.last - part.first + 1 for part in parts)


def _batches(shape: Shape, part: Part, size: int) -> Iterator[list[Login]]:
    for smaller in part.split(size):
        yield list(logins(shape, smaller.first, smaller.last))


def _sqlite_sizes(path: Path) -> dict[str, TableSize]:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        # Not `pgsize`, whose sum is of 32 bits; in the aggregate `pageno` is the number of pages.
        (page_bytes,) = connection.execute("PRAGMA page_size").fetchone()
        counted = connection.execute("SELECT name, pageno FROM dbstat WHERE aggregate = TRUE")
        pages = {name: count * page_bytes for name, count in counted}
        indexes = connection.execute(
            "SELECT tbl_name, name FROM sqlite_schema WHERE type = 'index'"
        ).fetchall()
    return {
        table: TableSize(
            pages[table], {name: pages[name] for owner, name in indexes if owner == table}
        )
        for table in COLUMNS
    }


async def _postgres_sizes(database_url: str) -> dict[str, TableSize]:
    found: dict[str, TableSize] = {}
    async with postgres(database_url) as connection:
        for table in COLUMNS:
            table_bytes = await connection.fetchval("SELECT pg_table_size($1::regclass)", table)
            indexes = await connection.fetch(
                "SELECT indexrelid::regclass::text AS name, pg_relation_size(indexrelid) AS bytes"
                " FROM pg_index WHERE indrelid = $1::regclass",
                table,
            )
            found[table] = TableSize(table_bytes, {row["name"]: row["bytes"] for row in indexes})
    return found
