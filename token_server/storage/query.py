"""A statement that is compiled once for each engine and goes to the driver as text.

For hot paths: what SQLAlchemy does around a look-up by key costs more than the look-up. Rows come
back as the driver has them: a truth value of SQLite is 0 or 1.
"""

import functools
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Delete, Select
from sqlalchemy.dialects import registry

from token_server.storage.steps import Bound

_DIALECTS = {"sqlite": "sqlite", "postgresql": "postgresql.asyncpg"}


class Query:
    """One statement of ours."""

    def __init__(self, statement: Select[*tuple[Any, ...]] | Delete) -> None:
        self.statement = statement

    def bind(self, dialect: str, values: Mapping[str, object]) -> Bound:
        """Text and values for the driver; `values` names every parameter of the statement."""
        text, names, constants = self._compiled(dialect)
        return text, [values[name] if name in values else constants[name] for name in names]

    @functools.cache  # noqa: B019 - queries are constants of modules
    def _compiled(self, dialect: str) -> tuple[str, tuple[str, ...], Mapping[str, object]]:
        # Loaded when it is asked for: the one for PostgreSQL takes a start of SQLite 0.08 s.
        compiled = self.statement.compile(dialect=registry.load(_DIALECTS[dialect])())
        return str(compiled), tuple(compiled.positiontup or ()), compiled.params
