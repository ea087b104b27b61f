"""What a running process is made of: one frozen Runtime, built in one place, passed down.

`open_runtime` is the only place that builds things: the HTTP server, the command line and the
tests' fixture all use it. There is no container and no module state.
"""

import secrets  # noqa: TID251 - the one place that may
import time
from typing import Protocol


class Clock(Protocol):
    """Where instants and durations come from; tests pass a manual one."""

    def now(self) -> int:
        """Wall clock in whole epoch seconds: for claims and stored instants."""
        ...

    def monotonic(self) -> float:
        """Seconds that never go back: for durations and the ages of caches."""
        ...


class SystemClock:
    def now(self) -> int:
        return int(time.time())  # noqa: TID251 - the one place that may

    def monotonic(self) -> float:
        return time.monotonic()


class Entropy(Protocol):
    """Where unguessable bytes come from."""

    def token_bytes(self, length: int) -> bytes: ...


class SystemEntropy:
    def token_bytes(self, length: int) -> bytes:
        return secrets.token_bytes(length)
