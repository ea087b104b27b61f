"""Budgets as GCRA, and the replay ledger on top of them."""

from hypothesis import given
from hypothesis import strategies as st

from token_server.core.replay_ledger import ReplayLedger
from token_server.core.throttle import Allowed, Budget, Throttled, decide_use


def test_burst_then_steady_rate() -> None:
    """Three at once, then one per ten seconds."""
    budget = Budget(burst=3, interval_s=10)
    full_at = None
    for _ in range(3):
        decision = decide_use(full_at, 100.0, budget)
        assert isinstance(decision, Allowed)
        full_at = decision.full_at
    assert decide_use(full_at, 100.0, budget) == Throttled(10.0)
    assert decide_use(full_at, 109.0, budget) == Throttled(1.0)
    assert isinstance(decide_use(full_at, 110.0, budget), Allowed)


def test_budget_refills_up_to_the_burst_only() -> None:
    """Years of silence do not save up more than one burst."""
    budget = Budget(burst=2, interval_s=1)
    first = decide_use(5.0, 1e9, budget)
    assert isinstance(first, Allowed)
    second = decide_use(first.full_at, 1e9, budget)
    assert isinstance(second, Allowed)
    assert isinstance(decide_use(second.full_at, 1e9, budget), Throttled)


@given(st.lists(st.floats(0, 100), min_size=1, max_size=60), st.integers(1, 5))
def test_never_more_than_burst_plus_rate(gaps: list[float], burst: int) -> None:
    """In any stretch of time at most burst + elapsed / interval uses pass."""
    budget = Budget(burst=burst, interval_s=7.0)
    now, full_at, passed = 0.0, None, []
    for gap in gaps:
        now += gap
        decision = decide_use(full_at, now, budget)
        if isinstance(decision, Allowed):
            full_at = decision.full_at
            passed.append(now)
    for i, start in enumerate(passed):
        for j in range(i, len(passed)):
            assert j - i + 1 <= burst + (passed[j] - start) / 7.0 + 1e-6


def test_replays_beyond_the_budget_wait() -> None:
    """A broken client is slowed down, family by family (refresh.md 4)."""
    ledger = ReplayLedger(Budget(burst=2, interval_s=1))
    assert isinstance(ledger.use(b"a", 0.0), Allowed)
    assert isinstance(ledger.use(b"a", 0.0), Allowed)
    assert isinstance(ledger.use(b"a", 0.0), Throttled)
    assert isinstance(ledger.use(b"b", 0.0), Allowed)


def test_replay_of_a_generation_is_noted_once() -> None:
    """One write per replayed generation and process, and again when the write failed."""
    ledger = ReplayLedger()
    assert ledger.claim_note(b"a", 0)
    assert not ledger.claim_note(b"a", 0)
    ledger.release_note(b"a", 0)
    assert ledger.claim_note(b"a", 0)
    assert ledger.claim_note(b"a", 1)
    assert not ledger.claim_note(b"a", 0)


def test_ledger_is_bounded() -> None:
    """The least recently seen family gives way."""
    ledger = ReplayLedger(max_families=3)
    for family_id in (b"a", b"b", b"c", b"a", b"d"):
        ledger.use(family_id, 0.0)
    assert len(ledger) == 3
    assert ledger.claim_note(b"b", 0)
