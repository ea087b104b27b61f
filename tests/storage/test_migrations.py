"""The packaged migrations: they arrive at schema.py, once, whoever else starts at the same time."""

import asyncio
import signal
import subprocess
import sys
from typing import Any

import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, event, inspect, text

from tests.support.databases import TEST_EPOCH
from token_server.errors import OperatorError
from token_server.storage import clients, meta, migrations, users
from token_server.storage.engine import open_store
from token_server.storage.schema import metadata


def test_head_is_the_newest_packaged_revision() -> None:
    """The cheap comparison at start uses a constant: it must name what versions/ holds."""
    config = Config()
    config.set_main_option("script_location", str(next(iter(migrations.__path__))))
    config.set_main_option("path_separator", "os")
    scripts = ScriptDirectory.from_config(config)
    packaged = tuple(reversed([script.revision for script in scripts.walk_revisions()]))
    assert packaged == migrations.REVISIONS


def _shape(connection: Connection) -> dict[str, Any]:
    inspector: Any = inspect(connection)
    shape: dict[str, Any] = {}
    for table in sorted(set(inspector.get_table_names()) - {"alembic_version"}):
        shape[table] = {
            "columns": [
                (c["name"], str(c["type"]), c["nullable"], c["default"], c.get("identity"))
                for c in inspector.get_columns(table)
            ],
            "primary_key": inspector.get_pk_constraint(table),
            "unique": sorted(inspector.get_unique_constraints(table), key=lambda u: str(u["name"])),
            "checks": sorted(inspector.get_check_constraints(table), key=lambda c: str(c["name"])),
            "foreign_keys": inspector.get_foreign_keys(table),
            "options": inspector.get_table_options(table),
            "indexes": sorted(
                (
                    (
                        str(index["name"]),
                        index["column_names"],
                        bool(index["unique"]),
                        {k: str(v) for k, v in index.get("dialect_options", {}).items()},
                    )
                    for index in inspector.get_indexes(table)
                ),
                key=lambda index: index[0],
            ),
        }
    return shape


async def test_migrations_arrive_at_the_schema_of_the_code(empty_database_url: str) -> None:
    """Every column, constraint and index of schema.py is what the migrations make."""
    store = await open_store(empty_database_url, now=lambda: TEST_EPOCH)
    try:
        assert await migrations.upgrade(store) is True
        async with store.write() as conn:
            migrated = await conn.run_sync(_shape)
            await conn.run_sync(metadata.drop_all)
            await conn.run_sync(metadata.create_all)
            declared = await conn.run_sync(_shape)
        assert set(migrated) == set(metadata.tables)
        assert migrated == declared
    finally:
        await store.close()


async def test_two_simultaneous_first_starts_migrate_once(empty_database_url: str) -> None:
    """One of several processes that start at once upgrades; the others find it done."""
    stores = [await open_store(empty_database_url, now=lambda: TEST_EPOCH) for _ in range(3)]
    try:
        done = await asyncio.gather(*(migrations.upgrade(store) for store in stores))
        assert sorted(done) == [False, False, True]
        status = await migrations.schema_status(stores[0])
        assert status == migrations.SchemaStatus(migrations.HEAD, migrations.HEAD, TEST_EPOCH)
        assert status.is_current
    finally:
        for store in stores:
            await store.close()


async def test_second_upgrade_has_nothing_to_do(database_url: str) -> None:
    """A start on a current database changes nothing and does not load Alembic."""
    store = await open_store(database_url, now=lambda: TEST_EPOCH + 1)
    try:
        assert await migrations.upgrade(store) is False
        assert (await migrations.schema_status(store)).upgraded_at == TEST_EPOCH
    finally:
        await store.close()


async def test_newer_schema_is_refused(database_url: str) -> None:
    """A database of a later release is left alone, and the operator is told so."""
    store = await open_store(database_url, now=lambda: TEST_EPOCH)
    try:
        async with store.write() as conn:
            await conn.execute(text("UPDATE alembic_version SET version_num = '9999'"))
        assert (await migrations.schema_status(store)).is_newer
        with pytest.raises(OperatorError, match="newer"):
            await migrations.upgrade(store)
        async with store.read() as conn:
            stored = (await conn.execute(text("SELECT version_num FROM alembic_version"))).scalar()
        assert stored == "9999"
    finally:
        await store.close()


_KILLED = """
import asyncio, os, signal, sys
from token_server.storage import clients, meta, migrations, users
from token_server.storage.engine import open_store

async def die(*_):  # every table exists inside the transaction; the commit does not come
    os.kill(os.getpid(), signal.SIGKILL)

async def main():
    meta.set = die
    await migrations.upgrade(await open_store(sys.argv[1], now=lambda: 1))

asyncio.run(main())
"""


async def test_killed_upgrade_leaves_the_old_schema(empty_database_url: str) -> None:
    """kill -9 in the middle leaves nothing half-made, and the next start migrates."""
    killed = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", _KILLED, empty_database_url], timeout=60
    )
    assert killed.returncode == -signal.SIGKILL
    store = await open_store(empty_database_url, now=lambda: TEST_EPOCH)
    try:
        assert (await migrations.schema_status(store)).current is None
        async with store.read() as conn:
            tables = await conn.run_sync(lambda sync: inspect(sync).get_table_names())
        assert tables == []
        assert await migrations.upgrade(store) is True
        async with store.read() as conn:
            assert await meta.get(conn, migrations.UPGRADED_AT) == str(TEST_EPOCH)
    finally:
        await store.close()


class _BrokenAt:
    """A database that refuses the n-th statement of an upgrade that would change something."""

    def __init__(self, number: int) -> None:
        self.left, self.refused = number, ""

    def __call__(self, _conn: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if not statement.lstrip().upper().startswith(("SELECT", "PRAGMA")):
            self.left -= 1
            if self.left == 0:
                self.refused = statement
                raise RuntimeError("the disk is full")


async def test_upgrade_that_fails_at_any_statement_leaves_the_old_schema(
    empty_database_url: str,
) -> None:
    """Whatever statement fails, nothing is half-made, and the next start migrates (case 255). Every
    third statement on SQLite, every 15th on PostgreSQL."""
    step = 3 if empty_database_url.startswith("sqlite") else 15
    store = await open_store(empty_database_url, now=lambda: TEST_EPOCH)
    try:
        refused: list[str] = []
        while True:
            broken = _BrokenAt(1 + step * len(refused))
            event.listen(Engine, "before_cursor_execute", broken)
            try:
                assert await migrations.upgrade(store)
            except RuntimeError:
                refused.append(broken.refused)
            else:
                break
            finally:
                event.remove(Engine, "before_cursor_execute", broken)
            async with store.read() as conn:
                tables = await conn.run_sync(lambda sync: inspect(sync).get_table_names())
            assert tables == [], broken.refused
        assert (await migrations.schema_status(store)).is_current
        assert len(refused) * step > 2 * len(metadata.tables)
    finally:
        await store.close()


async def test_database_of_the_first_release_is_upgraded_while_its_code_serves(
    empty_database_url: str,
) -> None:
    """Rows stay, and what the old code writes meanwhile fits: it does not know of roles."""
    old_row = text(
        "INSERT INTO users (user_id, email, email_canonical, name, password_hash, is_active,"
        " credential_version, created_at, updated_at, password_changed_at)"
        " VALUES (:user_id, :user_id, :user_id, 'A', '$', true, 0, 1, 1, 1)"
    )
    store = await open_store(empty_database_url, now=lambda: TEST_EPOCH)
    try:
        async with store.write() as conn:
            await conn.run_sync(migrations.run_alembic, "0001")
            await meta.set(conn, migrations.UPGRADED_AT, "1")
            await conn.execute(old_row, {"user_id": "usr_before"})
        assert await migrations.upgrade(store) is True
        async with store.write() as conn:
            await conn.execute(old_row, {"user_id": "usr_after"})
        async with store.read() as conn:
            found = await users.list_users(conn, None, 10)
            account = await clients.find_client(conn, "account")
        assert [(user.user_id, user.roles) for user in found] == [
            ("usr_after", ()),
            ("usr_before", ()),
        ]
        assert account is not None
        assert account.is_public
        assert account.is_enabled
    finally:
        await store.close()
