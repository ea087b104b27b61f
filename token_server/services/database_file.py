"""What is wrong with a SQLite file before anything is opened: at the start of `serve`.

Reads only. Refused is what would end in a damaged database or in one that nobody finds again:
a damaged file, a WAL that is another file's, a place that cannot be written. Where the file
lies (a network) is a warning: it can go well for years.
"""

import os
import time
from pathlib import Path

from token_server.storage.sqlite_file import (
    NETWORK_FILE_SYSTEMS,
    file_system_of,
    has_foreign_wal,
)
from token_server.storage.sqlite_probe import check_file

# Of a start: a larger file is looked through by `doctor`, or by whoever meets the damage.
CHECK_S = 3.0
_RESTORE = "restore a backup, then run `token-server db restored`"


def file_problems(path: Path) -> list[str]:
    """Why `serve` must not start on it, each with its fix. Blocks for up to CHECK_S."""
    directory = path.parent
    problems = []
    if directory.exists() and not os.access(directory, os.W_OK | os.X_OK):
        problems.append(
            f"{directory} is not writable: SQLite writes its WAL and its locks beside the database"
        )
    if not path.exists():
        return problems
    if not os.access(path, os.R_OK | os.W_OK):
        problems.append(f"{path} is not writable: give it to the user that runs the server")
    if problems:
        return problems
    if has_foreign_wal(path):
        problem = (
            f"{path}-wal belongs to another database than {path}, which was copied here without "
            f"it: move {path.name}-wal and {path.name}-shm away, or they would damage it"
        )
        return [problem]
    deadline = time.monotonic() + CHECK_S
    damage = check_file(path, lambda: time.monotonic() > deadline)
    return [] if damage is None else [f"{path} is damaged ({damage}): {_RESTORE}"]


def file_warnings(path: Path) -> list[str]:
    """What an operator should know of the place."""
    warnings = []
    kind = file_system_of(path)
    if kind in NETWORK_FILE_SYSTEMS:
        warnings.append(
            f"{path} is on {kind}: SQLite's locks and its WAL need a disk of this machine; "
            "use one, or PostgreSQL"
        )
    return warnings
