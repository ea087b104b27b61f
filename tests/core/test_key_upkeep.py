"""What a serving process does to its keys by itself, and what a start makes of a gap."""

from dataclasses import replace

import pytest

from tests.support.key_situations import (
    HEAD_ROOM_S,
    NOW,
    POLICY,
    SETTLE_S,
    after,
    key,
    kinds,
    situation,
    states,
)
from token_server.core.key_changes import Change, Situation
from token_server.core.key_invariants import violations
from token_server.core.key_policy import KEEP_RETIRED_S, LONGEST_TOKEN_S, Serving
from token_server.core.key_upkeep import NOTHING_DUE, resume, upkeep
from token_server.records import SigningKey

SIGNS = key("signs", NOW - 5000)
NEXT = key("next")


def kept(before: Situation, *kids: str) -> Situation:
    """The situation after upkeep, which breaks no rule."""
    decision = upkeep(before)
    assert isinstance(decision, Change), decision
    assert violations(before, decision) == ()
    return after(before, decision, *kids)


def found(now: Situation, kid: str) -> SigningKey:
    one = now.find(kid)
    assert one is not None
    return one


def test_mostly_nothing_is_due() -> None:
    """Asked twice a second, upkeep leaves a good keyring alone."""
    assert upkeep(situation(SIGNS, NEXT)) is NOTHING_DUE
    assert upkeep(situation(SIGNS, key("dated", NOW + 9), NEXT)) is NOTHING_DUE


@pytest.mark.parametrize(
    ("published_at", "activate_at", "expected"),
    [
        pytest.param(None, None, (NOW, None), id="its lead begins"),
        pytest.param(None, NOW + 1000, (NOW, NOW + 1000), id="served in time"),
        pytest.param(None, NOW + 999, (NOW, NOW + 1000), id="served later than planned"),
        pytest.param(None, NOW - 9, (NOW, NOW + 1000), id="served after its date"),
        pytest.param(NOW + 1001, None, (NOW, None), id="a clock far ahead wrote it"),
        pytest.param(NOW + 1001, NOW + 1500, (NOW, NOW + 1500), id="and dated it"),
    ],
)
def test_first_service_starts_the_lead(
    published_at: int | None, activate_at: int | None, expected: tuple[int, int | None]
) -> None:
    """I2 counts from when a server first served the key, not from when it was made."""
    before = situation(SIGNS, key("next", activate_at, published_at=published_at))
    one = found(kept(before), "next")
    assert (one.published_at, one.activate_at) == expected


def test_slightly_future_publication_is_another_clock() -> None:
    """Within a lead it comes true by itself; two clocks must not write against each other."""
    assert upkeep(situation(SIGNS, key("next", published_at=NOW + 1000))) is NOTHING_DUE


@pytest.mark.parametrize(
    ("age_s", "expected"),
    [
        pytest.param(18_999, None, id="not due"),
        pytest.param(19_000, NOW + 1000, id="one lead before its age"),
        pytest.param(19_400, NOW + 1000, id="late: still a whole lead ahead"),
        pytest.param(90_000, NOW + 1000, id="long overdue"),
    ],
)
def test_rotation_is_dated_when_the_key_reaches_its_age(age_s: int, expected: int | None) -> None:
    """KEY_ROTATE_EVERY after the last switch, with the lead taken into account."""
    before = situation(key("signs", NOW - age_s), NEXT)
    decision = upkeep(before)
    if expected is None:
        assert decision is NOTHING_DUE
        return
    assert kinds(decision) == ["scheduled", "made"]
    then = kept(before)
    assert found(then, "next").activate_at == expected
    assert kinds(upkeep(then)) == ["published"], "the rotation is not begun again"


def test_missing_next_key_is_made() -> None:
    """I1 is mended before anything is rotated."""
    then = kept(situation(key("signs", NOW - 19_000)), "new")
    assert states(then) == {"signs": "active", "new": "next"}
    assert kinds(upkeep(then)) == ["published", "scheduled", "made"]


def test_next_key_for_the_time_after_a_switch_is_made_before_it() -> None:
    """At the switch an emergency must find a key that verifiers know, so it is not made then."""
    dated = key("dated", NOW + 500)
    then = kept(situation(SIGNS, dated), "new")
    assert states(then) == {"signs": "active", "dated": "next", "new": "next"}
    assert found(then, "dated") == dated


def test_replaced_key_gets_its_date_once_every_instance_has_switched() -> None:
    """Until reload interval and skew are over another instance may raise its mark (I4)."""
    old = key("old", NOW - 9000, exp_high_water=NOW + 700)
    early = situation(old, key("signs", NOW - SETTLE_S + 1), NEXT)
    assert upkeep(early) is NOTHING_DUE
    before = situation(old, key("signs", NOW - SETTLE_S), NEXT)
    decision = upkeep(before)
    assert kinds(decision) == ["retirement_set"]
    assert found(kept(before), "old").retire_at == NOW - SETTLE_S + 1000 + SETTLE_S


@pytest.mark.parametrize(
    ("mark", "replaced_s", "expected"),
    [
        pytest.param(NOW + 5000, 20, NOW + 5000 + 5 + 100, id="its last token, skew and caches"),
        pytest.param(NOW + 10, 20, NOW - 20 + 1000 + SETTLE_S, id="the roll-back window"),
        pytest.param(None, 20, NOW - 20 + LONGEST_TOKEN_S + 105, id="no mark: the longest token"),
        pytest.param(NOW - 9000, 4000, NOW, id="late: now, never in the past"),
    ],
)
def test_date_to_leave_waits_for_tokens_and_roll_back(
    mark: int | None, replaced_s: int, expected: int
) -> None:
    """I4, and no instance unpublishes a key that another has rolled back to."""
    old = key("old", NOW - 90_000, exp_high_water=mark)
    then = kept(situation(old, key("signs", NOW - replaced_s), NEXT))
    assert found(then, "old").retire_at == expected


@pytest.mark.parametrize(("replaced_s", "is_erased"), [(999, False), (1000, True), (5000, True)])
def test_private_half_goes_when_the_roll_back_window_is_over(
    replaced_s: int, is_erased: bool
) -> None:
    """I6, while the public half stays."""
    old = key("old", NOW - 9000, retire_at=NOW + 9000)
    before = situation(old, key("signs", NOW - replaced_s), NEXT)
    if not is_erased:
        assert upkeep(before) is NOTHING_DUE
        return
    then = kept(before)
    assert then.usable == {"signs", "next"}
    assert states(then)["old"] == "retiring"
    assert upkeep(then) is NOTHING_DUE


@pytest.mark.parametrize(
    ("record", "is_forgotten"),
    [
        (key("old", NOW - 10**7, retire_at=NOW - KEEP_RETIRED_S + 1), False),
        (key("old", NOW - 10**7, retire_at=NOW - KEEP_RETIRED_S), True),
        (key("old", compromised_at=NOW - KEEP_RETIRED_S + 1), False),
        (key("old", compromised_at=NOW - KEEP_RETIRED_S), True),
        (key("old", NOW - 10**7, compromised_at=NOW - 10**7, exp_high_water=NOW - 9), False),
    ],
)
def test_records_are_kept_for_30_days(record: SigningKey, is_forgotten: bool) -> None:
    """People ask which key signed an old token; a private half is not kept for that."""
    then = kept(situation(record, SIGNS, NEXT))
    assert "old" not in then.usable
    assert (then.find("old") is None) is is_forgotten


def test_all_that_is_due_is_one_change() -> None:
    """A server that comes late makes up for it at once, and then has nothing left to do."""
    before = situation(
        key("ancient", NOW - 10**7, retire_at=NOW - KEEP_RETIRED_S),
        key("old", NOW - 90_000, exp_high_water=NOW - 9000),
        key("signs", NOW - 50_000),
        key("next", published_at=None),
    )
    decision = upkeep(before)
    assert kinds(decision) == [
        "forgotten",
        "retirement_set",
        "erased",
        "published",
        "scheduled",
        "made",
    ]
    then = kept(before, "new")
    assert states(then) == {"old": "retired", "signs": "active", "next": "next", "new": "next"}
    assert kinds(upkeep(then)) == ["published"]


def test_upkeep_goes_on_when_something_is_broken_already() -> None:
    """A signing key without its private half must not stop the next one from being published."""
    before = situation(SIGNS, key("next", published_at=None), usable=frozenset({"next"}))
    assert found(kept(before), "next").published_at == NOW


def gap(*keys: SigningKey, stopped_s: int = 3000, **changes: object) -> Situation:
    """A start after no server has run for `stopped_s`."""
    return situation(*keys, serving=Serving(NOW - stopped_s, POLICY), **changes)


def resumed(before: Situation) -> Situation:
    decision = resume(before)
    assert isinstance(decision, Change), decision
    assert violations(before, decision) == ()
    assert set(kinds(decision)) == {"postponed"}
    return after(before, decision)


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        pytest.param(
            key("next", published_at=NOW - 3400), (NOW - 400, None), id="served for 400 s"
        ),
        pytest.param(
            key("next", NOW - 2400, published_at=NOW - 3400),
            (NOW - 400, NOW + 600),
            id="its date came while no server ran",
        ),
        pytest.param(
            key("next", NOW + 5000, published_at=NOW - 3400),
            (NOW - 400, NOW + 5000),
            id="a date that is late enough stands",
        ),
        pytest.param(
            key("next", published_at=NOW - 2900), (NOW, None), id="published after the last word"
        ),
    ],
)
def test_time_without_a_server_does_not_count(
    record: SigningKey, expected: tuple[int, int | None]
) -> None:
    """I2: no verifier could fetch a key that nobody served."""
    then = resumed(gap(SIGNS, record))
    one = found(then, "next")
    assert (one.published_at, one.activate_at) == expected
    assert states(then) == {"signs": "active", "next": "next"}


@pytest.mark.parametrize(
    "record",
    [
        pytest.param(key("next", published_at=NOW - 4000), id="known before they stopped"),
        pytest.param(key("next", NOW - 2500, published_at=NOW - 4000), id="and dated"),
        pytest.param(key("next", NOW - 3000, published_at=NOW - 3400), id="it signed already"),
        pytest.param(key("next", NOW - 100, published_at=NOW - 400), id="forced by command"),
        pytest.param(key("next", NOW + 3, published_at=NOW - 400), id="forced, clock ahead"),
        pytest.param(key("next", published_at=None), id="never served"),
        pytest.param(key("next", compromised_at=NOW - 9, published_at=NOW - 10), id="compromised"),
    ],
)
def test_a_start_leaves_alone_what_is_right(record: SigningKey) -> None:
    """Only a lead that was cut short is counted anew; what an operator forced stays."""
    assert resume(gap(SIGNS, record, key("other"))) is NOTHING_DUE


def test_a_short_gap_is_no_gap() -> None:
    """A restart within two heartbeats is what verifiers' caches bridge anyway."""
    patience_s = 2 * POLICY.heartbeat_s + SETTLE_S
    young = key("next", published_at=NOW - 300)
    assert resume(gap(SIGNS, young, stopped_s=patience_s)) is NOTHING_DUE
    assert resume(gap(SIGNS, young, stopped_s=patience_s + 1)) is not NOTHING_DUE
    assert resume(situation(SIGNS, young)) is NOTHING_DUE


def test_a_key_whose_date_came_in_the_gap_signs_on_when_nothing_else_can() -> None:
    """Some verifiers may not know it; but without it nobody could issue at all (I5)."""
    dated = key("dated", NOW - 2400, published_at=NOW - 3400)
    assert resume(gap(dated, NEXT)) is NOTHING_DUE
    assert resume(gap(SIGNS, dated, NEXT, usable=frozenset({"dated", "next"}))) is NOTHING_DUE


def test_two_dates_that_came_in_the_gap_are_both_put_off() -> None:
    """A command dated the second one while no server ran: the key that was known signs on."""
    one = key("one", NOW - 2400, published_at=NOW - 3400)
    two = key("two", NOW - 1400, published_at=NOW - 3400)
    then = resumed(gap(SIGNS, one, two, NEXT))
    assert states(then) == {"signs": "active", "one": "next", "two": "next", "next": "next"}


def test_the_key_that_signs_on_loses_its_date_to_leave() -> None:
    """It was set for the time after a switch that is put off now."""
    leaving = replace(SIGNS, retire_at=NOW + 300)
    then = resumed(gap(leaving, key("dated", NOW - 2400, published_at=NOW - 3400), NEXT))
    assert states(then) == {"signs": "active", "dated": "next", "next": "next"}
    assert found(then, "signs").retire_at is None


def test_a_keyring_that_nobody_has_served_starts_its_lead_now() -> None:
    """Keys of the release before, or brought from another store: their dates of publication tell
    nothing of what verifiers could fetch here."""
    then = resumed(situation(SIGNS, key("dated", NOW + 900), NEXT, serving=None))
    assert found(then, "dated").published_at == found(then, "next").published_at == NOW
    assert found(then, "dated").activate_at == NOW + 1000
    assert found(then, "signs") == SIGNS


def test_a_longer_lead_holds_for_a_rotation_under_way() -> None:
    """KEY_LEAD was raised between two starts: verifiers need so long, so the date moves."""
    dated = key("dated", NOW + 600, published_at=NOW - 400)
    longer = replace(POLICY, lead_s=5000)
    then = resumed(situation(SIGNS, dated, NEXT, policy=longer))
    assert found(then, "dated").activate_at == NOW - 400 + 5000
    assert resume(situation(SIGNS, dated, NEXT)) is NOTHING_DUE


def test_longer_tokens_move_the_marks_of_the_next_switch() -> None:
    """ACCESS_TOKEN_TTL was raised: the mark is set with the date, by the policy of today."""
    before = situation(
        key("signs", NOW - 19_000), NEXT, policy=replace(POLICY, access_token_ttl_s=7000)
    )
    assert found(kept(before), "next").exp_high_water == NOW + 1000 + 7000 + HEAD_ROOM_S


def test_two_starts_at_once_delay_by_a_lead_at_most() -> None:
    """The second counts the same gap again: late is safe, and there is an end to it."""
    young = key("next", published_at=NOW - 3400)
    now = resumed(gap(SIGNS, young))
    for _ in range(3):
        decision = resume(now)
        now = after(now, decision) if isinstance(decision, Change) else now
    assert found(now, "next").published_at == NOW
    assert now.may_sign_from(found(now, "next")) == NOW + 1000
