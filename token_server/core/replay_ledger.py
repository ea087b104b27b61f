"""What one process remembers of recent replays: a budget per family, and what is already noted.

A lost answer is retried a few times; a family whose token is replayed hundreds of times in its
window is a broken client, which gets 429 and is never taken for a thief (RFC 9700 §4.14,
refresh.md 4). Bounded, deterministic, the instant passed in; nothing here is durable, and
nothing needs to be: the worst that a restart does is to refill a budget.
"""

from collections import OrderedDict
from dataclasses import dataclass

from token_server.core.throttle import Allowed, Budget, Throttled, decide_use

REPLAY_BUDGET = Budget(burst=200, interval_s=1.0)
_MAX_FAMILIES = 10_000


@dataclass(slots=True)
class _Seen:
    full_at: float | None = None
    noted_generation: int = -1


class ReplayLedger:
    """Only families with a valid token get a place, so that strangers cannot push others out."""

    def __init__(self, budget: Budget = REPLAY_BUDGET, max_families: int = _MAX_FAMILIES) -> None:
        self._budget = budget
        self._max_families = max_families
        self._families: OrderedDict[bytes, _Seen] = OrderedDict()

    def use(self, family_id: bytes, now: float) -> Allowed | Throttled:
        """Count one replay at `now` (monotonic seconds)."""
        seen = self._seen(family_id)
        decision = decide_use(seen.full_at, now, self._budget)
        if isinstance(decision, Allowed):
            seen.full_at = decision.full_at
        return decision

    def claim_note(self, family_id: bytes, generation: int) -> bool:
        """True for the first caller who is to note the replay of this generation in storage."""
        seen = self._seen(family_id)
        if seen.noted_generation >= generation:
            return False
        seen.noted_generation = generation
        return True

    def release_note(self, family_id: bytes, generation: int) -> None:
        """The note could not be stored: the next replay tries again."""
        seen = self._seen(family_id)
        if seen.noted_generation == generation:
            seen.noted_generation = generation - 1

    def __len__(self) -> int:
        return len(self._families)

    def _seen(self, family_id: bytes) -> _Seen:
        seen = self._families.get(family_id)
        if seen is None:
            while len(self._families) >= self._max_families:
                self._families.popitem(last=False)
            seen = self._families[family_id] = _Seen()
        else:
            self._families.move_to_end(family_id)
        return seen
