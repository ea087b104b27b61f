"""Token exchange by client libraries that we did not write, and what a verifier then sees."""

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass

import httpx
import pytest
from authlib.integrations.requests_client import OAuth2Session
from oauthlib.oauth2 import Client, OAuth2Error
from oauthlib.oauth2.rfc6749.parameters import prepare_token_request
from requests_oauthlib import OAuth2Session as RequestsSession

from token_server.core.client_policy import TOKEN_EXCHANGE
from token_server.core.token_exchange import ACCESS_TOKEN_TYPE, API_KEY_TYPE
from token_server.verify import Reason, StatusChecking, TokenError, Verifier
from token_server.verify.testing import RunningTokenServer, running_token_server

GATEWAY, ORDERS = "https://gateway.example", "https://orders.example"


@dataclass(frozen=True, slots=True)
class Setting:
    """A real server, whose demo user logs in for GATEWAY, and the gateway's secret."""

    server: RunningTokenServer
    secret: str
    login: str  # an access token for GATEWAY
    key_id: str
    api_key: str

    def form(self, token: str, token_type: str = ACCESS_TOKEN_TYPE) -> dict[str, str]:
        return {"subject_token": token, "subject_token_type": token_type, "audience": ORDERS}


@pytest.fixture(scope="module")
def setting() -> Iterator[Setting]:
    with running_token_server(status_ttl="1s") as server:
        server.run("client", "change", "account", "--scope", "orders:read")
        shop = ("client", "add", "shop", "--public", "--grant", "password", "--audience", GATEWAY)
        server.run(*shop, "--scope", "orders:read", "--scope", "orders:write")
        gateway = ("client", "add", "gateway", "--grant", "token-exchange", "--serves", GATEWAY)
        made = server.run(*gateway, "--exchange-audience", ORDERS, "--scope", "orders:read")
        password = {"email": server.user_email, "password": server.user_password}
        with httpx.Client(base_url=server.issuer, timeout=30) as http:
            form = {"grant_type": "password", "client_id": "shop", "username": server.user_email}
            shop_form = {**form, "password": server.user_password}
            login = http.post("/oauth2/token", data=shop_form).json()["access_token"]
            account = http.post("/api/auth/login", json=password).json()["access_token"]
            bearer = {"Authorization": f"Bearer {account}"}
            key = http.post(
                "/api/auth/api-keys", json={"name": "ci", "scopes": ["orders:read"]}, headers=bearer
            ).json()
        yield Setting(server, made["client_secret"], login, key["id"], key["api_key"])


def test_authlib_exchanges_a_token(setting: Setting) -> None:
    """Its session sends any grant; the answer is a token to it like every other."""
    with OAuth2Session("gateway", setting.secret) as session:
        token = session.fetch_token(
            setting.server.token_endpoint,
            grant_type=TOKEN_EXCHANGE,
            **setting.form(setting.login),
        )
    assert token["issued_token_type"] == ACCESS_TOKEN_TYPE
    assert (token["token_type"], token["scope"]) == ("Bearer", "orders:read")
    verifier = Verifier(issuer=setting.server.issuer, audience=ORDERS)
    claims = verifier.verify_sync(token["access_token"])
    assert (claims.client_id, claims.actors) == ("gateway", ("gateway",))


class TokenExchangeClient(Client):  # type: ignore[misc]  # oauthlib has no types
    """As oauthlib's documentation has an extension grant made."""

    grant_type = TOKEN_EXCHANGE

    def prepare_request_body(self, body: str = "", **parameters: str) -> str:
        parameters.pop("include_client_id", None)
        return str(prepare_token_request(self.grant_type, body=body, **parameters))


@pytest.mark.parametrize(
    ("change", "refusal"),
    [
        ({}, None),
        ({"subject_token": "x.y.z"}, "invalid_request"),
        ({"scope": "orders:write"}, "invalid_scope"),
    ],
    ids=["good", "L209_junk", "L210_wider"],
)
def test_oauthlib_exchanges_a_token_and_knows_our_refusals(
    setting: Setting,
    change: dict[str, str],
    refusal: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By their registered codes (RFC 8693 §2.2.2, RFC 6749 §5.2)."""
    monkeypatch.setenv("OAUTHLIB_INSECURE_TRANSPORT", "1")
    form = {**setting.form(setting.login), **change}
    with RequestsSession(client=TokenExchangeClient("gateway")) as session:
        if refusal is not None:
            with pytest.raises(OAuth2Error) as raised:
                session.fetch_token(
                    setting.server.token_endpoint, auth=("gateway", setting.secret), **form
                )
            assert raised.value.error == refusal
            return
        token = session.fetch_token(
            setting.server.token_endpoint, auth=("gateway", setting.secret), **form
        )
    assert token["issued_token_type"] == ACCESS_TOKEN_TYPE


async def test_revoked_key_ends_its_tokens_at_a_verifier(setting: Setting) -> None:
    """In another process, without a call per request, within a TTL of the list (revocation.md)."""
    form = {"grant_type": TOKEN_EXCHANGE, **setting.form(setting.api_key, API_KEY_TYPE)}
    async with httpx.AsyncClient(auth=("gateway", setting.secret), timeout=30) as http:
        answer = (await http.post(setting.server.token_endpoint, data=form)).json()
        login = {"grant_type": TOKEN_EXCHANGE, **setting.form(setting.login)}
        other = (await http.post(setting.server.token_endpoint, data=login)).json()
    verifier = Verifier(
        issuer=setting.server.issuer, audience=ORDERS, status=StatusChecking(require_status=True)
    )
    claims = await verifier.verify(answer["access_token"])
    assert (claims.session_id, claims.scopes) == (None, ("orders:read",))
    await asyncio.to_thread(
        setting.server.run, "user", "revoke-api-key", setting.server.user_email, setting.key_id
    )
    assert await refusal_of(verifier, answer["access_token"]) == Reason.STATUS_REVOKED
    assert (await verifier.verify(other["access_token"])).session_id is not None


async def refusal_of(verifier: Verifier, token: str) -> Reason:
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline:
        try:
            await verifier.verify(token)
        except TokenError as error:
            return error.reason
        await asyncio.sleep(0.05)
    pytest.fail("the token is still accepted")
