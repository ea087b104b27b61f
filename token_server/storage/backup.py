"""A consistent copy of a SQLite database while it is in use, by SQLite's online backup.

The copy is complete or it is not there: it is written beside its target, checked, synced and
only then given its name. It never overwrites. PostgreSQL has pg_dump, which the error names.
"""

import asyncio
import contextlib
import os
import sqlite3
from pathlib import Path

from token_server.errors import OperatorError
from token_server.storage.engine import Store

_CONFLICT = 4  # exit code for "exists already"


async def backup(store: Store, target: Path) -> None:
    """Copies the database to the new file `target` (0600); blocks no reader and no writer.

    Raises OperatorError when the target exists, cannot be written, or the copy is damaged.
    """
    if store.path is None:
        raise OperatorError(
            "PostgreSQL is backed up with its own tools: pg_dump --format=custom"
            " --file=backup.dump followed by the database's URL (restore with pg_restore, then"
            " run `token-server db restored`)."
        )
    await asyncio.to_thread(_copy, store.path, target)


def _copy(source: Path, target: Path) -> None:
    if target.exists():
        raise _exists(target)
    partial = target.with_name(f"{target.name}.partial-{os.getpid()}")
    try:
        os.close(os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
        try:
            _copy_database(source, partial)
            _sync(partial)
            os.link(partial, target)  # as a rename, but it fails when the target has appeared
            _sync(target.parent)
        finally:
            for leftover in (
                partial,
                *(Path(f"{partial}-{end}") for end in ("journal", "wal", "shm")),
            ):
                leftover.unlink(missing_ok=True)
    except FileExistsError:
        raise _exists(target) from None
    except OSError as err:
        raise OperatorError(f"The backup {target} cannot be written: {err.strerror}.") from err
    except sqlite3.Error as err:
        raise OperatorError(f"The database cannot be copied: {err}.") from err


def _copy_database(source: Path, partial: Path) -> None:
    # One step holds one read snapshot: in WAL mode nobody waits for it.
    with (
        contextlib.closing(sqlite3.connect(source, timeout=5)) as reading,
        contextlib.closing(sqlite3.connect(partial)) as writing,
    ):
        reading.execute("PRAGMA query_only=ON")
        reading.backup(writing, pages=-1)
        writing.execute("PRAGMA journal_mode=DELETE")  # one file, with nothing beside it
        verdict = writing.execute("PRAGMA quick_check(1)").fetchone()[0]
    if verdict != "ok":
        raise OperatorError(
            f"The copy is damaged, and so is probably the database: {verdict}."
            " Restore an older backup."
        )


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _exists(target: Path) -> OperatorError:
    return OperatorError(
        f"{target} exists: a backup never overwrites; choose another name.", exit_code=_CONFLICT
    )
