"""What the two databases have in common, and the one way out of their errors.

Each has a module of its own; `engine.Store` is what everybody else uses. Every environmental
failure leaves as UnavailableError.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, Protocol, TypeVar

from sqlalchemy.ext.asyncio import AsyncConnection

from token_server.storage.errors import translate
from token_server.storage.query import Query
from token_server.storage.steps import Dialect, Row, Transaction

R = TypeVar("R")
Operation = Literal["read", "write"]
Asked = tuple[Query, Mapping[str, object]]  # a query and its values by name
POOL_TIMEOUT_S = 5.0


class Backend(Protocol):
    """What differs between the two databases."""

    dialect: Dialect
    path: Path | None  # of the SQLite file

    def read(
        self, wait_s: float | None = None
    ) -> contextlib.AbstractAsyncContextManager[AsyncConnection]: ...

    def write(
        self, wait_s: float | None
    ) -> contextlib.AbstractAsyncContextManager[AsyncConnection]: ...

    async def read_alone(self, queries: Sequence[Asked]) -> list[list[Row]]: ...

    async def write_alone(self, statement: str, values: Sequence[object]) -> list[Row]: ...

    async def write_steps(self, transaction: Transaction[R]) -> R: ...

    async def checkpoint(self) -> None: ...

    async def probe(self, operation: Operation) -> None:
        """Ask the database something simple of this kind, on a connection of its own; raises as
        the operation would. For availability.py, which bounds it."""

    def give_up(self, operation: Operation) -> None:
        """It does not answer: break off what waits for it, and open no connection until
        `resume`."""

    def resume(self, operation: Operation) -> None: ...

    async def close(self) -> None: ...


@contextlib.contextmanager
def translated() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        translated = translate(error)
        if translated is None:
            raise
        raise translated from None  # the cause may quote bound values
