"""A reader under test: any bytes go in, and nothing but its own refusals may come out."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Target:
    """`read` raises for what must not be: a foreign exception, or an answer that breaks a promise.
    `seeds` are inputs that it takes, or nearly."""

    read: Callable[[bytes], None]
    seeds: tuple[bytes, ...]


def require(holds: bool, promise: str) -> None:
    """An `assert` that `python -O` does not remove."""
    if not holds:
        raise AssertionError(promise)
