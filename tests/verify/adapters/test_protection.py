"""What all adapters share, without a framework."""

import logging

import pytest

from tests.verify import forge
from token_server.verify import (
    InsufficientScopeError,
    KeysUnavailableError,
    TokenError,
    TokenMissingError,
)
from token_server.verify.adapters.protection import Protection, Requirement

READ = Requirement(("orders:read",))
METADATA = "https://orders.example/.well-known/oauth-protected-resource"


@pytest.mark.parametrize("scope", ["", "orders:read orders:write", 'a"b', "a\\b", "é", "a\nb"])
def test_scope_that_no_token_can_hold_fails_the_start(scope: str) -> None:
    """Such a route would refuse everybody for ever (RFC 6749 3.3)."""
    with pytest.raises(ValueError, match="not one scope"):
        Requirement((scope,))
    with pytest.raises(ValueError, match="not one scope"):
        Requirement(any_scope=(scope,))


def test_one_string_for_any_scope_is_a_mistake() -> None:
    """It would be read as a list of letters."""
    with pytest.raises(TypeError, match="any_scope"):
        Requirement.of((), "orders:read", optional=False)


def test_all_scopes_and_one_of_any_are_demanded_together() -> None:
    """Both kinds of demand may be made of one route."""
    claims = forge.verifier().verify_sync(forge.token(scope="a b"))
    Requirement(("a",), ("b", "c")).check(claims)
    for unmet in (Requirement(("a", "x"), ("b",)), Requirement(("a",), ("x", "y"))):
        with pytest.raises(InsufficientScopeError):
            unmet.check(claims)


def test_challenge_names_realm_and_resource_metadata() -> None:
    """RFC 6750 3, RFC 9728 5.1: a client finds from there which server issues its tokens."""
    protection = Protection(forge.verifier(), realm="orders", resource_metadata=METADATA)
    headers = protection.refusal(TokenMissingError()).headers
    assert headers == {
        "WWW-Authenticate": f'Bearer realm="orders", resource_metadata="{METADATA}"',
        "Cache-Control": "no-store",
    }


@pytest.mark.parametrize("name", ["realm", "resource_metadata"])
def test_parameter_that_no_header_can_hold_fails_the_start(name: str) -> None:
    """And no request: a line break would be a header of its own (RFC 9110 5.6.4)."""
    bad = {name: "a\r\nSet-Cookie: b=c"}
    with pytest.raises(ValueError, match="printable ASCII"):
        Protection(forge.verifier(), **bad)


def test_unavailable_keys_say_when_to_come_back() -> None:
    """503, Retry-After, and no error code: the token may be good."""
    refusal = Protection(forge.verifier()).refusal(KeysUnavailableError(7))
    assert (refusal.status, refusal.headers["Retry-After"]) == (503, "7")
    assert refusal.headers["WWW-Authenticate"] == "Bearer"


@pytest.mark.parametrize(
    ("authorization", "logged"),
    [
        (["Bearer a b"], "authorization_malformed"),
        (["Bearer a", "Bearer a"], "authorization_repeated"),
        ([f"Bearer {forge.token(scope='other')}"], "insufficient_scope"),
    ],
    ids=["malformed", "repeated", "scope"],
)
async def test_refusal_is_logged_with_its_private_reason(
    authorization: list[str], logged: str, caplog: pytest.LogCaptureFixture
) -> None:
    """What the answer does not say, the operator can read (RFC 6750 3.1)."""
    protection = Protection(forge.verifier())
    with caplog.at_level(logging.INFO, "token_server.verify"), pytest.raises(TokenError):
        await protection.admit(authorization, READ)
    [record] = caplog.records
    assert f"reason={logged}" in record.getMessage()
    assert authorization[0] not in record.getMessage()


async def test_missing_token_is_no_event(caplog: pytest.LogCaptureFixture) -> None:
    """Every crawler sends none; a log full of them hides the rest."""
    with caplog.at_level(logging.INFO, "token_server.verify"), pytest.raises(TokenMissingError):
        await Protection(forge.verifier()).admit([], READ)
    assert caplog.records == []


def test_waiting_and_not_waiting_decide_alike() -> None:
    """`admit_sync` is `admit` for threads."""
    protection = Protection(forge.verifier())
    claims = protection.admit_sync([f"Bearer {forge.token()}"], READ)
    assert claims is not None
    assert claims.client_id == "web-shop"
    assert protection.admit_sync([], Requirement(optional=True)) is None
