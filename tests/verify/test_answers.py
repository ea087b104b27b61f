"""What a service answers: challenges, scopes and the Authorization header (RFC 6750 2.1, 3)."""

import pickle
from collections.abc import Callable

import pytest

from tests.verify import forge
from token_server.verify import (
    Claims,
    InsufficientScopeError,
    InvalidRequestError,
    KeysUnavailableError,
    Reason,
    TokenError,
    TokenMissingError,
    challenge,
    read_bearer,
)

METADATA = "https://orders.example/.well-known/oauth-protected-resource"
CHALLENGES: dict[str, tuple[TokenError, int, str]] = {
    "missing": (TokenMissingError(), 401, "Bearer"),
    "invalid_token": (
        TokenError(Reason.EXPIRED),
        401,
        (
            'Bearer error="invalid_token", error_description="The access token is malformed,'
            ' expired, revoked or not meant for this service."'
        ),
    ),
    "invalid_request": (
        InvalidRequestError(Reason.AUTHORIZATION_REPEATED),
        400,
        (
            'Bearer error="invalid_request", error_description="The Authorization header is'
            ' malformed or repeated."'
        ),
    ),
    "insufficient_scope": (
        InsufficientScopeError("orders:read orders:write"),
        403,
        (
            'Bearer error="insufficient_scope", error_description="The access token does not allow'
            ' this request.", scope="orders:read orders:write"'
        ),
    ),
    "not_by_scope": (
        InsufficientScopeError(),
        403,
        (
            'Bearer error="insufficient_scope", error_description="The access token does not allow'
            ' this request."'
        ),
    ),
    "keys_unavailable": (KeysUnavailableError(7), 503, "Bearer"),
}


@pytest.mark.parametrize(("error", "status", "header"), CHALLENGES.values(), ids=CHALLENGES)
def test_challenge_is_the_one_of_the_rfc(error: TokenError, status: int, header: str) -> None:
    """RFC 6750 3.1: a status and a code for each, and none for a request without a token."""
    assert (error.status, error.www_authenticate) == (status, header)
    assert str(error) == error.description


def test_challenge_carries_what_the_service_configures() -> None:
    """RFC 9728 5.1, RFC 9110 11.5: quoted, in a fixed order."""
    shown = challenge(
        TokenMissingError(), realm='a "b" \\c', scope="orders:read", resource_metadata=METADATA
    )
    assert shown == (
        f'Bearer realm="a \\"b\\" \\\\c", scope="orders:read", resource_metadata="{METADATA}"'
    )


@pytest.mark.parametrize("bad", ["a\r\nSet-Cookie: x=1", "\u00e4", "\0", "a\x7f"], ids=repr)
def test_challenge_cannot_be_split(bad: str) -> None:
    """No configured text becomes another header."""
    with pytest.raises(ValueError, match="other than printable ASCII"):
        challenge(TokenMissingError(), realm=bad)
    with pytest.raises(ValueError, match="other than printable ASCII"):
        challenge(TokenMissingError(), resource_metadata=bad)
    with pytest.raises(ValueError, match="scope holds"):
        challenge(TokenMissingError(), scope=bad)
    with pytest.raises(ValueError, match="scope holds"):
        _ = InsufficientScopeError(bad).www_authenticate


@pytest.mark.parametrize("error", [entry[0] for entry in CHALLENGES.values()], ids=CHALLENGES)
def test_errors_survive_pickling(error: TokenError) -> None:
    """Test runners and process pools send them from process to process."""
    again = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes

    assert type(again) is type(error)
    assert (again.reason, again.scope, again.www_authenticate) == (
        error.reason,
        error.scope,
        error.www_authenticate,
    )
    assert getattr(again, "retry_after_s", None) == getattr(error, "retry_after_s", None)


@pytest.fixture(name="granted")
def granted_claims() -> Claims:
    """With orders:read, orders:write and the role clerk."""
    return forge.verifier().verify_sync(forge.token())


def test_scopes_that_were_granted_pass(granted: Claims) -> None:
    """All of `require`, one of `require_any`."""
    granted.require("orders:read")
    granted.require("orders:write", "orders:read")
    granted.require_any("orders:admin", "orders:read")
    granted.require_that(lambda claims: "clerk" in claims.roles)
    assert granted.has_scope("orders:read")


REFUSED: dict[str, tuple[Callable[[Claims], None], str | None]] = {
    "missing": (lambda claims: claims.require("orders:admin"), "orders:admin"),
    "one_of_two": (
        lambda claims: claims.require("orders:read", "orders:admin"),
        "orders:read orders:admin",
    ),
    "prefix": (lambda claims: claims.require("orders"), "orders"),
    "other_case": (lambda claims: claims.require("Orders:Read"), "Orders:Read"),
    "two_in_one": (
        lambda claims: claims.require("orders:read orders:write"),
        "orders:read orders:write",
    ),
    "none_of_any": (lambda claims: claims.require_any("a", "b"), "a b"),
    "any_of_none": (lambda claims: claims.require_any(), None),
    "predicate": (lambda claims: claims.require_that(lambda c: "admin" in c.roles), None),
}


@pytest.mark.parametrize(("demand", "scope"), REFUSED.values(), ids=REFUSED)
def test_scope_that_was_not_granted_is_refused(
    granted: Claims, demand: Callable[[Claims], None], scope: str | None
) -> None:
    """RFC 6749 3.3: exact and case-sensitive; the challenge says what would suffice."""
    with pytest.raises(InsufficientScopeError) as caught:
        demand(granted)

    assert (caught.value.status, caught.value.scope) == (403, scope)
    assert caught.value.reason == Reason.INSUFFICIENT_SCOPE


def test_empty_demand_is_a_mistake(granted: Claims) -> None:
    """A list that came out empty must not let everybody pass."""
    with pytest.raises(ValueError, match="require"):
        granted.require()


HEADERS: dict[str, tuple[tuple[str, ...], str | None]] = {
    "none": ((), None),
    "basic": (("Basic dTpw",), None),
    "dpop": (("DPoP abc",), None),
    "empty": (("",), None),
    "scheme_of_longer_name": (("Bearerx abc",), None),
    "plain": (("Bearer a.b-c_d~e+f/g==",), "a.b-c_d~e+f/g=="),
    "lower_case": (("bearer abc",), "abc"),
    "upper_case": (("BEARER abc",), "abc"),
    "several_spaces": (("Bearer   abc",), "abc"),
    "outer_space": ((" \tBearer abc\t ",), "abc"),
}


@pytest.mark.parametrize(("values", "token"), HEADERS.values(), ids=HEADERS)
def test_bearer_is_read(values: tuple[str, ...], token: str | None) -> None:
    """RFC 6750 2.1, RFC 9110 11.1: the scheme in any case; another scheme is no token."""
    assert read_bearer(values) == token


MALFORMED: dict[str, tuple[tuple[str, ...], Reason]] = {
    "two_headers": (("Bearer a", "Bearer a"), Reason.AUTHORIZATION_REPEATED),
    "two_schemes": (("Bearer a", "Basic dTpw"), Reason.AUTHORIZATION_REPEATED),
    "joined": (("Bearer a, Bearer b",), Reason.AUTHORIZATION_MALFORMED),
    "no_token": (("Bearer",), Reason.AUTHORIZATION_MALFORMED),
    "only_space": (("Bearer ",), Reason.AUTHORIZATION_MALFORMED),
    "two_tokens": (("Bearer a b",), Reason.AUTHORIZATION_MALFORMED),
    "tab": (("Bearer\ta",), Reason.AUTHORIZATION_MALFORMED),
    "comma": (("Bearer,a",), Reason.AUTHORIZATION_MALFORMED),
    "quoted": (('Bearer "a"',), Reason.AUTHORIZATION_MALFORMED),
    "padding_first": (("Bearer =a",), Reason.AUTHORIZATION_MALFORMED),
    "line_break": (("Bearer a\r\nX: y",), Reason.AUTHORIZATION_MALFORMED),
    "trailing_line_break": (("Bearer a\n",), Reason.AUTHORIZATION_MALFORMED),
    "nul": (("Bearer a\0",), Reason.AUTHORIZATION_MALFORMED),
    "foreign_letter": (("Bearer \u00e9",), Reason.AUTHORIZATION_MALFORMED),
    "no_break_space": (("Bearer\u00a0a",), Reason.AUTHORIZATION_MALFORMED),
}


@pytest.mark.parametrize(("values", "reason"), MALFORMED.values(), ids=MALFORMED)
def test_malformed_authorization_is_an_invalid_request(
    values: tuple[str, ...], reason: Reason
) -> None:
    """RFC 6750 3.1: 400, since two readers could take it for two different things."""
    with pytest.raises(InvalidRequestError) as caught:
        read_bearer(values)

    assert (caught.value.reason, caught.value.status) == (reason, 400)
