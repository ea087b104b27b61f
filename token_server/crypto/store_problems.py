"""What is wrong with the key store as this process sees it: logged when it begins, changes and
ends, and counted each time. Problems name files and what to do, never what is in them."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Literal

from token_server.errors import OperatorError, UnavailableError
from token_server.logs import get_logger

_log = get_logger(__name__)

StoreOperation = Literal["read", "write"]


class StoreProblems:
    """At most one problem for each operation: the last one."""

    def __init__(self, count: Callable[[StoreOperation], None]) -> None:
        self._count = count
        self._found: dict[StoreOperation, str] = {}

    def get(self, operation: StoreOperation) -> str | None:
        return self._found.get(operation)

    @contextlib.contextmanager
    def watching(self, operation: StoreOperation) -> Iterator[None]:
        """Note how the block ends; its OperatorError or UnavailableError goes on."""
        try:
            yield
        except (OperatorError, UnavailableError) as error:
            self._note_failure(operation, str(error))
            raise
        if self._found.pop(operation, None) is not None:
            _log.info("key_store_works_again", operation=operation)

    def _note_failure(self, operation: StoreOperation, problem: str) -> None:
        self._count(operation)
        if self._found.get(operation) != problem:
            self._found[operation] = problem
            _log.warning("key_store_failed", operation=operation, problem=problem)
