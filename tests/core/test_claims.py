"""Claims of an access token, pinned (RFC 9068 §2)."""

from dataclasses import replace

import pytest

from token_server.core.claims import AccessToken, access_token_claims
from token_server.core.status_list import ListName, Position

TOKEN = AccessToken(
    issuer="https://auth.example",
    subject="usr_1",
    audience=("https://orders.example",),
    client_id="app",
    scope=("orders:read", "orders:write"),
    issued_at=100,
    expires_at=1000,
    jti="j",
    sid="ses_1",
    auth_time=90,
)


def test_user_token_claims_are_exactly_these() -> None:
    """The wire format: nothing personal, no `nbf`."""
    assert access_token_claims(TOKEN) == {
        "iss": "https://auth.example",
        "sub": "usr_1",
        "aud": "https://orders.example",
        "exp": 1000,
        "iat": 100,
        "jti": "j",
        "client_id": "app",
        "scope": "orders:read orders:write",
        "sid": "ses_1",
        "auth_time": 90,
    }


def test_machine_token_has_no_session() -> None:
    """`sid` and `auth_time` need a user behind the token; an empty scope is left out."""
    claims = access_token_claims(replace(TOKEN, sid=None, auth_time=None, scope=()))
    assert claims.keys() == {"iss", "sub", "aud", "exp", "iat", "jti", "client_id"}


def test_revocable_token_says_where_its_revocation_shows() -> None:
    """The `status` claim, to the letter (draft-ietf-oauth-status-list-21 §6.2)."""
    claims = access_token_claims(replace(TOKEN, status=Position(ListName("s", 12), 4711)))
    assert claims["status"] == {
        "status_list": {"idx": 4711, "uri": "https://auth.example/oauth2/status-lists/s12"}
    }


def test_several_audiences_are_an_array() -> None:
    """A string when one, an array when several (interface.md)."""
    assert access_token_claims(replace(TOKEN, audience=("a", "b")))["aud"] == ["a", "b"]


def test_empty_audience_is_refused() -> None:
    """A token for nobody is a token for everybody at a careless verifier."""
    with pytest.raises(ValueError, match="audience"):
        access_token_claims(replace(TOKEN, audience=()))
