"""SQLite: WAL, synchronous=FULL, one writer at a time with BEGIN IMMEDIATE under the WriteLock (so
commits and the checkpoints that they trigger never meet another writer), a few query-only readers.
Must not hold a domain rule or a query.
"""

import contextlib
import sqlite3
from collections.abc import AsyncIterator, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

from sqlalchemy import URL, Connection, event, text
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from token_server.errors import OperatorError, UnavailableError
from token_server.storage.backend import POOL_TIMEOUT_S, Asked, Backend, translated
from token_server.storage.database_url import SqliteAddress
from token_server.storage.direct import DirectReader, DirectWriter
from token_server.storage.steps import Dialect, Row, Steps, Transaction
from token_server.storage.write_lock import WriteLock

R = TypeVar("R")

MINIMUM_SQLITE = (3, 35, 0)  # RETURNING; UPDATE ... FROM came with 3.33
WAL_RESET_FIXED = (3, 51, 3)  # two connections that write or checkpoint at once damage the file
_WRITE_TURN_TIMEOUT_S = 5.0
_BUSY_TIMEOUT_S = 2.0  # only programs that do not know our lock make SQLite itself wait
_READERS = 4
_WRITER_PRAGMAS = (
    "PRAGMA journal_mode=WAL",
    "PRAGMA synchronous=FULL",
    "PRAGMA foreign_keys=ON",
    "PRAGMA journal_size_limit=67108864",
)
_READER_PRAGMAS = ("PRAGMA query_only=ON", "PRAGMA wal_autocheckpoint=0")


class _SqliteBackend:
    dialect: Dialect = "sqlite"

    def __init__(self, path: Path, engines: tuple[AsyncEngine, AsyncEngine]) -> None:
        self.path: Path | None = path
        self._writer, self._readers = engines
        self._lock = WriteLock(path, _WRITE_TURN_TIMEOUT_S)
        self._direct_reader = DirectReader(partial(_connect, path, _READER_PRAGMAS))
        self._direct_writer = DirectWriter(partial(_connect, path, _WRITER_PRAGMAS))

    @contextlib.asynccontextmanager
    async def read(self, wait_s: float | None = None) -> AsyncIterator[AsyncConnection]:  # noqa: ARG002 - readers wait for nobody
        async with self._readers.connect() as conn:
            yield conn

    @contextlib.asynccontextmanager
    async def write(self, wait_s: float | None) -> AsyncIterator[AsyncConnection]:
        async with self._lock.hold(wait_s), self._writer.begin() as conn:
            yield conn

    async def read_alone(self, queries: Sequence[Asked]) -> list[list[Row]]:
        return await self._direct_reader.run([q.bind("sqlite", values) for q, values in queries])

    async def write_alone(self, statement: str, values: Sequence[object]) -> list[Row]:
        return await self.write_steps(lambda _: _one_step(statement, values))

    async def write_steps(self, transaction: Transaction[R]) -> R:
        async with self._lock.hold():
            return await self._direct_writer.run(transaction("sqlite"))

    async def checkpoint(self) -> None:
        async with self._lock.hold():
            await self._direct_writer.checkpoint()

    async def close(self) -> None:
        await self._readers.dispose()
        await self._direct_reader.close()
        try:
            # The last connection to close checkpoints: that is a write like any other.
            async with self._lock.hold():
                await self._close_writers()
        except UnavailableError:
            await self._close_writers()  # somebody else is alive, so ours are not the last
        finally:
            self._lock.close()

    async def _close_writers(self) -> None:
        await self._direct_writer.close()
        await self._writer.dispose()


async def open_sqlite(address: SqliteAddress) -> Backend:
    if sqlite3.sqlite_version_info < MINIMUM_SQLITE:
        raise OperatorError(
            f"SQLite {sqlite3.sqlite_version} is too old: 3.35 or newer is needed"
            " (install a newer Python or system SQLite, or use PostgreSQL)."
        )
    _prepare_file(address.path)
    backend = _SqliteBackend(
        address.path,
        (
            _engine(address.path, is_writer=True),
            _engine(address.path, is_writer=False),
        ),
    )
    try:
        await _require_wal(backend)
    except BaseException:
        await backend.close()
        raise
    return backend


async def _require_wal(backend: _SqliteBackend) -> None:
    with translated():
        # In a write turn, since switching a new file to WAL writes to it.
        async with backend.write(None) as conn:
            mode = (await conn.execute(text("PRAGMA journal_mode"))).scalar_one()
    if mode != "wal":
        raise OperatorError(
            f"SQLite refused WAL mode for {backend.path} (it granted {mode!r}): put the"
            " database on a local file system."
        )


def _prepare_file(path: Path) -> None:
    """Makes the directory 0700 and the file 0600, if they are missing. An existing file is never
    opened here: closing it would drop the POSIX locks of this process's open connections."""
    try:
        for directory in reversed(path.parents):  # mkdir(parents=True) would ignore the mode
            directory.mkdir(mode=0o700, exist_ok=True)
        if not path.exists():
            with contextlib.suppress(FileExistsError):
                path.touch(mode=0o600, exist_ok=False)
    except OSError as err:
        raise OperatorError(f"The database file {path} cannot be created: {err.strerror}.") from err
    if not path.is_file():
        raise OperatorError(f"The database {path} is not a regular file.")


def _engine(path: Path, *, is_writer: bool) -> AsyncEngine:
    engine = create_async_engine(
        URL.create("sqlite+aiosqlite", database=str(path)),
        hide_parameters=True,
        pool_size=1 if is_writer else _READERS,
        max_overflow=0,
        pool_timeout=POOL_TIMEOUT_S,
        # No transaction but those that the "begin" event opens: a reader's statement is one.
        connect_args={"isolation_level": None, "timeout": _BUSY_TIMEOUT_S},
    )

    @event.listens_for(engine.sync_engine, "connect")
    def configure(dbapi_connection: DBAPIConnection, _record: object) -> None:
        cursor = dbapi_connection.cursor()
        for pragma in _WRITER_PRAGMAS if is_writer else _READER_PRAGMAS:
            cursor.execute(pragma)
        cursor.close()

    if is_writer:
        # A deferred BEGIN that upgrades to a write fails at once and ignores the busy timeout.
        @event.listens_for(engine.sync_engine, "begin")
        def begin(connection: Connection) -> None:
            connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def _one_step(statement: str, values: Sequence[object]) -> Steps[list[Row]]:
    rows = yield statement, values
    return rows


def _connect(path: Path, pragmas: Sequence[str]) -> sqlite3.Connection:
    connection = sqlite3.connect(
        path, timeout=_BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
    )
    for pragma in pragmas:
        connection.execute(pragma)
    return connection
