"""SQLite files that `serve` refuses, and places that it warns of (248, 249)."""

import os
import shutil
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

import pytest

from token_server.services.database_file import file_problems, file_warnings
from token_server.storage import sqlite_file
from token_server.storage.sqlite_file import file_system_of


def path_of(url: str) -> Path:
    return Path(url.removeprefix("sqlite:///"))


def test_a_good_file_and_none_at_all_are_taken(sqlite_url: str, tmp_path: Path) -> None:
    """A database of ours, also with a WAL that a killed server left behind."""
    path = path_of(sqlite_url)
    assert file_problems(path) == []
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA user_version = 7")
        for name in ("left.db", "left.db-wal", "left.db-shm"):
            shutil.copy(f"{path}{name.removeprefix('left.db')}", tmp_path / name)
    left = tmp_path / "left.db"
    assert (tmp_path / "left.db-wal").stat().st_size > 0
    assert file_problems(left) == []
    with closing(sqlite3.connect(left)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (7,)
    assert file_problems(tmp_path / "new.db") == []


def test_a_file_with_flipped_bits_is_refused(sqlite_url: str) -> None:
    """249: a tree that is broken anywhere stops the start, and the file stays as it is."""
    path = path_of(sqlite_url)
    content = bytearray(path.read_bytes())
    for at in range(4096, len(content), 4096):
        content[at] ^= 0x55  # the kind of each page
    path.write_bytes(content)
    (problem,) = file_problems(path)
    assert "damaged" in problem
    assert "db restored" in problem
    assert path.read_bytes() == content

    path.write_bytes(b"somebody's letter" * 1000)
    (problem,) = file_problems(path)
    assert "SQLITE_NOTADB" in problem


def test_the_wal_of_another_database_is_refused(sqlite_url: str, tmp_path: Path) -> None:
    """248: a backup that was put beside the old WAL would be overwritten with parts of the old
    database; SQLite does not notice."""
    path = path_of(sqlite_url)
    backup = tmp_path / "backup.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode=DELETE")
    shutil.copy(path, backup)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA user_version = 7")
        wal = path.with_name(path.name + "-wal").read_bytes()
    backup.with_name("backup.db-wal").write_bytes(wal)
    (problem,) = file_problems(backup)
    assert "belongs to another database" in problem
    backup.with_name("backup.db-wal").unlink()
    assert file_problems(backup) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="needs the right to mount (root)")
def test_a_directory_that_cannot_be_written_is_refused(sqlite_url: str) -> None:
    """248: the WAL and the locks are files beside the database."""
    path = path_of(sqlite_url)
    directory = str(path.parent)
    bind = subprocess.run(["mount", "--bind", directory, directory], check=False)
    if bind.returncode:
        pytest.skip("needs the right to mount")
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", directory], check=True)
        assert [problem for problem in file_problems(path) if "not writable" in problem]
    finally:
        subprocess.run(["umount", directory], check=True)


def test_a_network_file_system_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """248: the innermost mount counts; names with spaces are written with escapes."""
    mounts = tmp_path / "mounts"
    mounts.write_text(
        "/dev/vda / ext4 rw 0 0\n"
        "nas:/export /srv/data nfs4 rw 0 0\n"
        "tmpfs /srv/data/fast tmpfs rw 0 0\n"
        "nas:/other /srv/with\\040space cifs rw 0 0\n"
    )
    found = {
        name: file_system_of(Path(name), mounts)
        for name in ("/srv/data/x.db", "/srv/data/fast/x.db", "/srv/with space/x", "/srv/database")
    }
    assert list(found.values()) == ["nfs4", "tmpfs", "cifs", "ext4"]
    monkeypatch.setattr(sqlite_file, "_MOUNTS", mounts)
    assert "is on nfs4" in file_warnings(Path("/srv/data/x.db"))[0]
