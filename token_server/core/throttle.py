"""Budgets as GCRA: state and clock in, decision out (the shape of Boulder's `gcra.go`).

One number is kept per key, the *theoretical arrival time*: the instant at which the budget
would be full again. Nothing here stores it or knows what the key is. Several budgets over one
key, from a short and quick one to a long and slow one, make a delay that grows; a use takes one
step of each or of none.
"""

from collections.abc import Mapping
from dataclasses import dataclass

# No clock of ours is ahead by more: a later state was made before a clock was set back, and would
# keep its owner out for as long.
_MAX_CLOCK_STEP_S = 3600.0


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


@dataclass(frozen=True, slots=True)
class Bucket:
    """The name of one stored state, and the budget by which it is read."""

    name: str
    budget: Budget


@dataclass(frozen=True, slots=True)
class Take:
    """One use of each bucket, or of none. Steps that share a bucket are of one `group`."""

    group: str
    buckets: tuple[Bucket, ...]
    now: float


@dataclass(frozen=True, slots=True)
class GiveBack:
    """Undo one use of each of `returned`, and every use of each of `forgiven`."""

    group: str
    returned: tuple[Bucket, ...]
    forgiven: tuple[Bucket, ...]
    now: float


@dataclass(frozen=True, slots=True)
class Done:
    """The step was taken: these are the new states."""

    states: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Refused:
    """No state changes; `bucket` is the one with the longest wait."""

    bucket: Bucket
    retry_after_s: float


def decide_take(states: Mapping[str, float], take: Take) -> Done | Refused:
    """Whether a use fits into all the buckets; `states` may lack buckets that are full."""
    refused: Refused | None = None
    taken: dict[str, float] = {}
    for bucket in take.buckets:
        full_at = _believable(states.get(bucket.name), take.now, bucket.budget)
        match decide_use(full_at, take.now, bucket.budget):
            case Allowed(next_full_at):
                taken[bucket.name] = next_full_at
            case Throttled(wait_s):
                if refused is None or wait_s > refused.retry_after_s:
                    refused = Refused(bucket, wait_s)
    return refused or Done(taken)


def give_back(states: Mapping[str, float], step: GiveBack) -> Done:
    """A bucket without a state is full already and gets none."""
    changed: dict[str, float] = {}
    for bucket in step.returned:
        full_at = _believable(states.get(bucket.name), step.now, bucket.budget)
        if full_at is not None:
            changed[bucket.name] = max(step.now, full_at - bucket.budget.interval_s)
    for bucket in step.forgiven:
        if bucket.name in states:
            changed[bucket.name] = step.now
    return Done(changed)


def _believable(full_at: float | None, now: float, budget: Budget) -> float | None:
    """The stored state; None (a full budget) for one that no clock of ours can have made."""
    latest = now + budget.burst * budget.interval_s + _MAX_CLOCK_STEP_S
    return None if full_at is None or full_at > latest else full_at
