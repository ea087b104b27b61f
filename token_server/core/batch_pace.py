"""How many rows the next batch of a long clean-up may take, and how long to pause before it.

A row costs what the machine, the size of the indexes and the load make of it: 10 µs in a small
database, a millisecond where each index entry is a page on a busy disk. So batches are bounded by
the time for which they keep others from writing, which only the batch before can tell.
"""

from dataclasses import dataclass

HOLD_S = 0.01  # for so long a batch may keep others waiting: about what a busy disk's sync takes
PAUSE_RATIO = 3  # others have at least three quarters of the time
LEAST_PAUSE_S = 0.005
FIRST, LEAST, MOST = 100, 10, 5000


@dataclass(slots=True)
class BatchPace:
    """One for each kind of row; `limit` is the size of the next batch."""

    limit: int = FIRST

    def pause_after(self, took_s: float) -> float:
        """The pause, in seconds, after a batch of `limit` rows that took so long with its commit;
        from now on `limit` is for the next one. It grows at most twofold, since the first batches
        after a pause find less in memory than those that follow them."""
        factor = min(2.0, HOLD_S / max(took_s, HOLD_S / 1000))
        self.limit = max(LEAST, min(MOST, int(self.limit * factor)))
        return max(LEAST_PAUSE_S, PAUSE_RATIO * took_s)
