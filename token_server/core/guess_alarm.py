"""When guesses fail so often, over all doors and networks, that somebody should look.

Pure: what was counted so far and the clock in, the new count and what there is to report out.
Budgets (core/guess_budget.py) stop one network; many networks at once stop at nothing, and all
that can be done is to say so. Failures are counted by clock minute; an episode begins with the
minute that reaches the threshold and ends after some that do not.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

MINUTE_S = 60
QUIET_MINUTES = 5  # so long below the threshold before an episode is over: one event, not ten
# Clocks differ by seconds; a count that lies further ahead was made before one was set back.
_MAX_MINUTES_AHEAD = 1

Counts = Mapping[str, int]  # failed guesses by door


@dataclass(frozen=True, slots=True)
class Episode:
    """Since when guessing is suspected, and how much there was of it."""

    since: int  # epoch seconds: the minute's beginning
    loud_minute: int  # the last one that reached the threshold
    peak: int  # most failures in a minute
    failed: Counts


@dataclass(frozen=True, slots=True)
class AlarmState:
    """What all processes of an installation share; kept by services/guess_watch.py."""

    minute: int = 0  # the one being counted: epoch seconds / 60
    failed: Counts = field(default_factory=dict)  # in it
    episode: Episode | None = None


@dataclass(frozen=True, slots=True)
class Raised:
    """An episode began: the failures of its minute so far."""

    failed: Counts


@dataclass(frozen=True, slots=True)
class Ended:
    """An episode is over: all of it."""

    episode: Episode

    @property
    def lasted_s(self) -> int:
        return (self.episode.loud_minute + 1) * MINUTE_S - self.episode.since


Report = Raised | Ended


class FailedGuesses:
    """What one process has counted and not yet added to the count of all."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}

    def __bool__(self) -> bool:
        return bool(self._counts)

    def add(self, door: str, count: int = 1) -> None:
        self._counts[door] = self._counts.get(door, 0) + count

    def take(self) -> Counts:
        """All of it; whoever cannot store it gives it back by `add`."""
        taken, self._counts = self._counts, {}
        return taken


def is_over(state: AlarmState, now: int) -> bool:
    """Whether there is an episode that is to be ended, whatever else fails now."""
    if state.episode is None:
        return False
    quiet = _minute(state, now) - state.episode.loud_minute
    return not -_MAX_MINUTES_AHEAD <= quiet <= QUIET_MINUTES


def count_failures(
    state: AlarmState, failed: Counts, now: int, threshold: int
) -> tuple[AlarmState, tuple[Report, ...]]:
    """Add `failed` at `now`; what begins or ends by it is reported once, to whoever stores the
    new state."""
    reports: list[Report] = []
    minute, episode = _minute(state, now), state.episode
    if episode is not None and is_over(state, now):
        reports.append(Ended(episode))
        episode = None
    in_minute = _sum(state.failed if minute == state.minute else {}, failed)
    total = sum(in_minute.values())
    if episode is not None:
        episode = replace(episode, failed=_sum(episode.failed, failed))
        if total >= threshold:
            episode = replace(episode, loud_minute=minute, peak=max(episode.peak, total))
    elif total >= threshold:
        episode = Episode(minute * MINUTE_S, minute, total, in_minute)
        reports.append(Raised(in_minute))
    return AlarmState(minute, in_minute, episode), tuple(reports)


def _minute(state: AlarmState, now: int) -> int:
    """The minute that counts now: a clock a little behind the others counts to theirs."""
    minute = now // MINUTE_S
    is_behind = minute < state.minute <= minute + _MAX_MINUTES_AHEAD
    return state.minute if is_behind else minute


def _sum(one: Counts, other: Counts) -> Counts:
    return {door: one.get(door, 0) + other.get(door, 0) for door in {**one, **other}}
