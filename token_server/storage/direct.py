"""One statement as a transaction of its own, straight through SQLite's driver in one thread.

Through SQLAlchemy and aiosqlite a transaction is five hops between threads and costs several
signatures; this is one hop. For the hottest statement only. Whoever calls has the turn to write;
the connection is as the other writer's. Must not hold a query.
"""

import asyncio
import contextlib
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

Row = Sequence[Any]


class DirectWriter:
    """A connection that is opened at first use, and its thread."""

    def __init__(self, connect: Callable[[], sqlite3.Connection]) -> None:
        """`connect` makes a connection without transactions of its own (isolation_level=None)
        that any thread may use."""
        self._connect = connect
        self._connection: sqlite3.Connection | None = None
        self._thread = ThreadPoolExecutor(1, "sqlite-direct")

    async def run(self, statement: str, values: Sequence[object]) -> list[Row]:
        """All rows, once they are durable. Raises sqlite3.Error, and then nothing has changed.

        Cancelled, it still waits for the thread, so that its caller's turn does not end before.
        """
        loop = asyncio.get_running_loop()
        done = loop.run_in_executor(self._thread, partial(self._transact, statement, values))
        try:
            return await asyncio.shield(done)
        except asyncio.CancelledError:
            await asyncio.wait([done])
            raise

    async def close(self) -> None:
        """In a turn to write, since the last connection of all checkpoints."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._disconnect)
        self._thread.shutdown()

    def _transact(self, statement: str, values: Sequence[object]) -> list[Row]:
        if self._connection is None:
            self._connection = self._connect()
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            rows = self._connection.execute(statement, values).fetchall()
            self._connection.execute("COMMIT")
        except BaseException:
            # A new connection next time: what failed may have left anything behind.
            self._disconnect()
            raise
        return rows

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(sqlite3.Error):  # closing rolls back
                connection.close()
