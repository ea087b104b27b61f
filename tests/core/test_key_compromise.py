"""Compromise as a decision: the bad key is out at once, and something known signs."""

import pytest

from tests.support.key_situations import NOW, POLICY, after, key, kinds, situation, states
from token_server.core.key_changes import Change, NewKey, Refused, Unchanged, Violation
from token_server.core.key_compromise import compromise_all, compromise_key
from token_server.core.key_invariants import violations
from token_server.core.key_lifecycle import published_keys, superseded_at
from token_server.core.key_policy import Serving
from token_server.core.key_upkeep import resume, upkeep
from token_server.records import KeyState, SigningKey

SKEW_S = 5
OLD, SIGNS, DATED, NEXT = (
    key("old", NOW - 5000),
    key("signs", NOW - 50),
    key("dated", NOW + 500),
    key("next"),
)


@pytest.mark.parametrize(
    ("keys", "bad", "expected", "steps"),
    [
        pytest.param(
            (OLD, SIGNS, NEXT),
            "signs",
            {"old": "retiring", "signs": "compromised", "next": "active", "made-0": "next"},
            ["compromised", "activated", "made"],
            id="the key that signs",
        ),
        pytest.param(
            (SIGNS, DATED, NEXT),
            "signs",
            {"signs": "compromised", "dated": "active", "next": "next"},
            ["compromised", "activated"],
            id="the key that signs, during a rotation",
        ),
        pytest.param(
            (OLD, SIGNS),
            "signs",
            {"old": "retiring", "signs": "compromised", "made-0": "active", "made-1": "next"},
            ["compromised", "made", "made"],
            id="the key that signs, with none to follow",
        ),
        pytest.param(
            (OLD, SIGNS, NEXT),
            "next",
            {"old": "retiring", "signs": "active", "next": "compromised", "made-0": "next"},
            ["compromised", "made"],
            id="the next key",
        ),
        pytest.param(
            (SIGNS, DATED, NEXT),
            "next",
            {"signs": "active", "dated": "next", "next": "compromised", "made-0": "next"},
            ["compromised", "made"],
            id="the next key, during a rotation: one must wait after the switch",
        ),
        pytest.param(
            (SIGNS, DATED, NEXT),
            "dated",
            {"signs": "active", "dated": "compromised", "next": "next"},
            ["compromised", "cancelled"],
            id="the key with a date",
        ),
        pytest.param(
            (OLD, SIGNS, NEXT),
            "old",
            {"old": "compromised", "signs": "active", "next": "next"},
            ["compromised"],
            id="a key that only verifies",
        ),
        pytest.param(
            (key("gone", NOW - 9000, retire_at=NOW - 1), SIGNS, NEXT),
            "gone",
            {"gone": "compromised", "signs": "active", "next": "next"},
            ["compromised"],
            id="a key that is out of the JWKS: caches may hold it",
        ),
    ],
)
def test_compromised_key_is_out_and_one_key_signs(
    keys: tuple[SigningKey, ...], bad: str, expected: dict[str, str], steps: list[str]
) -> None:
    """From that second it neither signs nor is published, and its private half is erased."""
    before = situation(*keys)
    decision = compromise_key(before, bad)
    then = after(before, decision)
    assert states(then) == expected
    assert kinds(decision) == steps
    assert bad not in then.usable
    assert bad not in {one.kid for one in published_keys(then.keys, NOW)}
    assert isinstance(decision, Change)
    broken = {rule.invariant for rule in violations(before, decision)}
    assert broken <= {"I2"}, "it may hurry verifiers, and breaks nothing else"


def test_compromise_of_a_known_successor_breaks_no_rule() -> None:
    """The usual case hurts nobody but the tokens of the bad key: the next key is known."""
    before = situation(SIGNS, NEXT)
    decision = compromise_key(before, "signs")
    assert isinstance(decision, Change)
    assert violations(before, decision) == ()


def test_successor_signs_on_clocks_that_are_behind() -> None:
    """Within the skew of clocks there is no second in which nothing signs."""
    for keys in ((SIGNS, NEXT), (SIGNS,)):
        before = situation(*keys)
        then = after(before, compromise_key(before, "signs"))
        at_once = [one for one in then.keys if one.activate_at == NOW - SKEW_S]
        assert [then.state(one) for one in at_once] == [KeyState.ACTIVE]


@pytest.mark.parametrize("ago_s", [0, 1, 3, 5, 6])
def test_successor_takes_over_from_a_key_that_has_just_begun(ago_s: int) -> None:
    """Neither the bad key's own last-second switch nor another's confuses who signs next."""
    before = situation(key("z", NOW - ago_s), key("signs", NOW - ago_s, created_at=NOW), NEXT)
    assert states(before)["signs"] == "active"
    then = after(before, compromise_key(before, "signs"))
    assert states(then) == {
        "z": "retiring",
        "signs": "compromised",
        "next": "active",
        "made-0": "next",
    }
    successor = then.find("next")
    assert successor is not None
    assert superseded_at(successor, then.keys, NOW) is None
    # Nor is it thought of as replaced long ago once it is replaced.
    assert not any(step.kid == "next" for step in getattr(upkeep(then), "steps", ()))


def test_compromise_on_a_clock_before_the_first_activation_leaves_a_successor() -> None:
    """When the clock is right again something must sign."""
    before = situation(key("first", NOW + 500), NEXT)
    then = after(before, compromise_key(before, "first"))
    assert states(then) == {"first": "compromised", "next": "active", "made-0": "next"}


def test_repeated_compromise_changes_nothing() -> None:
    """Safe to repeat, from two hosts as well."""
    before = situation(SIGNS, NEXT)
    then = after(before, compromise_key(before, "signs"))
    why = "signs was marked as compromised before"
    assert compromise_key(then, "signs") == Unchanged(why)


def test_compromise_of_an_unknown_key_is_refused() -> None:
    """A typing error must not look like a done deed; there is nothing to force."""
    why = "no key is called typo: `keys list` names them"
    expected = Refused((Violation("", why),), can_be_forced=False)
    assert compromise_key(situation(SIGNS, NEXT), "typo") == expected


def test_compromise_of_all_leaves_nothing_of_the_old_keys() -> None:
    """Whoever read the host has the next key, too: a new one signs at once, unpublished."""
    gone = key("gone", NOW - 9000, retire_at=NOW - 1)
    bad = key("bad", NOW - 9000, compromised_at=NOW - 700)
    before = situation(gone, bad, OLD, SIGNS, DATED, NEXT)
    decision = compromise_all(before)
    then = after(before, decision, "x", "y")
    assert isinstance(decision, Change)
    assert [one.kid for one in published_keys(then.keys, NOW)] == ["x", "y"]
    assert then.signing is not None
    assert then.signing.kid == "x"
    assert then.usable == {"x", "y"}
    found = then.find("bad")
    assert found is not None
    assert found.compromised_at == NOW - 700, "when it was found out stays on record"
    assert decision.new_keys == (NewKey(activate_at=NOW - SKEW_S), NewKey())
    assert {rule.invariant for rule in violations(before, decision)} == {"I2"}


def test_compromise_of_all_again_drops_the_new_keys_too() -> None:
    """A kill in the middle is answered by doing it again."""
    before = situation(SIGNS, NEXT)
    once = after(before, compromise_all(before), "x", "y")
    twice = after(once, compromise_all(once), "z", "w")
    assert states(twice) == {
        "signs": "compromised",
        "next": "compromised",
        "x": "compromised",
        "y": "compromised",
        "z": "active",
        "w": "next",
    }


def test_forced_successor_survives_the_next_start() -> None:
    """A compromise while no server ran is not undone as "served too briefly" (I2)."""
    young = key("next", published_at=NOW - 3100)
    before = situation(OLD, SIGNS, young, serving=Serving(NOW - 3000, POLICY))
    then = after(before, compromise_key(before, "signs"))
    decision = resume(then)
    started = after(then, decision) if isinstance(decision, Change) else then
    assert states(started)["next"] == "active"
