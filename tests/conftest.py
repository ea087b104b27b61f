"""Fixtures for every part: databases on both engines.

`database_url` runs a test once on SQLite and once on PostgreSQL, each time on a fresh database
that has the current schema; `sqlite_url` and `postgres_url` give one of the two, and
`empty_database_url` gives databases without any table (a first start).
"""

from collections.abc import AsyncIterator, Iterator
from functools import lru_cache
from pathlib import Path

import pytest
from hypothesis import settings

from tests.support.databases import (
    TEST_EPOCH,
    PostgresDatabases,
    SqliteFiles,
    postgres_server,
    run_apart,
)
from tests.support.server import (
    RunningServer,
    copy_keys,
    make_keys,
    make_settings,
    running_server,
)
from token_server.crypto import rsa_keys
from token_server.logs import configure_logging
from token_server.storage.engine import Store, open_store

pytest_plugins = ["tests.support.leaks.plugin"]
ENGINES = ("sqlite", "postgresql")

# No test is timed: a slow machine is no failure.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


@pytest.fixture(scope="session", autouse=True)
def keys_read_once() -> Iterator[None]:
    """Servers in this process share two RSA keys; to check one in full takes 50 ms each time.
    Processes of their own, and keys that are damaged or changed, are read as they are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rsa_keys, "load_private", lru_cache(maxsize=8)(rsa_keys.load_private))
        yield


@pytest.fixture(autouse=True)
def logging_as_in_production() -> None:
    """Logs as a server writes them; a test that looks at them captures stderr. Before each test:
    commands that run in this process configure logging as their settings say."""
    configure_logging("json", "info")


@pytest.fixture(scope="session")
def sqlite_files(tmp_path_factory: pytest.TempPathFactory) -> SqliteFiles:
    return SqliteFiles(tmp_path_factory.mktemp("sqlite-template"))


@pytest.fixture(scope="session")
def postgres_databases() -> Iterator[PostgresDatabases]:
    with postgres_server() as admin_url:
        databases = PostgresDatabases(admin_url)
        yield databases
        databases.close()


@pytest.fixture
def sqlite_url(sqlite_files: SqliteFiles, tmp_path: Path) -> str:
    return sqlite_files.create(tmp_path)


@pytest.fixture
def postgres_url(postgres_databases: PostgresDatabases) -> Iterator[str]:
    with postgres_databases.create() as url:
        yield url


@pytest.fixture
def empty_postgres_url(postgres_databases: PostgresDatabases) -> Iterator[str]:
    with postgres_databases.create(empty=True) as url:
        yield url


@pytest.fixture(params=ENGINES)
def database_url(request: pytest.FixtureRequest) -> str:
    name = "sqlite_url" if request.param == "sqlite" else "postgres_url"
    return str(request.getfixturevalue(name))


@pytest.fixture(params=ENGINES)
def empty_database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'token-server.db'}"
    return str(request.getfixturevalue("empty_postgres_url"))


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[Store]:
    """An open store on each engine; its clock stands at TEST_EPOCH."""
    opened = await open_store(database_url, now=lambda: TEST_EPOCH)
    yield opened
    await opened.close()


@pytest.fixture
async def sqlite_store(sqlite_url: str) -> AsyncIterator[Store]:
    opened = await open_store(sqlite_url, now=lambda: TEST_EPOCH)
    yield opened
    await opened.close()


@pytest.fixture
async def postgres_store(postgres_url: str) -> AsyncIterator[Store]:
    opened = await open_store(postgres_url, now=lambda: TEST_EPOCH)
    yield opened
    await opened.close()


@pytest.fixture(scope="session")
def shared_keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a `keys/` in it, made once: RSA keys are slow to make."""
    directory = tmp_path_factory.mktemp("shared-keys")
    run_apart(make_keys(directory))
    return directory


@pytest.fixture
async def server(
    database_url: str, shared_keys: Path, tmp_path: Path
) -> AsyncIterator[RunningServer]:
    """A whole server on each engine."""
    copy_keys(shared_keys, tmp_path)
    async with running_server(make_settings(database_url, tmp_path)) as running:
        yield running


@pytest.fixture
async def sqlite_server(
    sqlite_url: str, shared_keys: Path, tmp_path: Path
) -> AsyncIterator[RunningServer]:
    """A whole server on SQLite, for what does not depend on the engine."""
    copy_keys(shared_keys, tmp_path)
    async with running_server(make_settings(sqlite_url, tmp_path)) as running:
        yield running
