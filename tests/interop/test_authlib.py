"""Authlib's OAuth 2.0 client, unmodified, with each client authentication method."""

import pytest
from authlib.integrations.base_client import OAuthError
from authlib.integrations.requests_client import OAuth2Session

from tests.interop.conftest import CONFIDENTIAL, EMAIL, PASSWORD, PUBLIC, Service

CONFIDENTIAL_METHODS = ("client_secret_basic", "client_secret_post")


def _session(service: Service, method: str) -> OAuth2Session:
    if method == "none":
        return OAuth2Session(PUBLIC, token_endpoint_auth_method=method)
    return OAuth2Session(
        CONFIDENTIAL, service.client_secret, token_endpoint_auth_method=method, scope="orders:read"
    )


@pytest.mark.parametrize("method", CONFIDENTIAL_METHODS)
def test_machine_client_gets_a_token(service: Service, method: str) -> None:
    """Client credentials (RFC 6749 §4.4) under both ways to send a secret (§2.3.1)."""
    with _session(service, method) as session:
        token = session.fetch_token(service.token_url, grant_type="client_credentials")
    assert (token["token_type"], token["scope"]) == ("Bearer", "orders:read")


@pytest.mark.parametrize("method", [*CONFIDENTIAL_METHODS, "none"])
def test_user_client_logs_in_and_refreshes(service: Service, method: str) -> None:
    """The password grant and two refreshes, each with the newest token (RFC 6749 §4.3, §6)."""
    with _session(service, method) as session:
        first = session.fetch_token(service.token_url, username=EMAIL, password=PASSWORD)
        second = session.refresh_token(service.token_url)
        third = session.refresh_token(service.token_url)
    tokens = (first, second, third)
    assert len({token["refresh_token"] for token in tokens}) == 3
    assert all(token["expires_in"] == 900 for token in tokens)


def test_repeated_refresh_gets_the_same_successor(service: Service) -> None:
    """A client that lost the answer and asks again is not logged out (RFC 9700 §4.14.2)."""
    with _session(service, "none") as session:
        lost = session.fetch_token(service.token_url, username=EMAIL, password=PASSWORD)
        spent = lost["refresh_token"]
        first = session.refresh_token(service.token_url, refresh_token=spent)
        again = session.refresh_token(service.token_url, refresh_token=spent)
    assert first["refresh_token"] == again["refresh_token"]


def test_wrong_secret_is_invalid_client_to_the_library(service: Service) -> None:
    """The library knows our refusal by its registered code (RFC 6749 §5.2)."""
    with (
        OAuth2Session(CONFIDENTIAL, "ts_wrong") as session,
        pytest.raises(OAuthError) as refusal,
    ):
        session.fetch_token(service.token_url, grant_type="client_credentials")
    assert refusal.value.error == "invalid_client"
