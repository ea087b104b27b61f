"""Each rule refuses the change that would break it, says why, and from when it is allowed."""

from dataclasses import replace

import pytest

from tests.support.key_situations import NOW, POLICY, SETTLE_S, key, situation
from token_server.core.key_changes import Change, NewKey, Situation, Violation
from token_server.core.key_invariants import violations
from token_server.core.key_policy import Serving
from token_server.core.key_rotation import activate_next
from token_server.records import SigningKey

OLD, SIGNS, NEXT = key("old", NOW - 9000), key("signs", NOW - 500), key("next")
TOO_SOON = (
    "next was served for {} s of the 1000 s of KEY_LEAD: verifiers with older copies of the JWKS "
    "would refuse its tokens"
)


def change(*keys: SigningKey, **values: object) -> Change:
    return replace(Change(keys, ()), **values)  # type: ignore[arg-type]  # a test's shorthand


def promotion(record: SigningKey, **changes: object) -> tuple[Situation, Change]:
    before = situation(OLD, SIGNS, record, key("other"), **changes)
    promoted = activate_next(before, "why")
    assert isinstance(promoted, Change)
    return before, promoted


def test_a_change_of_nothing_breaks_nothing() -> None:
    """The rules hold for a keyring at work."""
    assert violations(situation(OLD, SIGNS, NEXT), change(OLD, SIGNS, NEXT)) == ()


@pytest.mark.parametrize(
    "broken",
    [
        pytest.param(change(OLD, SIGNS, replace(NEXT, activate_at=NOW)), id="it signs"),
        pytest.param(change(OLD, SIGNS, NEXT, erased=frozenset({"next"})), id="it is erased"),
        pytest.param(change(OLD, SIGNS, replace(NEXT, compromised_at=NOW)), id="compromised"),
    ],
)
def test_i1_a_next_key_must_wait(broken: Change) -> None:
    """Without one an emergency would break every verifier."""
    found = violations(situation(OLD, SIGNS, NEXT), broken)
    assert Violation("I1", "no next key would wait: even an emergency needs one") in found


@pytest.mark.parametrize(
    ("published_at", "served_s", "allowed_at"),
    [(NOW - 1, 1, NOW + 999), (NOW - 999, 999, NOW + 1), (NOW, 0, NOW + 1000)],
)
def test_i2_a_key_signs_only_after_its_lead(
    published_at: int, served_s: int, allowed_at: int
) -> None:
    """The refusal names the instant from which the very same change is allowed."""
    record = key("next", NOW + 5000, published_at=published_at)
    before, promoted = promotion(record)
    assert violations(before, promoted) == (Violation("I2", TOO_SOON.format(served_s), allowed_at),)
    for now, is_allowed in ((allowed_at - 1, False), (allowed_at, True)):
        later = replace(before, now=now, serving=Serving(now, POLICY))
        again = activate_next(later, "why")
        assert isinstance(again, Change)
        assert (violations(later, again) == ()) is is_allowed


def test_i2_time_without_a_server_allows_nothing() -> None:
    """However long one waits: the instant depends on when a server runs again."""
    record = key("next", NOW + 5000, published_at=NOW - 3400)
    before, promoted = promotion(record, serving=Serving(NOW - 3000, POLICY))
    why = f"{TOO_SOON.format(400)}; no server runs, and time in which none runs does not count"
    assert violations(before, promoted) == (Violation("I2", why),)


def test_i2_a_key_that_nobody_served_cannot_sign() -> None:
    """There is no instant to name before a server has published it."""
    before, promoted = promotion(key("next", NOW + 5, published_at=None))
    why = "next has not been served yet: start a server, then wait for KEY_LEAD"
    assert violations(before, promoted) == (Violation("I2", why),)


def test_i2_a_date_for_an_unserved_key_is_allowed() -> None:
    """It is put off when the key is served later than planned."""
    unserved = replace(NEXT, published_at=None)
    before = situation(OLD, SIGNS, unserved, key("other"))
    dated = replace(unserved, activate_at=NOW + 1000)
    assert violations(before, change(OLD, SIGNS, dated, key("other"))) == ()


def test_i2_a_new_key_must_not_sign_at_once() -> None:
    """Except on the very first start, when there is no verifier yet."""
    why = "a key that was never published would sign: no verifier knows it"
    made = change(OLD, SIGNS, NEXT, new_keys=(NewKey(activate_at=NOW),))
    assert violations(situation(OLD, SIGNS, NEXT), made) == (Violation("I2", why),)
    first = change(new_keys=(NewKey(activate_at=NOW), NewKey()))
    assert violations(situation(), first) == ()


def test_i2_a_key_that_has_signed_is_known() -> None:
    """Rolling back asks for no lead, however young the key is."""
    young = key("old", NOW - 90, published_at=NOW - 95)
    before = situation(young, key("signs", NOW - 50), NEXT)
    again = replace(young, activate_at=NOW)
    assert violations(before, change(again, key("signs", NOW - 50), NEXT)) == ()


@pytest.mark.parametrize(("retire_at", "is_allowed"), [(NOW + 804, False), (NOW + 805, True)])
def test_i4_a_key_leaves_after_its_last_token(retire_at: int, is_allowed: bool) -> None:
    """Its mark, the skew of clocks and the time that caches live."""
    old = replace(OLD, exp_high_water=NOW + 700)
    before = situation(old, SIGNS, NEXT)
    found = violations(before, change(replace(old, retire_at=retire_at), SIGNS, NEXT))
    why = "tokens signed by old would still live"
    assert found == (() if is_allowed else (Violation("I4", why, NOW + 805),))


def test_i4_a_raised_mark_moves_the_retirement() -> None:
    """Either alone would leave tokens without their key."""
    old = replace(OLD, exp_high_water=NOW + 700, retire_at=NOW + 805)
    before = situation(old, SIGNS, NEXT)
    found = violations(before, change(replace(old, exp_high_water=NOW + 701), SIGNS, NEXT))
    assert found == (Violation("I4", "tokens signed by old would still live", NOW + 806),)


def test_i4_a_mark_is_never_lowered() -> None:
    """Tokens up to the old mark may be out."""
    signs = replace(SIGNS, exp_high_water=NOW + 700)
    for mark in (NOW + 699, None):
        found = violations(
            situation(OLD, signs, NEXT), change(OLD, replace(signs, exp_high_water=mark), NEXT)
        )
        why = "tokens signed by signs may live beyond its lowered mark"
        assert found == (Violation("I4", why),)


@pytest.mark.parametrize("kid", ["old", "next"])
def test_i4_a_published_record_must_not_vanish(kid: str) -> None:
    """Only what is out of the JWKS is forgotten."""
    before = situation(OLD, SIGNS, NEXT, key("other"))
    kept = tuple(one for one in before.keys if one.kid != kid)
    assert violations(before, change(*kept)) == (
        Violation("I4", f"{kid} would vanish from the JWKS"),
    )


def test_i5_some_key_must_sign() -> None:
    """A change that leaves none is refused."""
    before = situation(SIGNS, NEXT)
    found = violations(before, change(replace(SIGNS, compromised_at=NOW), NEXT))
    assert found == (Violation("I5", "no key would sign"),)


def test_i5_the_key_that_signs_has_its_private_half() -> None:
    """Going back to a key whose private half is erased would stop all issuing."""
    before = situation(OLD, SIGNS, NEXT, usable=frozenset({"signs", "next"}))
    found = violations(before, change(OLD, replace(SIGNS, activate_at=None), NEXT))
    assert found == (Violation("I5", "old would sign, but has no private half"),)


def test_i5_the_key_that_signs_stays_published() -> None:
    """It would stop at its date, with nothing to follow."""
    leaving = replace(OLD, retire_at=NOW + 9000)
    before = situation(leaving, SIGNS, NEXT)
    found = violations(before, change(leaving, replace(SIGNS, activate_at=NOW + 99), NEXT))
    assert found == (Violation("I5", "old would leave the JWKS while it signs"),)


def test_i5_a_compromised_key_stays_so() -> None:
    """No change makes a stolen key good again."""
    bad = replace(OLD, compromised_at=NOW - 9)
    found = violations(situation(bad, SIGNS, NEXT), change(OLD, SIGNS, NEXT))
    assert found == (Violation("I5", "old is compromised and stays so"),)


def test_i6_a_private_half_stays_while_it_may_be_rolled_back_to() -> None:
    """The refusal names the end of the window."""
    before = situation(OLD, SIGNS, NEXT)
    found = violations(before, change(OLD, SIGNS, NEXT, erased=frozenset({"old"})))
    assert found == (Violation("I6", "old may still be rolled back to", NOW + 500),)


@pytest.mark.parametrize("kid", ["signs", "next"])
def test_i6_a_private_half_that_is_needed_is_not_erased(kid: str) -> None:
    """Neither the key that signs nor one that will."""
    before = situation(OLD, SIGNS, NEXT, key("other"))
    found = violations(before, change(*before.keys, erased=frozenset({kid})))
    assert Violation("I6", f"{kid} is needed to sign") in found


def test_a_change_is_not_blamed_for_what_was_broken_before() -> None:
    """Else a keyring without a next key, or with a lost private half, could never be mended."""
    alone = replace(SIGNS, exp_high_water=NOW)
    raised = replace(SIGNS, exp_high_water=NOW + 999)
    assert violations(situation(alone), change(raised)) == ()
    assert violations(situation(alone, usable=frozenset()), change(raised)) == ()


def test_least_lead_covers_two_caches_and_the_settling() -> None:
    """2 x JWKS_MAX_AGE + KEY_RELOAD_INTERVAL + CLOCK_SKEW (I2)."""
    assert POLICY.least_lead_s == 2 * 100 + SETTLE_S
