"""requests-oauthlib, unmodified: a machine's client and a user's client (RFC 6749 §4.3, §4.4)."""

import pytest
from oauthlib.oauth2 import (
    BackendApplicationClient,
    InvalidGrantError,
    LegacyApplicationClient,
)
from requests.auth import HTTPBasicAuth
from requests_oauthlib import OAuth2Session

from tests.interop.conftest import CONFIDENTIAL, EMAIL, PASSWORD, PUBLIC, Service


@pytest.fixture(autouse=True)
def plain_http_on_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OAUTHLIB_INSECURE_TRANSPORT", "1")


def test_backend_application_client_gets_a_token(service: Service) -> None:
    """Client credentials with the secret in the Basic header (RFC 6749 §2.3.1, §4.4.2)."""
    with OAuth2Session(
        client=BackendApplicationClient(CONFIDENTIAL, scope="orders:read")
    ) as session:
        token = session.fetch_token(
            service.token_url, client_id=CONFIDENTIAL, client_secret=service.client_secret
        )
    assert token["token_type"] == "Bearer"
    assert token["scope"] == ["orders:read"]
    assert "refresh_token" not in token


def test_backend_application_client_may_send_its_secret_in_the_body(service: Service) -> None:
    """`client_secret_post` (RFC 6749 §2.3.1)."""
    with OAuth2Session(client=BackendApplicationClient(CONFIDENTIAL)) as session:
        token = session.fetch_token(
            service.token_url,
            client_secret=service.client_secret,
            include_client_id=True,
        )
    assert token["scope"] == ["orders:read", "orders:write"]


def test_legacy_application_client_logs_in_and_refreshes(service: Service) -> None:
    """A confidential client: the password grant, then each refresh token in turn (§4.3, §6)."""
    auth = HTTPBasicAuth(CONFIDENTIAL, service.client_secret)
    with OAuth2Session(client=LegacyApplicationClient(CONFIDENTIAL)) as session:
        first = session.fetch_token(service.token_url, username=EMAIL, password=PASSWORD, auth=auth)
        second = session.refresh_token(service.token_url, auth=auth)
        third = session.refresh_token(service.token_url, auth=auth)
    refresh_tokens = {token["refresh_token"] for token in (first, second, third)}
    access_tokens = {token["access_token"] for token in (first, second, third)}
    assert len(refresh_tokens) == len(access_tokens) == 3


def test_public_client_logs_in_and_refreshes(service: Service) -> None:
    """A public client names itself in the body and has no secret (RFC 6749 §3.2.1)."""
    with OAuth2Session(client=LegacyApplicationClient(PUBLIC)) as session:
        first = session.fetch_token(
            service.token_url, username=EMAIL, password=PASSWORD, include_client_id=True
        )
        second = session.refresh_token(service.token_url, client_id=PUBLIC)
    assert second["refresh_token"] != first["refresh_token"]


def test_wrong_password_is_invalid_grant_to_the_library(service: Service) -> None:
    """The library knows our refusal by its registered code (RFC 6749 §5.2)."""
    with (
        OAuth2Session(client=LegacyApplicationClient(PUBLIC)) as session,
        pytest.raises(InvalidGrantError),
    ):
        session.fetch_token(
            service.token_url, username=EMAIL, password="wrong", include_client_id=True
        )
