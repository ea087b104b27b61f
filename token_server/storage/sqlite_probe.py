"""Whether a SQLite database can be read and written: asked on a new handle, in a thread.

After an I/O error, a failed fsync above all, the old handle is not asked again: the kernel reports
such a failure once, and whoever only tries again is told that all is well. A new handle reads what
is there, and the transaction that failed is written anew as a whole. A damaged file stays refused.
"""

import asyncio
import contextlib
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from token_server.storage.errors import UNAVAILABLE, unavailable

_FAULTS = frozenset(
    (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_READONLY)
)
_DAMAGE = frozenset((sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB))
_STEPS = 10_000  # of SQLite's machine between two looks at the clock

Connect = Callable[[], sqlite3.Connection]


def is_fault(error: BaseException) -> bool:
    """Whether the handle that raised it must not be used again."""
    return isinstance(error, sqlite3.Error) and _primary_code(error) in _FAULTS


def is_damage(error: BaseException) -> bool:
    """Whether it says that the file is broken."""
    return isinstance(error, sqlite3.Error) and _primary_code(error) in _DAMAGE


class SqliteProbe:
    """One thread; while a disk hangs in it, the next probe waits for the same answer."""

    def __init__(self, open_reader: Connect, open_writer: Connect) -> None:
        self._open_reader = open_reader
        self._open_writer = open_writer
        self._is_damaged = False
        self._thread = ThreadPoolExecutor(1, "sqlite-probe")
        self._running: dict[Callable[[], None], asyncio.Future[None]] = {}

    def note_damage(self) -> None:
        """Some statement found the file broken: what is writable is not sound for that."""
        self._is_damaged = True

    async def read(self) -> None:
        await self._run(self._read)

    async def write(self) -> None:
        """A transaction that changes nothing but is written and synced like any other."""
        await self._run(self._write)

    def close(self) -> None:
        self._thread.shutdown(wait=False)

    async def _run(self, work: Callable[[], None]) -> None:
        running = self._running.get(work)
        if running is None or running.done():
            loop = asyncio.get_running_loop()
            running = self._running[work] = loop.run_in_executor(self._thread, work)
            running.add_done_callback(_read_error)
        await asyncio.shield(running)

    def _read(self) -> None:
        with contextlib.closing(self._open_reader()) as connection:
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()

    def _write(self) -> None:
        with contextlib.closing(self._open_writer()) as connection:
            if self._is_damaged:
                damage = find_damage(connection)
                if damage is not None:
                    raise unavailable(UNAVAILABLE, f"the file is damaged: {damage}")
                self._is_damaged = False
            connection.execute("BEGIN IMMEDIATE")
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            connection.execute(f"PRAGMA user_version = {version:d}")
            connection.execute("COMMIT")


def check_file(path: Path, is_late: Callable[[], bool]) -> str | None:
    """What is broken in the file, as far as was looked before `is_late`; None when nothing is."""
    try:
        with contextlib.closing(sqlite3.connect(path, timeout=1)) as connection:
            connection.execute("PRAGMA query_only=ON")
            return find_damage(connection, is_late)
    except (TimeoutError, sqlite3.OperationalError):
        return None  # too large, or busy: whoever opens it next will see
    except sqlite3.DatabaseError as error:
        return str(getattr(error, "sqlite_errorname", type(error).__name__))


def find_damage(
    connection: sqlite3.Connection, is_late: Callable[[], bool] = lambda: False
) -> str | None:
    """What SQLite's quick check finds first; TimeoutError when `is_late` before it is through."""
    connection.set_progress_handler(is_late, _STEPS)
    try:
        verdict = str(connection.execute("PRAGMA quick_check(1)").fetchone()[0])
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode == sqlite3.SQLITE_INTERRUPT:
            raise TimeoutError from None
        raise
    except sqlite3.DatabaseError as error:
        if is_damage(error):
            return str(getattr(error, "sqlite_errorname", "SQLITE_CORRUPT"))
        raise
    finally:
        connection.set_progress_handler(None, 0)
    return None if verdict == "ok" else verdict.partition("\n")[0][:200]


def _primary_code(error: sqlite3.Error) -> int:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def _read_error(future: "asyncio.Future[None]") -> None:
    if not future.cancelled():
        future.exception()
