"""SQLite: WAL, synchronous=FULL, one writer at a time with BEGIN IMMEDIATE under the WriteLock (so
commits and the checkpoints that they trigger never meet another writer), a few query-only readers.
Must not hold a domain rule or a query.
"""

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

from sqlalchemy import URL, Connection, event, text
from sqlalchemy.engine.interfaces import DBAPIConnection, ExceptionContext
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from token_server.errors import OperatorError, UnavailableError
from token_server.storage.backend import (
    POOL_TIMEOUT_S,
    Asked,
    Backend,
    Operation,
    translated,
)
from token_server.storage.database_url import SqliteAddress
from token_server.storage.direct import DirectReader, DirectWriter
from token_server.storage.sqlite_file import SqliteFile
from token_server.storage.sqlite_probe import SqliteProbe, is_damage, is_fault
from token_server.storage.steps import Dialect, Row, Steps, Transaction
from token_server.storage.write_lock import WriteLock

R = TypeVar("R")

MINIMUM_SQLITE = (3, 35, 0)  # RETURNING; UPDATE ... FROM came with 3.33
WAL_RESET_FIXED = (3, 51, 3)  # two connections that write or checkpoint at once damage the file
_WRITE_TURN_TIMEOUT_S = 5.0
_BUSY_TIMEOUT_S = 2.0  # only programs that do not know our lock make SQLite itself wait
_PROBE_TURN_S, _PROBE_BUSY_S = 0.7, 0.6  # together less than availability.PROBE_TIMEOUT_S
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
        self._file = SqliteFile(path)
        self._lock = WriteLock(path, _WRITE_TURN_TIMEOUT_S)
        self._keeper: sqlite3.Connection | None = None
        self._probe = SqliteProbe(
            partial(_connect, path, _READER_PRAGMAS, _PROBE_BUSY_S),
            partial(_connect, path, _WRITER_PRAGMAS, _PROBE_BUSY_S),
        )
        for engine in engines:
            _watch_errors(engine, self._note_error)
        self._direct_reader = DirectReader(partial(_connect, path, _READER_PRAGMAS))
        self._direct_writer = DirectWriter(partial(_connect, path, _WRITER_PRAGMAS))

    @contextlib.asynccontextmanager
    async def read(self, wait_s: float | None = None) -> AsyncIterator[AsyncConnection]:  # noqa: ARG002 - readers wait for nobody
        self._file.require_same()
        async with self._readers.connect() as conn:
            yield conn

    @contextlib.asynccontextmanager
    async def write(self, wait_s: float | None) -> AsyncIterator[AsyncConnection]:
        async with self._lock.hold(wait_s):
            self._file.require_same()
            async with self._writer.begin() as conn:
                yield conn

    async def read_alone(self, queries: Sequence[Asked]) -> list[list[Row]]:
        self._file.require_same()
        try:
            return await self._direct_reader.run([q.bind("sqlite", v) for q, v in queries])
        except sqlite3.Error as error:
            self._note_error(error)
            raise

    async def write_alone(self, statement: str, values: Sequence[object]) -> list[Row]:
        return await self.write_steps(lambda _: _one_step(statement, values))

    async def write_steps(self, transaction: Transaction[R]) -> R:
        async with self._lock.hold():
            self._file.require_same()
            try:
                return await self._direct_writer.run(transaction("sqlite"))
            except sqlite3.Error as error:
                self._note_error(error)
                raise

    async def checkpoint(self) -> None:
        async with self._lock.hold():
            self._file.require_same()
            await self._direct_writer.checkpoint()

    def _note_error(self, error: BaseException) -> None:
        if is_damage(error):
            self._probe.note_damage()

    async def probe(self, operation: Operation) -> None:
        with translated():
            self._file.require_same()
            if operation == "read":
                await self._probe.read()
            else:
                async with self._lock.hold(_PROBE_TURN_S):
                    await self._probe.write()

    def give_up(self, operation: Operation) -> None:
        """Nothing: a handle that failed is closed already, and a thread cannot be broken off."""

    def resume(self, operation: Operation) -> None:
        """Nothing to do either."""

    async def keep_files(self) -> None:
        """From now on the files are these: a connection that nobody uses keeps the WAL in its
        place even when every other one was closed because of an error."""
        self._keeper = await asyncio.to_thread(_connect, self._file.path, _READER_PRAGMAS)
        self._keeper.execute("SELECT count(*) FROM sqlite_master").fetchone()
        self._file.remember()

    async def close(self) -> None:
        self._probe.close()
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
        if self._keeper is not None:
            self._keeper.close()
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
        with translated():
            await backend.keep_files()
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


def _watch_errors(engine: AsyncEngine, note: Callable[[BaseException], None]) -> None:
    @event.listens_for(engine.sync_engine, "handle_error")
    def drop_faulty(context: ExceptionContext) -> None:
        error = context.original_exception
        note(error)
        # What a handle holds after an I/O error need not be what is on the disk.
        if is_fault(error):
            context.is_disconnect = True


def _connect(
    path: Path, pragmas: Sequence[str], timeout_s: float = _BUSY_TIMEOUT_S
) -> sqlite3.Connection:
    connection = sqlite3.connect(
        path, timeout=timeout_s, isolation_level=None, check_same_thread=False
    )
    for pragma in pragmas:
        connection.execute(pragma)
    return connection
