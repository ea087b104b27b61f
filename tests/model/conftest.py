"""Worlds of servers for the tests of this directory."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.model.game import Game
from tests.model.nodes import running_world
from tests.support.databases import SqliteFiles
from tests.support.server import copy_keys


@pytest.fixture
def game(database_url: str, shared_keys: Path, tmp_path: Path) -> Iterator[Game]:
    """Servers on each engine, and nothing played yet."""
    if database_url.startswith("sqlite"):
        copy_keys(shared_keys, tmp_path)
    with running_world(database_url, tmp_path) as world:
        opened = Game(world)
        opened.open()
        yield opened


@pytest.fixture(scope="module")
def sqlite_game(
    sqlite_files: SqliteFiles, shared_keys: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Game]:
    """A server on SQLite, for what is about the judge and not about the engine; one for a module,
    since every sequence has people and clients of its own."""
    directory = tmp_path_factory.mktemp("model")
    copy_keys(shared_keys, directory)
    with running_world(sqlite_files.create(directory), directory) as world:
        opened = Game(world)
        opened.open()
        yield opened
