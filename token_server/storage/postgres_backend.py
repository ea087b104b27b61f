"""PostgreSQL: one bounded pool, READ COMMITTED, bounded lock and statement times; a connection that
does not answer is given up, and never used again.

Must not hold a domain rule or a query.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, event, exc, text
from sqlalchemy.engine.interfaces import DBAPIConnection, ExceptionContext
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from token_server.errors import OperatorError
from token_server.storage.backend import POOL_TIMEOUT_S, Asked, Backend, Operation, translated
from token_server.storage.batch import Batcher, Work
from token_server.storage.database_url import PostgresAddress, session_settings
from token_server.storage.errors import translate
from token_server.storage.postgres_probe import Connections, break_off, probe_server
from token_server.storage.query import Query
from token_server.storage.steps import (
    Dialect,
    Fetch,
    Row,
    Transaction,
    fetching_in_block,
    run_steps,
)

R = TypeVar("R")

_PROTOCOL_VIOLATION = "08P01"
# Of one statement of a migration, or of an operator's question, on a very large table.
PATIENCE_S = 3600


class _PostgresBackend:
    dialect: Dialect = "postgresql"
    path: Path | None = None

    def __init__(self, engine: AsyncEngine, address: PostgresAddress) -> None:
        self._engine = engine
        self._address = address
        self._connections = Connections(engine)
        # False behind PgBouncer, where nothing outlives a transaction.
        self._has_session = address.prepared_statements
        self._look_ups = Batcher(Work(self._look_up, key=id))

    @contextlib.asynccontextmanager
    async def read(self, wait_s: float | None = None) -> AsyncIterator[AsyncConnection]:
        async with self._engine_for(wait_s) as engine, engine.connect() as conn:
            await conn.execution_options(postgresql_readonly=True)
            await _set_bounds(conn, wait_s)
            yield conn

    @contextlib.asynccontextmanager
    async def write(self, wait_s: float | None) -> AsyncIterator[AsyncConnection]:
        async with self._engine_for(wait_s) as engine, engine.begin() as conn:
            await _set_bounds(conn, wait_s)
            yield conn

    @contextlib.asynccontextmanager
    async def _engine_for(self, wait_s: float | None) -> AsyncIterator[AsyncEngine]:
        """The pool; a connection of its own for work that may take long, since the driver's bound
        on statements belongs to the connection."""
        if wait_s is None:
            yield self._engine
            return
        engine = _make_engine(self._address, command_timeout_s=PATIENCE_S)
        try:
            yield engine
        finally:
            await engine.dispose()

    async def read_alone(self, queries: Sequence[Asked]) -> list[list[Row]]:
        return await self._look_ups.submit(queries)

    async def _look_up(self, asked: Sequence[Sequence[Asked]]) -> list[list[list[Row]]]:
        """All that was asked by several at once, in one statement for each query."""
        found: list[list[list[Row]]] = [[[] for _ in queries] for queries in asked]
        places: dict[Query, list[tuple[list[Row], Mapping[str, object]]]] = {}
        for rows_of, queries in zip(found, asked, strict=True):
            for rows, (query, values) in zip(rows_of, queries, strict=True):
                places.setdefault(query, []).append((rows, values))
        with translated():
            async with self._fetching() as fetch:
                for query, wanted in places.items():
                    for number, *row in await fetch(*query.bind_all([v for _, v in wanted])):
                        wanted[number - 1][0].append(row)
        return found

    async def write_alone(self, statement: str, values: Sequence[object]) -> list[Row]:
        async with self._fetching() as fetch:
            return await fetch(statement, values)

    async def write_steps(self, transaction: Transaction[R]) -> R:
        async with self._fetching(is_transaction=True) as fetch:
            return await run_steps(fetch, transaction("postgresql"))

    @contextlib.asynccontextmanager
    async def _fetching(self, *, is_transaction: bool = False) -> AsyncIterator[Fetch]:
        """Straight to the driver, where a statement outside of BEGIN is its own transaction, in a
        single round trip."""
        if not self._has_session:  # the bounds on waits travel with each transaction
            async with self._engine.begin() as conn:
                yield fetching_in_block(conn)
            return
        async with self._engine.connect() as conn:
            driver: Any = (await conn.get_raw_connection()).driver_connection

            async def fetch(statement: str, values: Sequence[object]) -> list[Row]:
                return await _fetch(driver, statement, values)

            if is_transaction:
                async with driver.transaction(isolation="read_committed"):
                    yield fetch
            else:
                yield fetch

    async def checkpoint(self) -> None:
        pass

    async def probe(self, operation: Operation) -> None:
        await probe_server(self._address, self._connections, must_write=operation == "write")

    def give_up(self, operation: Operation) -> None:
        self._connections.give_up(operation)

    def resume(self, operation: Operation) -> None:
        self._connections.resume(operation)

    async def close(self) -> None:
        await self._look_ups.close()
        await self._engine.dispose()


async def _fetch(driver: Any, statement: str, values: Sequence[object]) -> list[Row]:
    """Straight through the driver."""
    try:
        rows: list[Row] = await driver.fetch(statement, *values)
    except TimeoutError:  # unreachable: PostgreSQL's own bounds are shorter
        break_off(driver)
        raise
    return rows


async def open_postgres(address: PostgresAddress) -> Backend:
    try:
        engine = _make_engine(address)
    except ImportError:
        raise OperatorError(
            'PostgreSQL needs asyncpg: pip install "token-server[postgres]".'
        ) from None
    backend = _PostgresBackend(engine, address)
    try:
        await _check(backend)
    except BaseException:
        await backend.close()
        raise
    return backend


def _make_engine(address: PostgresAddress, *, command_timeout_s: int | None = None) -> AsyncEngine:
    """A pool; with a bound of its own on statements, of one connection."""
    connect_args = dict(address.connect_args)
    if command_timeout_s is not None:
        connect_args["command_timeout"] = command_timeout_s
    engine = create_async_engine(
        address.url,
        hide_parameters=True,
        pool_size=address.pool_size if command_timeout_s is None else 1,
        max_overflow=0,
        pool_timeout=POOL_TIMEOUT_S,
        isolation_level="READ COMMITTED",
        connect_args=connect_args,
    )

    @event.listens_for(engine.sync_engine, "checkout")
    def refuse_closed(dbapi_connection: DBAPIConnection, _record: object, _proxy: object) -> None:
        # asyncpg has already noticed when the server went away: reconnect instead of failing.
        if dbapi_connection.driver_connection.is_closed():
            raise exc.DisconnectionError

    @event.listens_for(engine.sync_engine, "handle_error")
    def drop_silent(context: ExceptionContext) -> None:
        # The driver gave up waiting: a connection that comes back after that is another one's.
        if isinstance(context.original_exception, TimeoutError):
            context.is_disconnect = True
            context.invalidate_pool_on_disconnect = False

    if not address.prepared_statements:

        @event.listens_for(engine.sync_engine, "begin")
        def bound_waits(connection: Connection) -> None:
            # Behind PgBouncer no session setting survives: the bounds travel with each transaction.
            calls = ", ".join(
                f"set_config('{name}', '{value}', true)"
                for name, value in session_settings().items()
            )
            connection.exec_driver_sql(f"SELECT {calls}")

    return engine


async def _set_bounds(conn: AsyncConnection, wait_s: float | None) -> None:
    """For this transaction: wait so long for each lock, and as long as it takes for the work."""
    if wait_s is not None:
        await conn.execute(
            text(
                "SELECT set_config('lock_timeout', :wait_ms, true),"
                " set_config('statement_timeout', :work_ms, true)"
            ),
            {"wait_ms": str(int(wait_s * 1000)), "work_ms": str(PATIENCE_S * 1000)},
        )


async def _check(backend: _PostgresBackend) -> None:
    try:
        async with asyncio.timeout(2 * POOL_TIMEOUT_S), backend.read() as conn:
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
        if state == _PROTOCOL_VIOLATION and "startup parameter" in str(error):
            raise OperatorError(
                "DATABASE_URL leads to a connection pooler that refuses session settings "
                "(PgBouncer): add ?prepared_statements=off to it."
            ) from None
        unable = translate(error)
        if unable is None:
            raise
        raise unable from None
    if int(version) < 130000:
        raise OperatorError("PostgreSQL 13 or newer is needed.")


def _sqlstate(error: BaseException) -> str:
    inner = getattr(error, "orig", None) or error
    return str(getattr(inner, "sqlstate", None) or "")
