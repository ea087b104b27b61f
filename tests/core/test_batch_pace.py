"""Batches of a clean-up are as long as others can wait."""

import pytest

from token_server.core.batch_pace import FIRST, HOLD_S, LEAST, LEAST_PAUSE_S, MOST, BatchPace


def test_batches_settle_at_the_time_that_they_may_take() -> None:
    """Whatever a row costs: here 0.1 ms and 5 ms for the commit."""
    pace = BatchPace()
    for _ in range(20):
        pace.pause_after(0.005 + 0.0001 * pace.limit)
    assert HOLD_S / 2 < 0.005 + 0.0001 * pace.limit <= HOLD_S


@pytest.mark.parametrize(("took_s", "limit"), [(0.0, MOST), (60.0, LEAST)])
def test_batches_stay_within_their_bounds(took_s: float, limit: int) -> None:
    """However fast or slow: a clock that stood still must not make one batch of everything."""
    pace = BatchPace()
    for _ in range(20):
        pace.pause_after(took_s)
    assert pace.limit == limit


def test_batch_at_most_doubles() -> None:
    """One quick batch says little about the next."""
    pace = BatchPace()
    pace.pause_after(HOLD_S / 50)
    assert pace.limit == 2 * FIRST


def test_others_have_three_quarters_of_the_time() -> None:
    """A slow batch is followed by a longer pause, a quick one still by some."""
    pace = BatchPace()
    assert pace.pause_after(0.3) == pytest.approx(0.9)
    assert pace.pause_after(0.0) == LEAST_PAUSE_S
