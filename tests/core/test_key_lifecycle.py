"""States of signing keys: which signs, which are published, in what order."""

from collections.abc import Sequence

import pytest
from hypothesis import assume, given, reject
from hypothesis import strategies as st

from token_server.core.key_lifecycle import (
    PUBLISHED_STATES,
    key_state,
    key_states,
    published_keys,
    signing_key,
)
from token_server.records import KeyState, SigningKey

NOW = 1_000


def key(
    kid: str,
    activate_at: int | None = None,
    retire_at: int | None = None,
    compromised_at: int | None = None,
    created_at: int = 0,
) -> SigningKey:
    return SigningKey(
        kid=kid,
        alg="RS256",
        bits=2048,
        n=3,
        e=65537,
        created_at=created_at,
        published_at=created_at,
        activate_at=activate_at,
        retire_at=retire_at,
        exp_high_water=None,
        compromised_at=compromised_at,
    )


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        pytest.param([key("a")], {"a": "next"}, id="a key without a date waits"),
        pytest.param([key("a", NOW + 1)], {"a": "next"}, id="a key with a future date waits"),
        pytest.param([key("a", NOW)], {"a": "active"}, id="a key signs from its very second"),
        pytest.param(
            [key("a", NOW - 10), key("b")], {"a": "active", "b": "next"}, id="the first start"
        ),
        pytest.param(
            [key("a", NOW - 10), key("b", NOW - 5), key("c")],
            {"a": "retiring", "b": "active", "c": "next"},
            id="the later activation takes over",
        ),
        pytest.param(
            [key("a", NOW - 10, NOW + 1), key("b", NOW - 5)],
            {"a": "retiring", "b": "active"},
            id="an old key verifies until its date",
        ),
        pytest.param(
            [key("a", NOW - 10, NOW), key("b", NOW - 5)],
            {"a": "retired", "b": "active"},
            id="a key leaves in its very second",
        ),
        pytest.param(
            [key("a", NOW - 10), key("b", NOW - 5, compromised_at=NOW - 1)],
            {"a": "active", "b": "compromised"},
            id="a compromised key never signs",
        ),
        pytest.param(
            [key("a", NOW - 10, compromised_at=NOW + 100)],
            {"a": "compromised"},
            id="compromise does not wait for the clock",
        ),
        pytest.param(
            [key("a", NOW - 10, NOW - 1, compromised_at=NOW - 5)],
            {"a": "compromised"},
            id="compromise is remembered after retirement",
        ),
        pytest.param(
            [key("a", NOW - 10, NOW + 99), key("b", NOW + 5)],
            {"a": "active", "b": "next"},
            id="a key with a date to leave signs until the next one's date",
        ),
        pytest.param(
            [key("a", NOW - 5), key("b", NOW - 5, created_at=1)],
            {"a": "retiring", "b": "active"},
            id="the younger of two activated together signs",
        ),
        pytest.param([], {}, id="no keys"),
    ],
)
def test_state_follows_from_instants_and_clock(
    keys: list[SigningKey], expected: dict[str, str]
) -> None:
    """Each key's state is a function of the records and the clock, whatever the records' order."""
    assert key_states(keys, NOW) == expected
    assert key_states(list(reversed(keys)), NOW) == expected


def test_nothing_signs_before_the_first_activation() -> None:
    """A clock behind the first activation finds no key, not a key that is not due."""
    assert signing_key([key("a", NOW), key("b")], NOW - 1) is None


def test_nothing_signs_when_every_activated_key_is_compromised() -> None:
    """An undated key does not begin to sign by itself: giving it a date is a decision."""
    assert signing_key([key("a", NOW, compromised_at=NOW), key("b")], NOW) is None


def test_compromised_and_retired_keys_are_not_published() -> None:
    """The JWKS holds what may verify, and nothing else."""
    keys = [
        key("gone", NOW - 30, NOW - 1),
        key("bad", NOW - 20, compromised_at=NOW),
        key("old", NOW - 15, NOW + 5),
        key("now", NOW - 10),
        key("soon", NOW + 10),
        key("later"),
    ]
    assert [found.kid for found in published_keys(keys, NOW)] == ["old", "now", "soon", "later"]


def test_giving_the_waiting_key_a_date_does_not_move_it() -> None:
    """Planning a rotation changes no byte of the JWKS, so no ETag and no cached copy."""
    before = [key("b", NOW - 10), key("a")]
    after = [key("b", NOW - 10), key("a", NOW + 100)]
    at_once = [found.kid for found in published_keys(before, NOW)]
    assert at_once == ["b", "a"]
    assert [found.kid for found in published_keys(after, NOW)] == at_once
    assert [found.kid for found in published_keys(after, NOW + 100)] == at_once


nows = st.integers(0, 25)
instants = st.none() | st.integers(0, 20)
keyrings = st.lists(st.tuples(instants, instants, instants, st.integers(0, 3)), max_size=6).map(
    lambda rows: [key(f"k{index}", *row) for index, row in enumerate(rows)]
)


@given(keyrings.flatmap(lambda keys: st.tuples(st.just(keys), st.permutations(keys))), nows)
def test_signing_key_is_the_one_active_key_and_published(
    orders: tuple[list[SigningKey], list[SigningKey]], now: int
) -> None:
    """At most one key is active, it is the one that signs, and it is always in the JWKS."""
    keys, shuffled = orders
    signing = signing_key(keys, now)
    active = [kid for kid, state in key_states(keys, now).items() if state is KeyState.ACTIVE]
    assert active == ([] if signing is None else [signing.kid])
    assert signing is None or signing in published_keys(keys, now)
    assert signing_key(shuffled, now) == signing
    assert published_keys(shuffled, now) == published_keys(keys, now)


@given(keyrings, nows)
def test_published_keys_are_those_in_a_published_state(keys: list[SigningKey], now: int) -> None:
    """The JWKS and the states never tell two stories."""
    published = {found.kid for found in published_keys(keys, now)}
    assert published == {k for k, s in key_states(keys, now).items() if s in PUBLISHED_STATES}


ORDER: Sequence[KeyState] = (
    KeyState.NEXT,
    KeyState.ACTIVE,
    KeyState.RETIRING,
    KeyState.RETIRED,
)


def _order(found: SigningKey) -> tuple[int, int, str]:
    """Which of two keys takes over from the other, also when both have the same date."""
    return (found.activate_at or 0, found.created_at, found.kid)


@given(
    st.lists(st.tuples(st.integers(0, 20), instants), min_size=1, max_size=5).map(
        lambda rows: [key(f"k{index}", *row) for index, row in enumerate(rows)]
    ),
    nows,
    nows,
)
def test_states_only_move_forward_while_nothing_retires_early(
    keys: list[SigningKey], earlier: int, later: int
) -> None:
    """As time passes a key goes next, active, retiring, retired, and skips but never returns,
    unless a later key retires while it should sign."""
    earlier, later = sorted((earlier, later))
    signing = signing_key(keys, later)
    if signing is None:
        reject()
    gone = [found for found in keys if key_state(found, keys, later) is KeyState.RETIRED]
    assume(all(_order(one) <= _order(signing) for one in gone))
    for found in keys:
        before = ORDER.index(key_state(found, keys, earlier))
        assert before <= ORDER.index(key_state(found, keys, later))
