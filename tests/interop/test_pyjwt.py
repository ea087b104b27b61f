"""PyJWT with PyJWKClient, unmodified: fetches our key set, verifies our tokens (RFC 7517, 9068)."""

import jwt
import pytest
import requests

from tests.interop.conftest import AUDIENCE, CONFIDENTIAL, EMAIL, PASSWORD, PUBLIC, Service


def _token(service: Service, **form: str) -> str:
    answer = requests.post(service.token_url, data=form, timeout=30)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["access_token"])


def _verify(service: Service, token: str, audience: str = AUDIENCE) -> dict[str, object]:
    key = jwt.PyJWKClient(service.jwks_uri).get_signing_key_from_jwt(token)
    return dict(
        jwt.decode(
            token,
            key,
            algorithms=["RS256"],
            audience=audience,
            issuer=service.issuer,
            options={"require": ["iss", "sub", "aud", "exp", "iat", "jti", "client_id"]},
        )
    )


def test_machine_token_verifies(service: Service) -> None:
    """The subject of a machine token is its client (RFC 9068 §2.2)."""
    claims = _verify(
        service,
        _token(
            service,
            grant_type="client_credentials",
            client_id=CONFIDENTIAL,
            client_secret=service.client_secret,
        ),
    )
    assert claims["sub"] == claims["client_id"] == CONFIDENTIAL


def test_user_token_verifies(service: Service) -> None:
    """A user's token names the session and when it began (RFC 9068 §2.2.1)."""
    claims = _verify(
        service,
        _token(service, grant_type="password", client_id=PUBLIC, username=EMAIL, password=PASSWORD),
    )
    assert claims["auth_time"] == claims["iat"]
    assert str(claims["sid"]).startswith("ses_")
    assert claims["sub"] != claims["client_id"] == PUBLIC


def test_token_for_one_service_is_refused_by_another(service: Service) -> None:
    """The audience is what keeps services apart (RFC 9068 §4)."""
    token = _token(
        service, grant_type="password", client_id=PUBLIC, username=EMAIL, password=PASSWORD
    )
    with pytest.raises(jwt.InvalidAudienceError):
        _verify(service, token, audience="https://stock.example")
