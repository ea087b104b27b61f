"""Remembered verifications: the same answer as the first time, or none (RFC 7519 4.1.4)."""

import gc
import sys
from collections.abc import Mapping

import pytest

from tests.verify import forge
from token_server.verify import Policy, Reason, TokenError, Verifier

NOW = forge.NOW


class Wall:
    def __init__(self, now: float = NOW) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def caching(wall: Wall, *, size: int = 10, policy: Policy | None = None) -> Verifier:
    return Verifier(
        issuer=forge.ISSUER,
        audience=forge.AUDIENCE,
        keys=forge.key_set(),
        cache_size=size,
        policy=policy or Policy(),
        clock=wall,
    )


def outcome(verifier: Verifier, token: str) -> object:
    try:
        return verifier.verify_sync(token)
    except TokenError as error:
        return error.reason


def test_second_verification_is_remembered() -> None:
    """The very same claims, and a counter says so."""
    verifier = caching(Wall())
    token = forge.token()

    assert verifier.verify_sync(token) is verifier.verify_sync(token)
    stats = verifier.stats()
    assert (stats.cache_hits, stats.cached_tokens, stats.refused) == (1, 1, 0)


def test_cache_can_be_switched_off() -> None:
    """cache_size=0 remembers nothing."""
    verifier = caching(Wall(), size=0)
    token = forge.token()

    assert verifier.verify_sync(token) is not verifier.verify_sync(token)
    assert verifier.stats().cached_tokens == 0


MOMENTS = (
    *(NOW - 900, NOW - 71, NOW - 70, NOW - 41, NOW - 40, NOW - 11, NOW - 10.5, NOW - 10),
    *(NOW - 1, NOW, NOW + 29, NOW + 30, NOW + 60, NOW + 899, NOW + 899.5, NOW + 900),
    *(NOW + 929, NOW + 929.9, NOW + 930, NOW + 10_000, float("nan")),
)


@pytest.mark.parametrize(
    "changes", [{}, {"nbf": NOW + 30}, {"nbf": 0}], ids=["plain", "nbf", "old"]
)
@pytest.mark.parametrize("leeway_s", [0, 30])
def test_remembered_token_is_judged_by_the_clock_as_a_new_one(
    changes: Mapping[str, object], leeway_s: int
) -> None:
    """`exp`, `nbf`, `iat` and leeway hold at each use, also when the clock is set back."""
    policy = Policy(leeway_s=leeway_s)
    wall = Wall(NOW + 60)
    remembering = caching(wall, policy=policy)
    token = forge.token(changes)
    for moment in MOMENTS:
        wall.now = NOW + 60
        assert remembering.verify_sync(token).issued_at == NOW
        wall.now = moment
        fresh = caching(Wall(moment), size=0, policy=policy)
        assert outcome(remembering, token) == outcome(fresh, token), moment
    assert remembering.stats().cache_hits > 10


def test_bad_tokens_are_not_remembered() -> None:
    """Strangers cannot fill the cache, nor push others out of it."""
    verifier = caching(Wall())
    good = forge.token()
    verifier.verify_sync(good)
    for number in range(50):
        outcome(verifier, forge.token(key="other", jti=str(number)))
        outcome(verifier, forge.token(exp=NOW, jti=str(number)))

    assert verifier.stats().cached_tokens == 1
    verifier.verify_sync(good)
    assert verifier.stats().cache_hits == 1


def test_least_recently_used_token_goes_first() -> None:
    """Bounded: one that is used all the time stays."""
    verifier = caching(Wall(), size=3)
    tokens = [forge.token(jti=f"token-{number}") for number in range(6)]
    for token in tokens:
        verifier.verify_sync(token)
        verifier.verify_sync(tokens[0])

    assert verifier.stats().cached_tokens == 3
    before = verifier.stats().cache_hits
    for token in (tokens[0], tokens[5], tokens[4]):
        verifier.verify_sync(token)
    assert verifier.stats().cache_hits == before + 3
    verifier.verify_sync(tokens[1])
    assert verifier.stats().cache_hits == before + 3


def test_token_that_differs_in_one_character_is_another_one() -> None:
    """No prefix, no part and no other spelling finds it."""
    verifier = caching(Wall())
    token = forge.token()
    verifier.verify_sync(token)
    for position in range(0, len(token), 7):
        other = "A" if token[position] != "A" else "B"
        changed = token[:position] + other + token[position + 1 :]
        assert isinstance(outcome(verifier, changed), Reason)
    header, payload, signature = token.split(".")
    for moved in (f"{header}.{payload}{signature[0]}.{signature[1:]}", f"{header}.{payload}."):
        assert isinstance(outcome(verifier, moved), Reason)


def test_claims_cannot_be_changed_for_the_next_request() -> None:
    """They are shared: what one handler could change, the next one would believe."""
    verifier = caching(Wall())
    token = forge.token(groups=["a", {"b": ["c"]}], tenant={"id": [1]})
    extra = verifier.verify_sync(token).extra

    groups, tenant = extra["groups"], extra["tenant"]
    assert groups == ("a", {"b": ("c",)})
    assert isinstance(groups, tuple)
    for mapping in (extra, tenant, groups[1]):
        assert isinstance(mapping, Mapping)
        with pytest.raises(TypeError):
            mapping["x"] = 1  # type: ignore[index]  # that is the point


def test_no_token_text_is_kept() -> None:
    """A dump of the cache holds digests: nothing that could be sent to anybody."""
    verifier = caching(Wall())
    token = "".join(forge.token())
    verifier.verify_sync(token)
    payload = token.split(".")[1]
    # By their true type: other libraries' lazy objects answer when they are asked for a class.
    maps = [found for found in gc.get_objects() if issubclass(type(found), dict)]
    held = [found for found in maps if dict.__contains__(found, payload)]

    assert held == []
    remembered = verifier._examiner._cache
    assert all(len(digest) == 32 for digest in remembered)
    assert payload not in repr(remembered)
    assert sys.getsizeof(next(iter(remembered))) < 100


@pytest.mark.parametrize("size", [-1, 1.5, True, None, 10**9], ids=repr)
def test_cache_size_out_of_bounds_is_refused(size: int) -> None:
    """A slip in configuration is no leak of memory."""
    with pytest.raises(ValueError, match="cache_size"):
        caching(Wall(), size=size)
