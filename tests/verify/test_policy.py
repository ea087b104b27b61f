"""Settings of a verifier: out of bounds is an error at the start, never a weaker check."""

from collections.abc import Callable
from typing import cast

import pytest

from tests.verify import forge
from token_server.verify import Policy, Reason, TokenError, Verifier


@pytest.mark.parametrize("name", ["leeway_s", "iat_skew_s", "max_lifetime_s", "max_token_bytes"])
@pytest.mark.parametrize("value", [-1, 2**40, 1.5, True, None], ids=repr)
def test_setting_out_of_bounds_is_refused(name: str, value: int) -> None:
    """B44: the leeway is capped at 60 s; a slip in configuration is no open door."""
    with pytest.raises(ValueError, match=name):
        cast("Callable[..., Policy]", Policy)(**{name: value})


def test_leeway_cap_is_60_seconds() -> None:
    """B44."""
    with pytest.raises(ValueError, match="leeway_s"):
        Policy(leeway_s=61)


@pytest.mark.parametrize("accept_typ", [(), ("id_token",), ("at+jwt", ""), "at+jwt"], ids=repr)
def test_typ_outside_the_closed_set_cannot_be_configured(accept_typ: tuple[str, ...]) -> None:
    """RFC 8725 3.11: only kinds that mean an access token."""
    with pytest.raises(ValueError, match="accept_typ"):
        Policy(accept_typ=accept_typ)


@pytest.mark.parametrize(("issuer", "audience"), [("", "a"), ("i", "")], ids=["issuer", "audience"])
def test_empty_issuer_or_audience_cannot_be_configured(issuer: str, audience: str) -> None:
    """An unset environment variable must not become "any"."""
    with pytest.raises(ValueError, match="non-empty"):
        Verifier(issuer=issuer, audience=audience, keys=forge.key_set())


def test_system_clock_is_the_default() -> None:
    """Outside of tests nobody passes a clock: a token of 1970 is expired."""
    verifier = Verifier(issuer=forge.ISSUER, audience=forge.AUDIENCE, keys=forge.key_set())
    ancient = forge.token(iat=1, exp=901)

    with pytest.raises(TokenError) as caught:
        verifier.verify_sync(ancient)
    assert caught.value.reason == Reason.EXPIRED
