"""Opens a database and hands out connections for read blocks and write blocks.

SQLite: WAL, synchronous=FULL, one writer connection with BEGIN IMMEDIATE under the WriteLock (so
commits and the checkpoints that they trigger never meet another writer), a few query-only
readers. PostgreSQL: one bounded pool, READ COMMITTED, bounded lock and statement times.
Every environmental failure leaves as UnavailableError. Must not hold a domain rule or a query.
"""

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol

from sqlalchemy import URL, Connection, event, exc, text
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from token_server.errors import OperatorError, UnavailableError
from token_server.storage.database_url import (
    PostgresAddress,
    SqliteAddress,
    parse_database_url,
    session_settings,
)
from token_server.storage.direct import DirectWriter, Row
from token_server.storage.errors import translate
from token_server.storage.write_lock import WriteLock

Dialect = Literal["sqlite", "postgresql"]
Now = Callable[[], int]

MINIMUM_SQLITE = (3, 35, 0)  # RETURNING; UPDATE ... FROM came with 3.33
_WRITE_TURN_TIMEOUT_S = 5.0
_SQLITE_BUSY_TIMEOUT_S = 2.0  # only programs that do not know our lock make SQLite itself wait
_SQLITE_READERS = 4
_WRITER_PRAGMAS = (
    "PRAGMA journal_mode=WAL",
    "PRAGMA synchronous=FULL",
    "PRAGMA foreign_keys=ON",
    "PRAGMA journal_size_limit=67108864",
)
_READER_PRAGMAS = ("PRAGMA query_only=ON", "PRAGMA wal_autocheckpoint=0")
_POOL_TIMEOUT_S = 5.0


class Backend(Protocol):
    """What differs between the two databases."""

    dialect: Dialect
    path: Path | None  # of the SQLite file

    def read(self) -> contextlib.AbstractAsyncContextManager[AsyncConnection]: ...

    def write(
        self, wait_s: float | None
    ) -> contextlib.AbstractAsyncContextManager[AsyncConnection]: ...

    async def write_alone(self, statement: str, values: Sequence[object]) -> list[Row]: ...

    async def close(self) -> None: ...


class Store:
    """One open database. Not shared between event loops; `close()` may be called twice."""

    def __init__(self, backend: Backend, now: Now) -> None:
        self._backend = backend
        self._is_closed = False
        self.now = now
        self.dialect: Dialect = backend.dialect
        self.path = backend.path

    @contextlib.asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """A connection that cannot write. Each statement sees what is committed when it starts."""
        self._require_open()
        with _translated():
            async with self._backend.read() as conn:
                yield conn

    @contextlib.asynccontextmanager
    async def write(self, *, wait_s: float | None = None) -> AsyncIterator[AsyncConnection]:
        """One transaction: committed at the end of the block, rolled back when it raises.

        `wait_s` replaces the bound on the wait for other writers (migrations wait longer).
        """
        self._require_open()
        with _translated():
            async with self._backend.write(wait_s) as conn:
                yield conn

    async def write_alone(self, statement: str, values: Sequence[object]) -> list[Row]:
        """One statement of the engine's own that is a whole transaction; its rows, durable.

        Without what SQLAlchemy does around a transaction, which costs more than a signature.
        """
        self._require_open()
        with _translated():
            return await self._backend.write_alone(statement, values)

    async def close(self) -> None:
        if not self._is_closed:
            self._is_closed = True
            await self._backend.close()

    def _require_open(self) -> None:
        if self._is_closed:  # the pool would connect again, and the lock's descriptors are gone
            raise UnavailableError("storage_closed")


async def open_store(database_url: str, *, now: Now) -> Store:
    """Connects and checks what the database grants; creates a SQLite file, but no tables.

    Raises OperatorError for what the operator can mend, UnavailableError when it does not answer.
    """
    address = parse_database_url(database_url)
    backend: Backend
    if isinstance(address, SqliteAddress):
        backend = await _open_sqlite(address)
    else:
        backend = await _open_postgres(address)
    return Store(backend, now)


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        translated = translate(error)
        if translated is None:
            raise
        raise translated from None  # the cause may quote bound values


# --- SQLite ------------------------------------------------------------------------------------


class _SqliteBackend:
    dialect: Dialect = "sqlite"

    def __init__(self, path: Path, engines: tuple[AsyncEngine, AsyncEngine]) -> None:
        self.path: Path | None = path
        self._writer, self._readers = engines
        self._lock = WriteLock(path, _WRITE_TURN_TIMEOUT_S)
        self._direct = DirectWriter(partial(_connect_sqlite, path))

    @contextlib.asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        async with self._readers.connect() as conn:
            yield conn

    @contextlib.asynccontextmanager
    async def write(self, wait_s: float | None) -> AsyncIterator[AsyncConnection]:
        async with self._lock.hold(wait_s), self._writer.begin() as conn:
            yield conn

    async def write_alone(self, statement: str, values: Sequence[object]) -> list[Row]:
        async with self._lock.hold():
            return await self._direct.run(statement, values)

    async def close(self) -> None:
        await self._readers.dispose()
        try:
            # The last connection to close checkpoints: that is a write like any other.
            async with self._lock.hold():
                await self._close_writers()
        except UnavailableError:
            await self._close_writers()  # somebody else is alive, so ours are not the last
        finally:
            self._lock.close()

    async def _close_writers(self) -> None:
        await self._direct.close()
        await self._writer.dispose()


async def _open_sqlite(address: SqliteAddress) -> Backend:
    if sqlite3.sqlite_version_info < MINIMUM_SQLITE:
        raise OperatorError(
            f"SQLite {sqlite3.sqlite_version} is too old: 3.35 or newer is needed"
            " (install a newer Python or system SQLite, or use PostgreSQL)."
        )
    _prepare_file(address.path)
    backend = _SqliteBackend(
        address.path,
        (
            _sqlite_engine(address.path, is_writer=True),
            _sqlite_engine(address.path, is_writer=False),
        ),
    )
    try:
        await _require_wal(backend)
    except BaseException:
        await backend.close()
        raise
    return backend


async def _require_wal(backend: _SqliteBackend) -> None:
    with _translated():
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


def _sqlite_engine(path: Path, *, is_writer: bool) -> AsyncEngine:
    engine = create_async_engine(
        URL.create("sqlite+aiosqlite", database=str(path)),
        hide_parameters=True,
        pool_size=1 if is_writer else _SQLITE_READERS,
        max_overflow=0,
        pool_timeout=_POOL_TIMEOUT_S,
        # No transaction but those that the "begin" event opens: a reader's statement is one.
        connect_args={"isolation_level": None, "timeout": _SQLITE_BUSY_TIMEOUT_S},
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


def _connect_sqlite(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(
        path, timeout=_SQLITE_BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
    )
    for pragma in _WRITER_PRAGMAS:
        connection.execute(pragma)
    return connection


# --- PostgreSQL --------------------------------------------------------------------------------


class _PostgresBackend:
    dialect: Dialect = "postgresql"
    path: Path | None = None

    def __init__(self, engine: AsyncEngine, *, has_session: bool) -> None:
        """`has_session` is False behind PgBouncer, where nothing outlives a transaction."""
        self._engine = engine
        self._has_session = has_session

    @contextlib.asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        async with self._engine.connect() as conn:
            await conn.execution_options(postgresql_readonly=True)
            yield conn

    @contextlib.asynccontextmanager
    async def write(self, wait_s: float | None) -> AsyncIterator[AsyncConnection]:
        async with self._engine.begin() as conn:
            if wait_s is not None:
                wait_ms = str(int(wait_s * 1000))
                await conn.execute(
                    text(
                        "SELECT set_config('lock_timeout', :wait_ms, true),"
                        " set_config('statement_timeout', :wait_ms, true)"
                    ),
                    {"wait_ms": wait_ms},
                )
            yield conn

    async def write_alone(self, statement: str, values: Sequence[object]) -> list[Row]:
        async with self._engine.connect() as conn:
            if not self._has_session:  # the bounds on waits travel with each transaction
                async with conn.begin():
                    return list(await conn.exec_driver_sql(statement, tuple(values)))
            driver: Any = (await conn.get_raw_connection()).driver_connection
            # Outside of BEGIN it is its own transaction, in a single round trip.
            rows: list[Row] = await driver.fetch(statement, *values)
            return rows

    async def close(self) -> None:
        await self._engine.dispose()


async def _open_postgres(address: PostgresAddress) -> Backend:
    try:
        engine = create_async_engine(
            address.url,
            hide_parameters=True,
            pool_size=address.pool_size,
            max_overflow=0,
            pool_timeout=_POOL_TIMEOUT_S,
            isolation_level="READ COMMITTED",
            connect_args=dict(address.connect_args),
        )
    except ImportError:
        raise OperatorError(
            'PostgreSQL needs asyncpg: pip install "token-server[postgres]".'
        ) from None

    @event.listens_for(engine.sync_engine, "checkout")
    def refuse_closed(dbapi_connection: DBAPIConnection, _record: object, _proxy: object) -> None:
        # asyncpg has already noticed when the server went away: reconnect instead of failing.
        if dbapi_connection.driver_connection.is_closed():
            raise exc.DisconnectionError

    if not address.prepared_statements:

        @event.listens_for(engine.sync_engine, "begin")
        def bound_waits(connection: Connection) -> None:
            # Behind PgBouncer no session setting survives: the bounds travel with each transaction.
            calls = ", ".join(
                f"set_config('{name}', '{value}', true)"
                for name, value in session_settings().items()
            )
            connection.exec_driver_sql(f"SELECT {calls}")

    backend = _PostgresBackend(engine, has_session=address.prepared_statements)
    try:
        await _check_postgres(backend)
    except BaseException:
        await backend.close()
        raise
    return backend


async def _check_postgres(backend: _PostgresBackend) -> None:
    try:
        async with asyncio.timeout(2 * _POOL_TIMEOUT_S), backend.read() as conn:
            version = (await conn.execute(text("SHOW server_version_num"))).scalar_one()
    except Exception as error:
        state = _sqlstate(error)
        if state.startswith("28"):
            raise OperatorError(
                "PostgreSQL refused the user or password of DATABASE_URL."
            ) from None
        if state == "3D000":
            raise OperatorError(
                "The PostgreSQL database named in DATABASE_URL does not exist: create it first."
            ) from None
        translated = translate(error)
        if translated is None:
            raise
        raise translated from None
    if int(version) < 130000:
        raise OperatorError("PostgreSQL 13 or newer is needed.")


def _sqlstate(error: BaseException) -> str:
    inner = getattr(error, "orig", None) or error
    return str(getattr(inner, "sqlstate", None) or "")
