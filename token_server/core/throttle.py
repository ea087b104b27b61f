"""Budgets as GCRA: state and clock in, decision out (the shape of Boulder's `gcra.go`).

One number is kept per key, the *theoretical arrival time*: the instant at which the budget
would be full again. Nothing here stores it or knows what the key is.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Budget:
    """`burst` uses at once, then one more every `interval_s` seconds."""

    burst: int
    interval_s: float


@dataclass(frozen=True, slots=True)
class Allowed:
    """Keep `full_at` as the key's new state."""

    full_at: float


@dataclass(frozen=True, slots=True)
class Throttled:
    """The state stays as it was: a refused use costs nothing, so nobody is locked out by being
    refused."""

    retry_after_s: float


def decide_use(full_at: float | None, now: float, budget: Budget) -> Allowed | Throttled:
    """Whether one more use fits at `now`; `full_at` is the stored state, None for a new key."""
    next_full_at = max(full_at if full_at is not None else now, now) + budget.interval_s
    earliest = next_full_at - budget.burst * budget.interval_s
    if earliest > now:
        return Throttled(earliest - now)
    return Allowed(next_full_at)
