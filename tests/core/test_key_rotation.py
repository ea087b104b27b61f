"""Rotations as decisions: what is dated, what signs, what can be taken back."""

from dataclasses import replace

import pytest

from tests.support.key_situations import (
    HEAD_ROOM_S,
    NOW,
    POLICY,
    after,
    key,
    kinds,
    situation,
    states,
)
from token_server.core.key_changes import Change, Refused, Situation, Unchanged, Violation
from token_server.core.key_invariants import violations
from token_server.core.key_policy import LONGEST_TOKEN_S, Serving
from token_server.core.key_rotation import (
    activate_next,
    cover,
    roll_back,
    rotation_due_at,
    schedule,
    start_rotation,
)
from token_server.records import SigningKey

AT_WORK = (key("a", NOW - 5000), key("b"))
SKEW_S = 5
LATE = NOW + 10**6  # an old key's mark, above all that a policy would set


def change(before: Situation, decision: object) -> Situation:
    """The situation afterwards, for a change that breaks no rule."""
    assert isinstance(decision, Change), decision
    assert violations(before, decision) == ()
    return after(before, decision, "c", "d")


def found(after_it: Situation, kid: str) -> SigningKey:
    one = after_it.find(kid)
    assert one is not None
    return one


def test_rotation_dates_the_next_key_and_makes_another() -> None:
    """One lead from now, with its high-water mark, and the key after it is made at once (I1)."""
    before = situation(*AT_WORK)
    decision = start_rotation(before)
    then = change(before, decision)
    assert kinds(decision) == ["scheduled", "made"]
    dated = found(then, "b")
    assert dated.activate_at == NOW + POLICY.lead_s
    assert dated.exp_high_water == NOW + 1000 + 200 + HEAD_ROOM_S
    assert states(then) == {"a": "active", "b": "next", "c": "next"}
    later = replace(then, now=NOW + 1000)
    assert states(later) == {"a": "retiring", "b": "active", "c": "next"}


def test_rotation_under_way_is_not_begun_again() -> None:
    """`rotate` from cron and from two hosts at once is one rotation (keys.md, commands)."""
    before = situation(*AT_WORK)
    then = change(before, start_rotation(before))
    assert start_rotation(then) == Unchanged("a rotation is under way: b has its date")


def test_next_keys_do_not_pile_up() -> None:
    """Rotations that are taken back and begun again leave the JWKS as long as it was."""
    now = situation(*AT_WORK)
    for _ in range(3):
        now = change(now, start_rotation(now))
        assert states(now) == {"a": "active", "b": "next", "c": "next"}
        now = change(now, roll_back(now))
    assert [one.activate_at for one in now.keys] == [NOW - 5000, None, None]


def test_rotation_without_a_next_key_makes_one_first() -> None:
    """Nothing to rotate to is mended, not refused."""
    for decide in (start_rotation, lambda now: activate_next(now, "why")):
        before = situation(key("a", NOW - 5000))
        decision = decide(before)
        then = change(before, decision)
        assert kinds(decision) == ["made"]
        assert states(then) == {"a": "active", "c": "next"}


@pytest.mark.parametrize(
    ("published_at", "served_at", "asked_at", "expected"),
    [
        pytest.param(NOW - 5000, NOW, NOW + 1000, NOW + 1000, id="known to all"),
        pytest.param(NOW - 300, NOW, NOW + 10, NOW + 700, id="not before its lead is over"),
        pytest.param(None, NOW, NOW + 10, NOW + 10, id="not served: postponed when it is"),
        pytest.param(NOW - 900, NOW - 800, NOW + 10, NOW + 900, id="time without a server"),
        pytest.param(
            NOW - 300, NOW - 800, NOW + 10, NOW + 1000, id="published after the last word"
        ),
        pytest.param(NOW - 5000, NOW - 800, NOW + 10, NOW + 10, id="known before the servers went"),
        pytest.param(NOW + 99, NOW, NOW + 10, NOW + 1000, id="at most one lead from now"),
    ],
)
def test_no_date_is_earlier_than_the_lead_allows(
    published_at: int | None, served_at: int, asked_at: int, expected: int
) -> None:
    """I2 is kept by choosing the date, whatever date was asked for."""
    before = situation(
        key("a", NOW - 5000),
        key("b", published_at=published_at),
        serving=Serving(served_at, POLICY),
    )
    then = change(before, schedule(before, asked_at, "why"))
    assert found(then, "b").activate_at == expected


def test_the_key_that_verifiers_know_longest_is_next() -> None:
    """Dated before undated, served before unserved, then by age: an imported key waits its turn."""
    keys = (
        key("a", NOW - 5000),
        key("imported", created_at=0, published_at=None),
        key("young", published_at=NOW - 10),
        key("old", published_at=NOW - 900),
        key("dated", NOW + 9, published_at=NOW - 5),
    )
    assert [one.kid for one in situation(*keys).waiting] == ["dated", "old", "young", "imported"]


def test_keys_without_a_private_half_do_not_wait() -> None:
    """What cannot sign is not rotated to."""
    before = situation(*AT_WORK, usable=frozenset({"a"}))
    assert before.waiting == ()
    assert kinds(start_rotation(before)) == ["made"]


def test_promotion_lets_the_next_key_sign_now() -> None:
    """The switch is the change itself; the replaced key verifies on."""
    before = situation(*AT_WORK)
    decision = activate_next(before, "why")
    then = change(before, decision)
    assert kinds(decision) == ["activated", "made"]
    assert states(then) == {"a": "retiring", "b": "active", "c": "next"}
    assert found(then, "b").activate_at == NOW - SKEW_S, "it signs where clocks are behind, too"
    assert found(then, "b").exp_high_water == NOW - SKEW_S + 200 + HEAD_ROOM_S


def test_promotion_during_a_rotation_takes_the_dated_key() -> None:
    """The key whose date stands already is the one that is known longest; no third one is made."""
    before = situation(*AT_WORK)
    then = change(before, start_rotation(before))
    decision = activate_next(then, "why")
    assert kinds(decision) == ["activated"]
    assert states(change(then, decision)) == {"a": "retiring", "b": "active", "c": "next"}


@pytest.mark.parametrize("kid", ["0", "z"])
def test_switches_within_one_second_all_count(kid: str) -> None:
    """The order of activations is in seconds, and a kid must not decide who signs."""
    now = situation(key("a", NOW, created_at=NOW), key(kid, created_at=NOW), key("m"))
    served = now.waiting[0].kid
    for _ in range(4):
        then = after(now, activate_next(now, "why"), f"{kid}{served}")
        assert then.signing is not None
        assert then.signing.kid == served
        assert then.signing.activate_at == NOW - SKEW_S
        now, served = then, then.waiting[0].kid
    back = after(now, roll_back(now))
    assert back.signing is not None
    assert now.signing is not None
    assert back.signing.kid != now.signing.kid


def test_forced_promotion_of_an_unserved_key_makes_it_published() -> None:
    """It signs, so it is in the JWKS from that second."""
    before = situation(key("a", NOW - 5000), key("b", published_at=None))
    then = after(before, activate_next(before, "why"))
    assert found(then, "b").published_at == NOW
    assert states(then)["b"] == "active"


def test_rollback_of_a_rotation_under_way_takes_the_date() -> None:
    """Nothing signed with the key yet, so nothing else changes."""
    before = situation(*AT_WORK)
    then = change(before, start_rotation(before))
    decision = roll_back(then)
    undone = change(then, decision)
    assert kinds(decision) == ["cancelled"]
    assert found(undone, "b").activate_at is None
    assert undone.dated is None


@pytest.mark.parametrize(("age_s", "is_due"), [(5000, False), (18_999, False), (19_000, True)])
def test_rollback_says_when_a_server_will_begin_again(age_s: int, is_due: bool) -> None:
    """A due rotation that is taken back is only put off: the operator reads so at once."""
    before = situation(key("a", NOW - age_s), key("b", NOW + 500))
    decision = roll_back(before)
    assert isinstance(decision, Change)
    assert ("a server dates it again" in decision.steps[0].why) is is_due


def test_rollback_after_the_switch_goes_to_the_key_before() -> None:
    """Known to every verifier, it signs at once; its date to leave is taken off."""
    old = key("a", NOW - 5000, retire_at=NOW + 900, exp_high_water=LATE)
    before = situation(old, key("b", NOW - 50), key("c"))
    then = change(before, roll_back(before))
    assert states(then) == {"a": "active", "b": "retiring", "c": "next"}
    again = found(then, "a")
    assert (again.activate_at, again.retire_at) == (NOW - SKEW_S, None)
    assert again.exp_high_water == LATE, "tokens that live so long were signed with it (I4)"


def test_rollback_done_twice_switches_forth() -> None:
    """Both keys are known, so neither direction harms; the second is the first one's undoing."""
    before = situation(key("a", NOW - 5000), key("b", NOW - 50), key("c"))
    then = change(before, roll_back(before))
    forth = change(then, roll_back(then))
    assert states(forth) == states(before)


def test_rollback_goes_to_the_key_that_was_replaced_last() -> None:
    """Not to an older one that is still there."""
    before = situation(key("a", NOW - 90), key("b", NOW - 60), key("c", NOW - 30), key("d"))
    then = change(before, roll_back(before))
    assert states(then) == {"a": "retiring", "b": "active", "c": "retiring", "d": "next"}


@pytest.mark.parametrize(
    ("keys", "usable", "why"),
    [
        pytest.param(
            AT_WORK, "ab", "no key was replaced that could sign again", id="never rotated"
        ),
        pytest.param(
            (key("a", NOW - 5000), key("b", NOW - 2000), key("c")),
            "bc",
            "the private half of the key before is erased 1000 s after it was replaced; "
            "rotate forward instead: `keys promote`, or `keys compromise` if the key is bad",
            id="private half erased",
        ),
        pytest.param(
            (key("a", NOW - 5000, retire_at=NOW), key("b", NOW - 2000), key("c")),
            "abc",
            "no key was replaced that could sign again",
            id="out of the JWKS",
        ),
        pytest.param(
            (key("a", NOW - 5000, compromised_at=NOW - 9), key("b", NOW - 2000), key("c")),
            "abc",
            "no key was replaced that could sign again",
            id="compromised",
        ),
        pytest.param(
            (key("a"), key("b")),
            "ab",
            "no key was replaced that could sign again",
            id="nothing signs",
        ),
    ],
)
def test_rollback_to_nothing_is_refused(keys: list[SigningKey], usable: str, why: str) -> None:
    """There is nothing to force (I6)."""
    before = situation(*keys, usable=frozenset(usable))
    assert roll_back(before) == Refused((Violation("I6", why),), can_be_forced=False)


def test_rollback_behind_the_clock_of_the_servers_keeps_the_old_key() -> None:
    """A command whose clock is behind undates a key that signs elsewhere already: the key before
    signs on, so its date to leave goes, or nothing would sign from then on (I5)."""
    before = situation(key("a", NOW - 5000, retire_at=NOW + 60), key("b", NOW + 3), key("c"))
    then = change(before, roll_back(before))
    assert states(then) == {"a": "active", "b": "next", "c": "next"}
    assert found(then, "a").retire_at is None


def test_cover_raises_the_mark_with_head_room() -> None:
    """One write is enough for half a lead of tokens (I4)."""
    before = situation(key("a", NOW - 5000, exp_high_water=NOW + 10), key("b"))
    then = change(before, cover(before, "a", NOW + 200))
    assert found(then, "a").exp_high_water == NOW + 200 + HEAD_ROOM_S
    assert cover(then, "a", NOW + 700) == Unchanged("it is high enough already")
    assert isinstance(cover(then, "a", NOW + 701), Change)


@pytest.mark.parametrize("kid", ["b", "gone"])
def test_cover_of_a_key_that_does_not_sign_changes_nothing(kid: str) -> None:
    """Whoever asks has an old copy, and must look again."""
    assert cover(situation(*AT_WORK), kid, NOW + 200) == Unchanged("another key signs now")


def test_cover_of_a_keyring_without_marks_counts_the_longest_token() -> None:
    """The release before kept no marks: its tokens live for a day at the most."""
    before = situation(key("a", NOW - 5000, exp_high_water=None), key("b"))
    then = change(before, cover(before, "a", NOW + 200))
    assert found(then, "a").exp_high_water == NOW + LONGEST_TOKEN_S


def test_cover_of_a_key_that_is_to_leave_moves_its_date() -> None:
    """On a clock that is behind the one that saw it replaced, its tokens live longer (I4)."""
    leaving = key("a", NOW - 5000, exp_high_water=NOW + 10, retire_at=NOW + 300)
    before = situation(leaving, key("b", NOW + 100), key("c"))
    then = change(before, cover(before, "a", NOW + 200))
    assert found(then, "a").retire_at == NOW + 200 + HEAD_ROOM_S + 5 + 100


def test_due_date_follows_the_key_that_signs() -> None:
    """KEY_ROTATE_EVERY counts from the last switch; without a signing key nothing is due."""
    assert rotation_due_at(situation(*AT_WORK)) == NOW - 5000 + POLICY.rotate_every_s
    assert rotation_due_at(situation(key("b"))) is None
