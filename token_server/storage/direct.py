"""The hottest statements, straight through SQLite's driver, in one thread each way.

Through SQLAlchemy and aiosqlite a transaction is five hops between threads and costs several
signatures, a look-up two and more than one; here either is one hop, and look-ups that come while
the thread is busy share the next. Must not hold a query.
"""

import asyncio
import contextlib
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from token_server.storage.errors import UNAVAILABLE, unavailable
from token_server.storage.steps import Bound, Row, Steps

R = TypeVar("R")


class _Connection:
    """Opened at first use, in a thread of its own; what failed is not used again."""

    def __init__(self, connect: Callable[[], sqlite3.Connection]) -> None:
        """`connect` makes a connection without transactions of its own (isolation_level=None)
        that any thread may use."""
        self._connect = connect
        self._connection: sqlite3.Connection | None = None
        self._thread = ThreadPoolExecutor(1, "sqlite-direct")

    async def close(self) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, self._disconnect)
        self._thread.shutdown()

    def _connected(self) -> sqlite3.Connection:
        if self._connection is None:
            self._connection = self._connect()
        return self._connection

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(sqlite3.Error):  # closing rolls back
                connection.close()


class DirectWriter(_Connection):
    """Steps as a transaction of their own. Whoever calls has the turn to write, also for
    `close`, since the last connection of all checkpoints."""

    async def run(self, steps: Steps[R]) -> R:
        """Their result, once it is durable. Raises sqlite3.Error, and then nothing has changed.

        Cancelled, it still waits for the thread, so that its caller's turn does not end before.
        """
        return await self._hop(partial(self._transact, steps))

    async def checkpoint(self) -> None:
        """As much as no reader stands in the way of. Raises sqlite3.Error."""
        await self._hop(self._checkpoint)

    async def _hop(self, work: Callable[[], R]) -> R:
        loop = asyncio.get_running_loop()
        done = loop.run_in_executor(self._thread, work)
        try:
            return await asyncio.shield(done)
        except asyncio.CancelledError:
            await asyncio.wait([done])
            raise

    def _checkpoint(self) -> None:
        try:
            self._connected().execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        except BaseException:
            self._disconnect()
            raise

    def _transact(self, steps: Steps[R]) -> R:
        try:
            connection = self._connected()
            connection.execute("BEGIN IMMEDIATE")
            result = _drive(connection, steps)
            connection.execute("COMMIT")
        except BaseException:
            self._disconnect()
            raise
        return result


def _drive(connection: sqlite3.Connection, steps: Steps[R]) -> R:
    rows: list[Row] | None = None
    while True:
        try:
            statement, values = next(steps) if rows is None else steps.send(rows)
        except StopIteration as end:
            result: R = end.value
            return result
        rows = connection.execute(statement, values).fetchall()


Answer = list[list[Row]] | Exception
Asked = tuple[Sequence[Bound], "asyncio.Future[list[list[Row]]]"]


class DirectReader(_Connection):
    """Look-ups, each by one or more statements."""

    def __init__(self, connect: Callable[[], sqlite3.Connection]) -> None:
        super().__init__(connect)
        self._waiting: list[Asked] = []
        self._is_busy = False

    async def run(self, statements: Sequence[Bound]) -> list[list[Row]]:
        """The rows of each statement, which see all that was committed before the call. Raises
        sqlite3.Error."""
        found: asyncio.Future[list[list[Row]]] = asyncio.get_running_loop().create_future()
        self._waiting.append((statements, found))
        if not self._is_busy:
            self._go_on()
        return await found

    def _go_on(self) -> None:
        self._is_busy = bool(self._waiting)
        if self._is_busy:
            asked, self._waiting = self._waiting, []
            loop = asyncio.get_running_loop()
            try:
                done = loop.run_in_executor(self._thread, self._look_up, asked)
            except RuntimeError:  # closed meanwhile
                self._is_busy = False
                _settle(asked, [unavailable(UNAVAILABLE) for _ in asked])
            else:
                done.add_done_callback(partial(self._finish, asked))

    def _finish(self, asked: list[Asked], done: "asyncio.Future[list[Answer]]") -> None:
        failure = unavailable(UNAVAILABLE) if done.cancelled() else done.exception()
        if failure is None:
            _settle(asked, done.result())
        else:
            _settle(asked, [failure for _ in asked])
        self._go_on()

    def _look_up(self, asked: list[Asked]) -> list[Answer]:
        """In one transaction, since to begin one costs more than a look-up. It begins after all
        of them were asked, and a failure ends it: what comes then is read without one."""
        with contextlib.suppress(sqlite3.Error):  # whose reason the look-ups will meet as well
            self._connected().execute("BEGIN")
        found = [self._answer(statements) for statements, _ in asked]
        if self._connection is not None and self._connection.in_transaction:
            try:
                self._connection.execute("COMMIT")
            except sqlite3.Error:  # what was read was read
                self._disconnect()
        return found

    def _answer(self, statements: Sequence[Bound]) -> Answer:
        try:
            connection = self._connected()
            return [connection.execute(text, values).fetchall() for text, values in statements]
        except Exception as error:  # noqa: BLE001 - handed to whoever asked
            self._disconnect()
            return error


def _settle(asked: Sequence[Asked], answers: Sequence[list[list[Row]] | BaseException]) -> None:
    for (_, found), answer in zip(asked, answers, strict=True):
        if found.done():  # whoever asked has gone
            continue
        if isinstance(answer, BaseException):
            found.set_exception(answer)
        else:
            found.set_result(answer)
