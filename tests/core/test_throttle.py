"""Budgets as GCRA, and the replay ledger on top of them."""

from hypothesis import given
from hypothesis import strategies as st

from token_server.core.replay_ledger import ReplayLedger
from token_server.core.throttle import (
    Allowed,
    Bucket,
    Budget,
    Done,
    GiveBack,
    Refused,
    Take,
    Throttled,
    decide_take,
    decide_use,
    give_back,
)

QUICK = Bucket("quick", Budget(2, 10))
SLOW = Bucket("slow", Budget(4, 100))


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


def take(states: dict[str, float], now: float) -> float:
    """One use of both buckets, kept in `states`; how long to wait, 0 when it fitted."""
    decision = decide_take(states, Take("g", (QUICK, SLOW), now))
    if isinstance(decision, Refused):
        return decision.retry_after_s
    states.update(decision.states)
    return 0.0


def test_delay_grows_from_budget_to_budget() -> None:
    """Two at once, then one in ten seconds, then one in a hundred."""
    states: dict[str, float] = {}
    waits = [take(states, now) for now in (0, 0, 0, 10, 20, 30, 40, 90, 100)]
    assert waits == [0, 0, 10, 0, 0, 70, 60, 10, 0]


def test_refused_take_changes_no_bucket() -> None:
    """All or nothing: what one bucket refuses costs the others nothing, and names the bucket."""
    states = {"quick": 120.0}
    decision = decide_take(states, Take("g", (SLOW, QUICK), 100.0))
    assert decision == Refused(QUICK, 10.0)
    assert states == {"quick": 120.0}


def test_given_back_use_is_one_and_no_more() -> None:
    """A success returns its own step; a full bucket does not grow beyond full."""
    states: dict[str, float] = {}
    assert [take(states, 0), take(states, 0)] == [0, 0]
    done = give_back(states, GiveBack("g", (QUICK,), (), 0.0))
    assert done == Done({"quick": 10.0})
    assert give_back({"quick": 3.0}, GiveBack("g", (QUICK,), (), 0.0)) == Done({"quick": 0.0})
    assert give_back({}, GiveBack("g", (QUICK,), (SLOW,), 0.0)) == Done({})


def test_forgiven_bucket_is_full_again() -> None:
    """Whatever it held, the next use is a first one."""
    states: dict[str, float] = {}
    for now in (0, 0, 10, 20):
        assert take(states, now) == 0
    states.update(give_back(states, GiveBack("g", (), (QUICK, SLOW), 20.0)).states)
    assert [take(states, 20), take(states, 20)] == [0, 0]


def test_clock_set_back_by_little_only_prolongs_the_wait() -> None:
    """A state of a clock ahead of ours still counts: two clocks must not double the budget."""
    states: dict[str, float] = {}
    assert [take(states, 60), take(states, 60)] == [0, 0]
    assert take(states, 0) == 70


def test_clock_set_back_by_an_hour_keeps_nobody_out() -> None:
    """One mistake at a clock that was an hour ahead must not shut a whole network out for that
    hour (cases 110, 148): the budget is counted anew, and no looser than ever."""
    states: dict[str, float] = {}
    assert [take(states, 3600), take(states, 3600)] == [0, 0]
    assert [take(states, 0), take(states, 0), take(states, 0)] == [0, 0, 10]


def test_clocks_far_apart_do_not_refill_each_others_budget() -> None:
    """Two instances an hour apart, asked in turn: each has its own burst, and the one behind loses
    its count once, when the other one writes over it."""
    states: dict[str, float] = {}
    waits = [take(states, now) for _ in range(50) for now in (0, 0, 3600, 3600)]
    assert waits.count(0) <= 3 * QUICK.budget.burst


def test_success_is_remembered_as_one_by_a_clock_that_is_set_back() -> None:
    """Whoever logged in while the clock was ahead is not made to wait afterwards."""
    states: dict[str, float] = {}
    for step_back_s in (30, 3000, 86_400):
        assert take(states, 86_400) == 0
        states.update(give_back(states, GiveBack("g", (SLOW,), (QUICK,), 86_400.0)).states)
        assert set(states.values()) == {0.0}
        assert take(dict(states), 86_400 - step_back_s) == 0


def test_state_of_a_third_clock_is_not_believed_either() -> None:
    """Nobody waits for a day because clocks were a day and two days ahead."""
    states: dict[str, float] = {}
    assert [take(states, 2 * 86_400), take(states, 86_400)] == [0, 0]
    assert [take(states, 0), take(states, 0), take(states, 0)] == [0, 0, 10]
    assert give_back({"quick": 86_400.0}, GiveBack("g", (QUICK,), (QUICK,), 0.0)) == Done({})


@given(st.lists(st.tuples(st.floats(0, 60), st.booleans()), max_size=80))
def test_buckets_together_never_exceed_any_of_them(moves: list[tuple[float, bool]]) -> None:
    """In any stretch of time each budget holds, with uses given back now and then."""
    states: dict[str, float] = {}
    now, passed = 0.0, []
    for gap, is_returned in moves:
        now += gap
        if take(states, now) == 0:
            if is_returned:
                states.update(give_back(states, GiveBack("g", (QUICK, SLOW), (), now)).states)
            else:
                passed.append(now)
    for bucket in (QUICK, SLOW):
        budget = bucket.budget
        for i, start in enumerate(passed):
            for j in range(i, len(passed)):
                limit = budget.burst + (passed[j] - start) / budget.interval_s
                assert j - i + 1 <= limit + 1e-6


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
