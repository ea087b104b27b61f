"""Opens a database and hands out connections for read blocks and write blocks.

What differs between the engines is in sqlite_backend.py and postgres_backend.py. Every
environmental failure leaves as UnavailableError. Must not hold a domain rule or a query.
"""

import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from typing import TypeVar

from sqlalchemy.ext.asyncio import AsyncConnection

from token_server.errors import UnavailableError
from token_server.storage.availability import Availability, Observer
from token_server.storage.backend import Asked, Backend, translated
from token_server.storage.database_url import SqliteAddress, parse_database_url
from token_server.storage.postgres_backend import open_postgres
from token_server.storage.sqlite_backend import open_sqlite
from token_server.storage.steps import Dialect, Row, Transaction

R = TypeVar("R")
Now = Callable[[], int]


class Store:
    """One open database. Not shared between event loops; `close()` may be called twice."""

    def __init__(self, backend: Backend, now: Now) -> None:
        self._backend = backend
        self._is_closed = False
        self.now = now
        self.dialect: Dialect = backend.dialect
        self.path = backend.path
        self._reads = Availability("read", backend, now)
        self._writes = Availability("write", backend, now)

    def watch(self, observer: Observer) -> None:
        """Judge from now on whether the database answers, as a process that serves does."""
        self._reads.watch(observer, self._writes)
        self._writes.watch(observer, self._reads)

    @property
    def problem(self) -> str | None:
        """Why nothing can be read or written now; None while the database answers."""
        if self._writes.problem is not None:
            return f"writes are stopped: {self._writes.problem}"
        return self._reads.problem

    def away_s(self, since: int) -> int:
        """How many of the seconds since this instant nothing could be written, as far as this
        process knows."""
        return self._writes.away_s(since)

    @contextlib.asynccontextmanager
    async def read(self, *, wait_s: float | None = None) -> AsyncIterator[AsyncConnection]:
        """A connection that cannot write. Each statement sees what is committed when it starts.

        `wait_s` as in `write`: for what only an operator asks, and all sessions have to be read.
        """
        self._require_open()
        with self._reads, translated():
            async with self._backend.read(wait_s) as conn:
                yield conn

    @contextlib.asynccontextmanager
    async def write(self, *, wait_s: float | None = None) -> AsyncIterator[AsyncConnection]:
        """One transaction: committed at the end of the block, rolled back when it raises.

        `wait_s` replaces the bound on the wait for other writers, and the work may take an hour
        then (PostgreSQL): migrations wait longer, and touch whole tables.
        """
        self._require_open()
        with self._writes, translated():
            async with self._backend.write(wait_s) as conn:
                yield conn

    async def read_alone(self, *queries: Asked) -> list[list[Row]]:
        """The rows of each query, which see all that was committed before the call."""
        self._require_open()
        with self._reads, translated():
            return await self._backend.read_alone(queries)

    async def write_alone(self, statement: str, values: Sequence[object]) -> list[Row]:
        """One statement of the engine's own that is a whole transaction; its rows, durable.

        Without what SQLAlchemy does around a transaction, which costs more than a signature.
        """
        self._require_open()
        with self._writes, translated():
            return await self._backend.write_alone(statement, values)

    async def write_steps(self, transaction: Transaction[R]) -> R:
        """What came of the steps, durable: as `write_alone`, for more than one statement."""
        self._require_open()
        with self._writes, translated():
            return await self._backend.write_steps(transaction)

    async def checkpoint(self) -> None:
        """SQLite: move what the write-ahead log holds into the file, in a turn of its own. Else
        the next commit has to do it, with all that a long clean-up wrote. PostgreSQL has a
        process for it."""
        self._require_open()
        with translated():
            await self._backend.checkpoint()

    async def close(self) -> None:
        if not self._is_closed:
            self._is_closed = True
            await self._reads.close()
            await self._writes.close()
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
        backend = await open_sqlite(address)
    else:
        backend = await open_postgres(address)
    return Store(backend, now)
