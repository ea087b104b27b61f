"""The files of a SQLite database: whether they are still those that were opened, and where.

In WAL mode SQLite does not notice that its file was renamed, deleted or replaced: it would go on
writing to one that nobody will find again, and every answer would be a lie. So each use compares.
"""

import os
from pathlib import Path

from token_server.storage.errors import UNAVAILABLE, unavailable

# Locks between machines do not hold there, and the WAL index is shared memory.
NETWORK_FILE_SYSTEMS = frozenset(
    {"9p", "afs", "ceph", "cifs", "fuse.glusterfs", "fuse.sshfs", "gfs2", "glusterfs", "lustre"}
    | {"ncpfs", "nfs", "nfs4", "ocfs2", "smb3", "smbfs", "virtiofs"}
)
_MAGIC, _HEADER_BYTES = b"SQLite format 3\0", 100
_VERSIONS = slice(18, 20)  # of the file format for writing and reading: 1 without a WAL, 2 with
_MOUNTS = Path("/proc/self/mounts")

Identity = tuple[int, int]


class SqliteFile:
    """The database and its WAL, by device and inode."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._paths = (str(path), f"{path}-wal")
        self._names = (path.name, f"{path.name}-wal")
        self._known: list[Identity | None] | None = None

    def remember(self) -> None:
        self._known = [_identity(path) for path in self._paths]

    def require_same(self) -> None:
        """UnavailableError that names the file which is not the one that was opened."""
        if self._known is None:
            return
        for path, name, known in zip(self._paths, self._names, self._known, strict=True):
            if known is not None and _identity(path) != known:
                raise unavailable(UNAVAILABLE, f"{name} was moved, deleted or replaced")


def file_system_of(path: Path, mounts: Path | None = None) -> str | None:
    """The type of the file system that holds the path; None where that cannot be told."""
    try:
        lines = (mounts or _MOUNTS).read_text().splitlines()
    except OSError:
        return None
    found: tuple[str, str | None] = ("", None)
    resolved = path.absolute().resolve()
    for line in lines:
        _, point, kind, *_ = line.split(" ")
        place = point.replace("\\040", " ")
        if resolved.is_relative_to(place) and len(place) >= len(found[0]):
            found = (place, kind)
    return found[1]


def has_foreign_wal(path: Path) -> bool:
    """Whether a WAL lies beside a file that was never used with one: a copy (`db backup` makes
    such files) was put in the place of another database, and SQLite would apply that one's WAL
    to it. For a process that has not opened the database: closing a file drops its locks."""
    wal = path.with_name(path.name + "-wal")
    if not wal.exists() or wal.stat().st_size == 0:
        return False
    with path.open("rb") as file:
        header = file.read(_HEADER_BYTES)
    return header.startswith(_MAGIC) and header[_VERSIONS] == b"\x01\x01"


def _identity(path: str) -> Identity | None:
    try:
        found = os.stat(path)  # noqa: PTH116 - pathlib doubles its price, at each use
    except OSError:
        return None
    return found.st_dev, found.st_ino
