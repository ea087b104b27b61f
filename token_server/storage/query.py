"""A statement that is compiled once for each engine and goes to the driver as text.

For hot paths: what SQLAlchemy does around a look-up by key costs more than the look-up. Rows come
back as the driver has them: a truth value of SQLite is 0 or 1.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import BindParameter, Delete, Dialect, Select, literal_column
from sqlalchemy.dialects import registry
from sqlalchemy.sql.visitors import replacement_traverse

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

    def bind_all(self, values: Sequence[Mapping[str, object]]) -> Bound:
        """For PostgreSQL, many look-ups as one: before the columns of each row comes the number
        of the values that it was found by, counted from 1."""
        text, names = self._set_based()
        return text, [[one[name] for one in values] for name in names]

    @functools.cache  # noqa: B019 - queries are constants of modules
    def _compiled(self, dialect: str) -> tuple[str, tuple[str, ...], Mapping[str, object]]:
        compiled = self.statement.compile(dialect=_dialect(dialect))
        return str(compiled), tuple(compiled.positiontup or ()), compiled.params

    @functools.cache  # noqa: B019 - as above
    def _set_based(self) -> tuple[str, tuple[str, ...]]:
        dialect = _dialect("postgresql")
        types: dict[str, str] = {}

        def from_entry(element: Any, **_: object) -> Any:
            if not isinstance(element, BindParameter) or not element.required:
                return None
            types[element.key] = element.type.compile(dialect)
            return literal_column(f"e.{element.key}", element.type)

        look_up: Any = replacement_traverse(self.statement, {}, from_entry)
        text = look_up.compile(dialect=dialect, compile_kwargs={"literal_binds": True})
        arrays = (f"${n}::{name}[]" for n, name in enumerate(types.values(), start=1))
        return (
            f"SELECT e.n, q.* FROM unnest({', '.join(arrays)}) WITH ORDINALITY"  # noqa: S608 - constants
            f" AS e ({', '.join(types)}, n), LATERAL ({text}) AS q"
        ), tuple(types)


def _dialect(name: str) -> Dialect:
    # Loaded when it is asked for: the one for PostgreSQL takes a start of SQLite 0.08 s.
    dialect: Dialect = registry.load(_DIALECTS[name])()
    return dialect
