"""Opening databases, blocks that commit or roll back, and failures that say what they are."""

import asyncio
import contextlib
import os
import shutil
import sqlite3
from pathlib import Path

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.engine import make_url

from tests.support.databases import TEST_EPOCH as NOW
from tests.support.databases import PostgresDatabases
from token_server.errors import OperatorError, UnavailableError
from token_server.storage import database_url, meta, postgres_backend
from token_server.storage.engine import Store, open_store
from token_server.storage.errors import StorageFailedError


async def value(store: Store, name: str) -> str | None:
    async with store.read() as conn:
        return await meta.get(conn, name)


async def test_write_block_commits_at_its_end(store: Store, database_url: str) -> None:
    """Durable and visible to another connection once the block has ended, not before."""
    async with store.write() as conn:
        await meta.set(conn, "name", "value")
        assert await value(store, "name") is None
    second = await open_store(database_url, now=lambda: NOW)
    assert await value(second, "name") == "value"
    await second.close()


async def test_write_block_that_raises_is_rolled_back(store: Store) -> None:
    """Nothing is half-written, the error comes through, and the next block works."""
    with pytest.raises(KeyError, match="mine"):
        async with store.write() as conn:
            await meta.set(conn, "name", "value")
            raise KeyError("mine")
    assert await value(store, "name") is None
    async with store.write() as conn:
        await meta.set(conn, "name", "second")
    assert await value(store, "name") == "second"


async def test_read_block_cannot_write(store: Store) -> None:
    """A write by mistake in a read block is an error, also after a failed one."""
    for _ in range(3):
        with pytest.raises((UnavailableError, StorageFailedError)):
            async with store.read() as conn:
                await meta.set(conn, "name", "value")
    assert await value(store, "name") is None
    async with store.write() as conn:
        await meta.set(conn, "name", "written")
    assert await value(store, "name") == "written"


async def test_reads_go_on_while_a_block_writes(store: Store) -> None:
    """Readers do not wait for the writer; more of them than connections take turns."""
    async with store.write() as conn:
        await meta.set(conn, "name", "value")
        read = await asyncio.wait_for(
            asyncio.gather(*(value(store, "name") for _ in range(30))), timeout=10
        )
    assert read == [None] * 30


async def test_simultaneous_write_blocks_all_commit(store: Store) -> None:
    """Blocks of one process take turns or run side by side, and none is lost."""

    async def write(number: int) -> None:
        async with store.write() as conn:
            await meta.set(conn, f"n{number}", "value")

    await asyncio.gather(*(write(number) for number in range(30)))
    async with store.read() as conn:
        count = await conn.execute(text("SELECT count(*) FROM meta WHERE value = 'value'"))
        assert count.scalar_one() == 30


async def test_failed_statement_shows_no_values(store: Store) -> None:
    """Neither bound parameters nor PostgreSQL's DETAIL reach the exception or its causes."""
    with pytest.raises(StorageFailedError) as caught:
        async with store.write() as conn:
            for _ in range(2):
                await conn.execute(
                    text("INSERT INTO meta (name, value) VALUES (:name, 'x')"),
                    {"name": "s3cret-value"},
                )
    assert "INSERT INTO meta" in str(caught.value)
    assert "s3cret-value" not in f"{caught.value!r} {caught.value}"
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


async def test_closing_twice_is_allowed(database_url: str) -> None:
    """A shutdown path may run twice, and a straggler behind it opens nothing again."""
    store = await open_store(database_url, now=lambda: NOW)
    await store.close()
    await store.close()
    with pytest.raises(UnavailableError, match="storage_closed"):
        await value(store, "name")
    with pytest.raises(UnavailableError, match="storage_closed"):
        async with store.write() as conn:
            await meta.set(conn, "name", "value")


# --- SQLite ------------------------------------------------------------------------------------


async def test_sqlite_is_opened_durably(sqlite_store: Store) -> None:
    """With less than WAL and synchronous=FULL a power cut could undo a revocation."""
    async with sqlite_store.write() as conn:
        pragmas = {
            name: (await conn.execute(text(f"PRAGMA {name}"))).scalar_one()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }
    assert pragmas == {
        "journal_mode": "wal",
        "synchronous": 2,
        "foreign_keys": 1,
        "busy_timeout": 2000,
    }
    async with sqlite_store.read() as conn:
        for name, expected in (("query_only", 1), ("wal_autocheckpoint", 0)):
            assert (await conn.execute(text(f"PRAGMA {name}"))).scalar_one() == expected


async def test_sqlite_file_and_directory_are_private(tmp_path: Path) -> None:
    """What is made at first start belongs to its owner alone, WAL files included."""
    path = tmp_path / "data" / "deep" / "x.db"
    umask = os.umask(0)
    try:
        store = await open_store(f"sqlite:///{path}", now=lambda: NOW)
        async with store.write() as conn:
            await conn.execute(text("CREATE TABLE t (x INTEGER)"))
    finally:
        os.umask(umask)
    modes = {entry.name: entry.stat().st_mode & 0o777 for entry in path.parent.iterdir()}
    await store.close()
    assert set(modes) >= {"x.db", "x.db-wal", "x.db.lock"}
    assert set(modes.values()) == {0o600}
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert path.parent.parent.stat().st_mode & 0o777 == 0o700


async def test_last_close_leaves_one_whole_file(sqlite_url: str) -> None:
    """The WAL is folded in at the end, so that the file alone is the database."""
    store = await open_store(sqlite_url, now=lambda: NOW)
    async with store.write() as conn:
        await meta.set(conn, "name", "value")
    path = store.path
    assert path is not None
    await store.close()
    assert not path.with_name(path.name + "-wal").exists()


async def test_checkpoint_leaves_nothing_to_do_for_the_next_commit(
    sqlite_store: Store, tmp_path: Path
) -> None:
    """What was written is in the file itself; and it waits for its turn like any writer, since
    SQLite before 3.51.3 can corrupt a WAL when two write at once."""
    assert sqlite_store.path is not None
    copy = tmp_path / "copy.db"
    async with sqlite_store.write() as conn:
        await meta.set(conn, "name", "value")
        waiting = asyncio.create_task(sqlite_store.checkpoint())
        done, _ = await asyncio.wait([waiting], timeout=0.05)
        assert not done
    await waiting
    shutil.copyfile(sqlite_store.path, copy)

    with contextlib.closing(sqlite3.connect(copy)) as file:
        assert file.execute("SELECT value FROM meta WHERE name = 'name'").fetchone() == ("value",)


async def test_sqlite_locked_by_a_stranger_is_busy(sqlite_store: Store) -> None:
    """A program that does not know our lock (a SQLite shell) makes writes wait, then answer 503."""
    assert sqlite_store.path is not None
    stranger = sqlite3.connect(sqlite_store.path, isolation_level=None)
    stranger.execute("BEGIN IMMEDIATE")
    try:
        with pytest.raises(UnavailableError) as caught:
            async with sqlite_store.write() as conn:
                await meta.set(conn, "name", "value")
        assert (caught.value.reason, caught.value.retry_after_s) == ("storage_busy", 1)
        assert await value(sqlite_store, "name") is None
    finally:
        stranger.execute("ROLLBACK")
        stranger.close()
    async with sqlite_store.write() as conn:
        await meta.set(conn, "name", "value")


async def test_full_disk_is_unavailable(sqlite_store: Store) -> None:
    """No room: a retryable error, nothing half-written, and it works again with room."""
    async with sqlite_store.write() as conn:
        pages = (await conn.execute(text("PRAGMA page_count"))).scalar_one()
        await conn.execute(text(f"PRAGMA max_page_count = {pages + 1}"))
    with pytest.raises(UnavailableError) as caught:
        async with sqlite_store.write() as conn:
            await meta.set(conn, "name", "value")
            await meta.set(conn, "large", "x" * 100_000)
    assert caught.value.reason == "storage_unavailable"
    assert await value(sqlite_store, "name") is None
    async with sqlite_store.write() as conn:
        await conn.execute(text("PRAGMA max_page_count = 100000"))
    async with sqlite_store.write() as conn:
        await meta.set(conn, "large", "x" * 100_000)


async def test_file_that_is_no_database_is_unavailable(tmp_path: Path) -> None:
    """A damaged file is never overwritten."""
    path = tmp_path / "x.db"
    path.write_bytes(b"not a database, but somebody's file" * 100)
    before = path.read_bytes()
    with pytest.raises(UnavailableError, match="storage_unavailable"):
        await open_store(f"sqlite:///{path}", now=lambda: NOW)
    assert path.read_bytes() == before


async def test_directory_as_database_is_refused(tmp_path: Path) -> None:
    """The error names the path and what is wrong with it."""
    with pytest.raises(OperatorError, match="not a regular file"):
        await open_store(f"sqlite:///{tmp_path}", now=lambda: NOW)
    (tmp_path / "file").touch()
    with pytest.raises(OperatorError, match="cannot be created"):
        await open_store(f"sqlite:///{tmp_path / 'file' / 'x.db'}", now=lambda: NOW)


async def test_old_sqlite_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Below 3.35 there is no RETURNING: refused at start, not at the first refresh."""
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 34, 1))
    with pytest.raises(OperatorError, match=r"3\.35"):
        await open_store(f"sqlite:///{tmp_path / 'x.db'}", now=lambda: NOW)
    assert list(tmp_path.iterdir()) == []


# --- PostgreSQL --------------------------------------------------------------------------------


async def kill_connections(url: str) -> None:
    """What a restart of PostgreSQL does to every connection of this database."""
    admin = await asyncpg.connect(url)
    try:
        await admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    finally:
        await admin.close()


async def test_pool_recovers_when_postgres_was_restarted(
    postgres_store: Store, postgres_url: str
) -> None:
    """Connections that died while idle are replaced without an error."""
    await asyncio.gather(*(value(postgres_store, "name") for _ in range(5)))
    await kill_connections(postgres_url)
    await asyncio.sleep(0.1)  # the loop hears of it
    for _ in range(5):
        assert await value(postgres_store, "name") is None
    async with postgres_store.write() as conn:
        await meta.set(conn, "name", "value")


async def test_connection_lost_in_a_block_is_unavailable(
    postgres_store: Store, postgres_url: str
) -> None:
    """A retryable error and no change; the next block has a new connection."""
    with pytest.raises(UnavailableError) as caught:
        async with postgres_store.write() as conn:
            await meta.set(conn, "name", "value")
            await kill_connections(postgres_url)
            await meta.set(conn, "name", "other")
    assert (caught.value.reason, caught.value.retry_after_s) == ("storage_unavailable", 5)
    assert await value(postgres_store, "name") is None


async def test_connection_lost_before_the_commit_is_unavailable(
    postgres_store: Store, postgres_url: str
) -> None:
    """A commit that was not confirmed is never reported as done."""
    with pytest.raises(UnavailableError, match="storage_unavailable"):
        async with postgres_store.write() as conn:
            await meta.set(conn, "name", "value")
            await kill_connections(postgres_url)
    assert await value(postgres_store, "name") is None


async def test_wait_for_a_locked_row_is_bounded(postgres_store: Store, postgres_url: str) -> None:
    """lock_timeout: a stuck transaction elsewhere is a retryable error here."""
    async with postgres_store.write() as conn:
        await meta.set(conn, "name", "value")
    stuck = await asyncpg.connect(postgres_url)
    try:
        await stuck.execute("BEGIN; UPDATE meta SET value = 'stuck' WHERE name = 'name'")
        with pytest.raises(UnavailableError, match="storage_busy"):
            async with postgres_store.write(wait_s=0.2) as conn:
                await meta.set(conn, "name", "other")
    finally:
        await stuck.close()
    assert await value(postgres_store, "name") == "value"


async def test_work_on_a_large_table_may_take_longer_than_a_request(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A migration that reads all sessions is not cut off by the bounds of requests, neither by the
    server's nor by the driver's; nor is an operator's question."""
    monkeypatch.setattr(database_url, "_STATEMENT_TIMEOUT_MS", 300)
    monkeypatch.setattr(database_url, "_COMMAND_TIMEOUT_S", 0.5)
    long_work = text("SELECT pg_sleep(1)")
    store = await open_store(postgres_url, now=lambda: NOW)
    try:
        async with store.write(wait_s=0.2) as conn:
            await conn.execute(long_work)
        async with store.read(wait_s=0.2) as conn:
            await conn.execute(long_work)
        with pytest.raises(UnavailableError):
            async with store.write() as conn:
                await conn.execute(long_work)
    finally:
        await store.close()


async def test_every_wait_is_bounded_by_default(postgres_url: str) -> None:
    """Statements, locks and idle transactions end by themselves, behind PgBouncer as well."""
    bounds = {}
    for switch in ("on", "off"):
        joint = "&" if "?" in postgres_url else "?"
        store = await open_store(
            f"{postgres_url}{joint}prepared_statements={switch}", now=lambda: NOW
        )
        async with store.read() as conn:
            bounds[switch] = [
                (await conn.execute(text(f"SHOW {name}"))).scalar_one()
                for name in (
                    "lock_timeout",
                    "statement_timeout",
                    "idle_in_transaction_session_timeout",
                    "application_name",
                )
            ]
        await store.close()
    assert bounds["on"] == bounds["off"] == ["5s", "10s", "10s", "token-server"]


async def test_without_prepared_statements_nothing_stays_on_the_server(postgres_url: str) -> None:
    """PgBouncer in transaction mode: a statement must not outlive its transaction."""
    joint = "&" if "?" in postgres_url else "?"
    left = {}
    for switch in ("on", "off"):
        url = f"{postgres_url}{joint}prepared_statements={switch}&pool_size=1"
        store = await open_store(url, now=lambda: NOW)
        async with store.write() as conn:
            await meta.set(conn, "name", "value")
        assert await value(store, "name") == "value"
        async with store.read() as conn:
            rows = await conn.execute(text("SELECT count(*) FROM pg_prepared_statements"))
            left[switch] = rows.scalar_one()
        await store.close()
    assert left["off"] == 0
    assert left["on"] > 0, "the default keeps them: they are faster"


async def test_database_that_does_not_exist_is_told(postgres_databases: PostgresDatabases) -> None:
    """The operator hears what to do, without the URL."""
    with pytest.raises(OperatorError, match="does not exist") as caught:
        await open_store(postgres_databases.url_of("nobody_made_this"), now=lambda: NOW)
    assert "nobody_made_this" not in caught.value.message


async def test_refused_login_is_told(postgres_url: str) -> None:
    """A wrong user or password is the operator's to mend, not something to retry."""
    url = make_url(postgres_url).set(username="nobody_by_that_name")
    with pytest.raises(OperatorError, match="user or password") as caught:
        await open_store(url.render_as_string(hide_password=False), now=lambda: NOW)
    assert "nobody_by_that_name" not in caught.value.message


async def test_unreachable_postgres_is_unavailable() -> None:
    """Refused connections are a retryable error that shows no password."""
    with pytest.raises(UnavailableError) as caught:
        await open_store("postgresql://u:s3cret@127.0.0.1:1/db", now=lambda: NOW)
    assert caught.value.reason == "storage_unavailable"
    assert caught.value.__cause__ is None
    assert "s3cret" not in repr(caught.value)


async def test_exhausted_pool_is_busy(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pool is bounded, and so is the wait for one of its connections."""
    monkeypatch.setattr(postgres_backend, "POOL_TIMEOUT_S", 0.2)
    joint = "&" if "?" in postgres_url else "?"
    store = await open_store(f"{postgres_url}{joint}pool_size=1", now=lambda: NOW)
    try:
        async with store.write():
            with pytest.raises(UnavailableError, match="storage_busy"):
                await value(store, "name")
        assert await value(store, "name") is None
    finally:
        await store.close()
