"""Backups of a SQLite database in use: whole, private, never over something else."""

import asyncio
import sqlite3
from pathlib import Path

import pytest

from tests.storage.test_families import start_login
from tests.support.databases import TEST_EPOCH as NOW
from token_server.errors import OperatorError
from token_server.storage import families, meta, migrations
from token_server.storage.backup import backup
from token_server.storage.engine import Store, open_store


async def test_backup_under_load_is_one_consistent_instant(
    sqlite_store: Store, tmp_path: Path
) -> None:
    """Two values that change together in one transaction are equal in the copy."""
    target = tmp_path / "backup.db"
    is_done = False

    async def write() -> None:
        number = 0
        while not is_done:
            async with sqlite_store.write() as conn:
                await meta.set(conn, "a", str(number))
                await meta.set(conn, "b", str(number))
            number += 1

    writing = asyncio.create_task(write())
    await asyncio.sleep(0.05)
    await backup(sqlite_store, target)
    is_done = True
    await writing
    copy = sqlite3.connect(target)
    values = dict(copy.execute("SELECT name, value FROM meta WHERE name IN ('a', 'b')"))
    copy.close()
    assert values["a"] == values["b"]
    assert target.stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in tmp_path.iterdir() if entry.name.startswith("backup")] == [
        "backup.db"
    ]


async def test_backup_can_be_served(sqlite_store: Store, tmp_path: Path) -> None:
    """The copy opens as a current database with the same families."""
    login = await start_login(sqlite_store)
    target = tmp_path / "backup.db"
    await backup(sqlite_store, target)
    restored = await open_store(f"sqlite:///{target}", now=lambda: NOW)
    try:
        assert await migrations.upgrade(restored) is False
        async with restored.read() as conn:
            assert await families.find_family(conn, login.family.family_id) == login.family
    finally:
        await restored.close()


async def test_backup_never_overwrites(sqlite_store: Store, tmp_path: Path) -> None:
    """An existing file is a conflict, and it stays as it is."""
    target = tmp_path / "precious"
    target.write_text("precious")
    with pytest.raises(OperatorError, match="never overwrites") as caught:
        await backup(sqlite_store, target)
    assert caught.value.exit_code == 4
    assert target.read_text() == "precious"


async def test_backup_into_a_missing_directory_is_refused(
    sqlite_store: Store, tmp_path: Path
) -> None:
    """The error says why, and nothing is left behind."""
    with pytest.raises(OperatorError, match="No such file or directory"):
        await backup(sqlite_store, tmp_path / "missing" / "x.db")
    assert not (tmp_path / "missing").exists()


async def test_postgres_is_referred_to_its_own_tool(postgres_url: str, tmp_path: Path) -> None:
    """The message names the command to use instead."""
    store = await open_store(postgres_url, now=lambda: NOW)
    try:
        with pytest.raises(OperatorError, match="pg_dump"):
            await backup(store, tmp_path / "x.db")
    finally:
        await store.close()
    assert list(tmp_path.iterdir()) == []
