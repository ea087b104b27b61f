"""A short transaction without a connection: a generator that yields statements and is sent their
rows, until it returns what came of them.

So what is decided between two statements is written once, and whoever runs it needs no way back to
the event loop: SQLite runs all of it in one hop to a thread, PostgreSQL a round trip for each
statement. What goes over a batch is one statement, whose entries are its table `e`. Must not hold
a query.
"""

import functools
from collections.abc import Awaitable, Callable, Generator, Sequence
from typing import Any, Literal, TypeVar

from sqlalchemy.ext.asyncio import AsyncConnection

R = TypeVar("R")

Dialect = Literal["sqlite", "postgresql"]
Row = Sequence[Any]
Bound = tuple[str, Sequence[object]]  # a statement of the engine's own, and its values
Steps = Generator[Bound, list[Row], R]
Transaction = Callable[[Dialect], Steps[R]]  # begins anew at each call
Fetch = Callable[[str, Sequence[object]], Awaitable[list[Row]]]


class Entries:
    """The columns of `e`, each with its type as PostgreSQL names it."""

    def __init__(self, **types: str) -> None:
        self._types = types
        self.names = tuple(types)

    def bind(self, dialect: Dialect, statement: str, rows: Sequence[Sequence[object]]) -> Bound:
        """`statement` with `{e}`, the first part of its WITH; one row at least."""
        if dialect == "postgresql":
            text, values = self._postgres(), [list(column) for column in zip(*rows, strict=True)]
            return statement.replace("{e}", text, 1), values
        flat = [value for row in rows for value in row]
        return statement.replace("{e}", self._sqlite(len(rows)), 1), flat

    @functools.cache  # noqa: B019 - entries are constants of modules
    def _postgres(self) -> str:
        arrays = ", ".join(
            f"${number}::{name}[]" for number, name in enumerate(self._types.values(), start=1)
        )
        return f"e ({', '.join(self._types)}) AS (SELECT * FROM unnest({arrays}))"  # noqa: S608 - constants

    @functools.cache  # noqa: B019 - one text for each size of a batch
    def _sqlite(self, size: int) -> str:
        row = f"({', '.join(['?'] * len(self._types))})"
        return f"e ({', '.join(self._types)}) AS (VALUES {', '.join([row] * size)})"


def both(statement: str) -> dict[Dialect, str]:
    """One text that both engines take."""
    return {"sqlite": statement, "postgresql": statement}


async def run_steps(fetch: Fetch, steps: Steps[R]) -> R:
    """What came of the steps, each statement of which `fetch` runs in one transaction."""
    rows: list[Row] | None = None
    while True:
        try:
            statement, values = next(steps) if rows is None else steps.send(rows)
        except StopIteration as end:
            result: R = end.value
            return result
        rows = await fetch(statement, values)


def fetching_in_block(conn: AsyncConnection) -> Fetch:
    """As a part of a block, with what SQLAlchemy does around each statement."""

    async def fetch(statement: str, values: Sequence[object]) -> list[Row]:
        done = await conn.exec_driver_sql(statement, tuple(values))
        return list(done) if done.returns_rows else []

    return fetch


def dialect_of(conn: AsyncConnection) -> Dialect:
    return "postgresql" if conn.dialect.name == "postgresql" else "sqlite"
