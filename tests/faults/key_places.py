"""Where keys are kept when their operations are killed: a directory, or a database of each kind.

`postgresql-backend` kills the database's own process instead of ours, before the same statements:
the operation then ends with an error of its own, and nothing may be half done.
"""

import asyncio
import contextlib
import itertools
import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import asyncpg
from sqlalchemy import Connection

from tests.faults.key_kills import Place
from tests.faults.key_steps import Stepper, run_forked
from tests.support.databases import PostgresDatabases, postgres_server
from tests.support.process import Installation

PLACES = ("directory", "sqlite", "postgresql", "postgresql-backend")
_RECOVERY_S = 50.0


@contextlib.contextmanager
def place_of(name: str) -> Iterator[Place]:
    """One of PLACES, with all that it needs; removed at the end."""
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="token-server-")))
        if name == "directory":
            yield Place(directory)
            return
        overrides = {"KEY_STORE": "database", "MASTER_KEY_FILE": "master.key"}
        place = Place(directory, overrides, _watch_statements)
        if name != "sqlite":
            place.database_of = _databases(stack)
        if name == "postgresql-backend":
            place.watch, place.settle = _watch_to_kill_backend, _await_recovery
        yield place


def _databases(stack: contextlib.ExitStack) -> Callable[[Installation | None, Path], str]:
    if os.environ.get("TEST_DATABASE_URL"):
        raise SystemExit("Unset TEST_DATABASE_URL: this needs a PostgreSQL of its own to kill.")
    admin_url = stack.enter_context(postgres_server())
    databases = PostgresDatabases(admin_url)
    stack.callback(databases.close)
    numbers = itertools.count()

    def database_of(before: Installation | None, directory: Path) -> str:
        if before is None:
            return stack.enter_context(databases.create(empty=True))
        name = f"ts_kill_{next(numbers)}"
        template = before.database_url.rpartition("/")[2].partition("?")[0]
        run_forked(lambda _: asyncio.run(_copy(admin_url, name, template)), None, directory / "log")
        return databases.url_of(name)

    return database_of


async def _copy(admin_url: str, name: str, template: str) -> None:
    connection = await asyncpg.connect(admin_url)
    try:
        await connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        await connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
    finally:
        await connection.close()


def _watch_statements(stepper: Stepper, _installation: Installation) -> None:
    stepper.watch_statements()


def _watch_to_kill_backend(stepper: Stepper, _installation: Installation) -> None:
    stepper.watch_statements(kill=_kill_backend)


def _kill_backend(connection: Connection) -> None:
    driver = connection.connection.driver_connection
    assert driver is not None
    os.kill(driver.get_server_pid(), signal.SIGKILL)


def _await_recovery(installation: Installation) -> None:
    """PostgreSQL ends all its processes when one was killed, and recovers from its log."""
    log = installation.directory / "log"
    status, _ = run_forked(lambda _: asyncio.run(_connect(installation.database_url)), None, log)
    if status != 0:
        raise RuntimeError(log.read_text())


async def _connect(url: str) -> None:
    deadline = time.monotonic() + _RECOVERY_S
    while True:
        try:
            connection = await asyncpg.connect(url)
        except (OSError, asyncpg.PostgresError):
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.1)
        else:
            await connection.close()
            return
