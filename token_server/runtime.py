"""What a running process is made of: one frozen Runtime, built in one place, passed down."""

import os
import secrets
import time
from dataclasses import dataclass
from typing import Protocol


class Clock(Protocol):
    def now(self) -> int:
        """Wall clock in epoch seconds: for claims and stored instants."""

    def monotonic(self) -> float:
        """Seconds that never go back: for durations and ages of caches."""


class Entropy(Protocol):
    def token_bytes(self, length: int) -> bytes: ...
