"""A directory and a database of its own for a long run that a person starts."""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.support.databases import PostgresDatabases, postgres_server
from tests.support.process import Installation

DATABASE_HELP = (
    "`sqlite` (a new file), `postgresql` (a new database on TEST_DATABASE_URL, or on a server "
    "from pip), or the URL of an empty database"
)


@contextlib.contextmanager
def temporary_installation(database: str) -> Iterator[Installation]:
    """`database` as in DATABASE_HELP. What was made is removed at the end."""
    with contextlib.ExitStack() as stack:
        name = stack.enter_context(tempfile.TemporaryDirectory(prefix="token-server-"))
        directory = Path(name)
        url = database
        if database == "sqlite":
            url = f"sqlite:///{directory}/token-server.db"
        elif database == "postgresql":
            databases = PostgresDatabases(stack.enter_context(postgres_server()))
            stack.callback(databases.close)
            url = stack.enter_context(databases.create(empty=True))
        yield Installation(directory, url)
