"""When failed guesses are an episode, and what is told of it."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from token_server.core.guess_alarm import (
    QUIET_MINUTES,
    AlarmState,
    Ended,
    Raised,
    Report,
    count_failures,
    is_over,
)

START, THRESHOLD = 60_000_000, 100  # a full minute
LOGIN, KEY = {"login": 60}, {"api_key": 40}


def run(steps: Sequence[tuple[int, dict[str, int]]]) -> list[Report]:
    """Each step: seconds after the start, and what failed."""
    state, reports = AlarmState(), list[Report]()
    for offset, failed in steps:
        state, told = count_failures(state, failed, START + offset, THRESHOLD)
        reports += told
    return reports


def test_episode_begins_with_the_failure_that_reaches_the_threshold() -> None:
    """F111: over all doors together, and told once."""
    assert run([(0, LOGIN), (50, {"api_key": 39})]) == []
    assert run([(0, LOGIN), (50, KEY), (51, LOGIN)]) == [Raised({"login": 60, "api_key": 40})]


def test_minutes_are_counted_apart() -> None:
    """What a large site mistypes all day is no attack."""
    assert run([(60 * minute, {"login": THRESHOLD - 1}) for minute in range(100)]) == []


def test_episode_ends_after_quiet_minutes_and_tells_all_of_it() -> None:
    """Failures below the threshold belong to it, but do not keep it going."""
    steps = [(0, {"login": 100}), (60, {"login": 150}), (119, {"api_key": 5})]
    steps += [(120 + 60 * minute, {"login": 1}) for minute in range(QUIET_MINUTES + 1)]
    raised, ended = run(steps)
    assert isinstance(raised, Raised)
    assert isinstance(ended, Ended)
    assert ended.episode.failed == {"login": 250 + QUIET_MINUTES, "api_key": 5}
    assert (ended.episode.peak, ended.lasted_s) == (155, 120)


def test_lull_within_an_episode_is_no_end() -> None:
    """An attack that breathes is one event, not one for each breath."""
    loud = [(60 * QUIET_MINUTES * number, {"login": THRESHOLD}) for number in range(10)]
    assert run(loud) == [Raised({"login": THRESHOLD})]


def test_end_and_next_beginning_are_told_in_one_count() -> None:
    """After hours in which nobody looked, the old episode ends before the new one begins."""
    loud = {"login": THRESHOLD}
    assert [type(report) for report in run([(0, loud), (7200, loud)])] == [Raised, Ended, Raised]


def test_episode_that_nobody_feeds_is_over_by_time() -> None:
    """The end does not wait for another failure."""
    state, _ = count_failures(AlarmState(), {"login": THRESHOLD}, START, THRESHOLD)
    assert not is_over(AlarmState(), START)
    assert not is_over(state, START + 60 * QUIET_MINUTES + 59)
    assert is_over(state, START + 60 * (QUIET_MINUTES + 1))
    state, reports = count_failures(state, {}, START + 3600, THRESHOLD)
    assert [type(report) for report in reports] == [Ended]
    assert not is_over(state, START + 3600)


@pytest.mark.parametrize("behind_s", [1, 30, 60])
def test_clock_that_is_a_little_behind_counts_to_the_same_minute(behind_s: int) -> None:
    """Two processes around the end of a minute do not take each other's count away."""
    here, there = START + 60, START + 60 - behind_s
    state, reports = AlarmState(), tuple[Report, ...]()
    for at in (here, there, here, there):
        state, reports = count_failures(state, {"login": THRESHOLD // 4}, at, THRESHOLD)
    assert [type(report) for report in reports] == [Raised]


def test_clock_that_was_set_back_neither_keeps_an_episode_nor_the_count() -> None:
    """A day back: what was counted ahead of it ends, and counting goes on."""
    loud = {"login": THRESHOLD}
    steps = [(86_400, loud), (0, {}), (1, loud), (2, loud)]
    assert [type(report) for report in run(steps)] == [Raised, Ended, Raised]


@given(
    st.lists(
        st.tuples(st.integers(0, 400), st.sampled_from(("login", "api_key")), st.integers(0, 150)),
        max_size=60,
    )
)
def test_reports_alternate_and_lose_no_failure(steps: list[tuple[int, str, int]]) -> None:
    """Begin, end, begin, ...; an episode's sum is what was counted from its first minute on."""
    state, reports, at, since = AlarmState(), list[Report](), START, 0
    for pause, door, count in steps:
        at += pause
        state, told = count_failures(state, {door: count}, at, THRESHOLD)
        reports += told
        if any(isinstance(report, Raised) for report in told):
            since = sum(state.failed.values())
        elif state.episode is not None:
            since += count
        if state.episode is not None:
            assert sum(state.episode.failed.values()) == since
            assert state.episode.peak >= THRESHOLD
    kinds = [type(report) for report in reports]
    assert kinds == [(Raised, Ended)[number % 2] for number in range(len(kinds))]
