"""Budgets as GCRA: state and clock in, decision out (the shape of Boulder's `gcra.go`).

One number is kept per key, the *theoretical arrival time*: the instant at which the budget
would be full again. Nothing here stores it or knows what the key is. Several budgets over one
key, from a short and quick one to a long and slow one, make a delay that grows; a use takes one
step of each or of none.
"""

from collections.abc import Mapping
from dataclasses import dataclass

# Clocks of one installation may differ by so much (CLOCK_SKEW allows no more). A state beyond it is
# another clock's: one of before a step back, or of an instance that is far ahead. To wait for it
# would keep whole networks out for as long as the step.
_MAX_CLOCK_DIFFERENCE_S = 60.0


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

    @property
    def name_beside(self) -> str:
        """Where is counted while `name` has a state of a clock far ahead. That one stays for the
        other clock: two that differ have one budget each, and cannot refill each other's."""
        return f"{self.name}~"


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
        name, full_at = _find_state(states, bucket, take.now)
        match decide_use(full_at, take.now, bucket.budget):
            case Allowed(next_full_at):
                taken[name] = next_full_at
            case Throttled(wait_s):
                if refused is None or wait_s > refused.retry_after_s:
                    refused = Refused(bucket, wait_s)
    return refused or Done(taken)


def give_back(states: Mapping[str, float], step: GiveBack) -> Done:
    """A bucket without a state is full already and gets none. One that becomes full is stored as
    0 and not as now, so that a clock that is set back later finds it full as well."""
    changed: dict[str, float] = {}
    for bucket in step.returned:
        name, full_at = _find_state(states, bucket, step.now)
        if full_at is not None:
            left_at = full_at - bucket.budget.interval_s
            changed[name] = left_at if left_at > step.now else 0.0
    for bucket in step.forgiven:
        name, full_at = _find_state(states, bucket, step.now)
        if full_at is not None:
            changed[name] = 0.0
    return Done(changed)


def _find_state(
    states: Mapping[str, float], bucket: Bucket, now: float
) -> tuple[str, float | None]:
    """Where this bucket is counted at `now`, and its state there; None for a full budget."""
    latest = now + bucket.budget.burst * bucket.budget.interval_s + _MAX_CLOCK_DIFFERENCE_S
    for name in (bucket.name, bucket.name_beside):
        full_at = states.get(name)
        if full_at is None or full_at <= latest:
            return name, full_at
    return bucket.name_beside, None  # a third clock
