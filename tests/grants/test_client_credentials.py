"""Grant `client_credentials` over HTTP (RFC 6749 §4.4)."""

import re
from typing import Any

import jwt
import pytest

from tests.support.server import AUDIENCE, ISSUER, RunningServer

SERVICE = {
    "grant_types": ("client_credentials",),
    "scopes": ("orders:read", "orders:write"),
    "audiences": (AUDIENCE, "https://stock.example"),
}

BOTH = ("client_credentials", "refresh_token")


async def test_machine_token_is_issued_and_verifies(server: RunningServer) -> None:
    """A foreign verifier accepts it with nothing but the published key (RFC 9068)."""
    await server.add_client("billing", **SERVICE)
    answer = await server.token("billing", grant_type="client_credentials")
    assert answer.status_code == 200
    body = answer.json()
    assert body.keys() == {"access_token", "token_type", "expires_in", "scope"}
    assert (body["token_type"], body["expires_in"]) == ("Bearer", 900)
    assert body["scope"] == "orders:read orders:write"
    jwks = jwt.PyJWKSet.from_dict((await server.http.get("/.well-known/jwks.json")).json())
    header = jwt.get_unverified_header(body["access_token"])
    assert header["typ"] == "at+jwt"
    claims = jwt.decode(
        body["access_token"],
        jwks[header["kid"]].key,
        algorithms=["RS256"],
        audience=AUDIENCE,
        issuer=ISSUER,
        options={"verify_exp": False, "verify_iat": False},
    )
    assert claims["sub"] == claims["client_id"] == "billing"
    assert claims["exp"] - claims["iat"] == 900
    assert "sid" not in claims


def claims_of(body: dict[str, Any]) -> dict[str, Any]:
    claims: dict[str, Any] = jwt.decode(body["access_token"], options={"verify_signature": False})
    return claims


async def granted(server: RunningServer, **form: str) -> dict[str, Any]:
    answer = await server.token("billing", None, grant_type="client_credentials", **form)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


async def test_machine_token_claims_are_exact(server: RunningServer) -> None:
    """RFC 9068 §2.2: what a service needs, and nothing of a person."""
    await server.add_client("billing", **SERVICE)
    claims = claims_of(await granted(server))
    assert re.fullmatch(r"[\w-]{22}", claims.pop("jti"), re.ASCII)
    now = server.clock.now()
    assert claims == {
        "iss": ISSUER,
        "sub": "billing",
        "aud": AUDIENCE,
        "iat": now,
        "exp": now + 900,
        "client_id": "billing",
        "scope": "orders:read orders:write",
    }


async def test_every_token_has_an_id_of_its_own(sqlite_server: RunningServer) -> None:
    """`jti` names one token in logs and revocations (RFC 9068 §2.2)."""
    await sqlite_server.add_client("billing", **SERVICE)
    ids = {claims_of(await granted(sqlite_server))["jti"] for _ in range(20)}
    assert len(ids) == 20


async def test_resource_chooses_the_audience(sqlite_server: RunningServer) -> None:
    """One audience per token, the first one unless another is asked for (RFC 8707 §2)."""
    await sqlite_server.add_client("billing", **SERVICE)
    assert claims_of(await granted(sqlite_server))["aud"] == AUDIENCE
    body = await granted(sqlite_server, resource="https://stock.example")
    assert claims_of(body)["aud"] == "https://stock.example"


@pytest.mark.parametrize(
    ("registration", "audience"),
    [
        ({}, ISSUER),
        ({"audiences": ("https://b.example", "https://a.example")}, "https://b.example"),
        (
            {
                "audiences": ("https://a.example", "https://b.example"),
                "default_audience": ("https://b.example", "https://a.example"),
            },
            ["https://b.example", "https://a.example"],
        ),
    ],
)
async def test_default_audience_is_the_clients_then_the_servers(
    sqlite_server: RunningServer, registration: dict[str, Any], audience: object
) -> None:
    """A text when there is one, an array when there are several, never empty (RFC 7519 §4.1.3)."""
    await sqlite_server.add_client("billing", grant_types=("client_credentials",), **registration)
    assert claims_of(await granted(sqlite_server))["aud"] == audience


async def test_client_without_scopes_gets_a_token_without_scope(
    sqlite_server: RunningServer,
) -> None:
    """An empty scope cannot be written (RFC 6749 §3.3): the member is left out."""
    await sqlite_server.add_client("billing", grant_types=("client_credentials",))
    body = await granted(sqlite_server)
    assert body.keys() == {"access_token", "token_type", "expires_in"}
    assert "scope" not in claims_of(body)
    refused = await sqlite_server.token(
        "billing", grant_type="client_credentials", scope="orders:read"
    )
    assert refused.json()["error"] == "invalid_scope"


async def test_lifetime_and_type_are_the_clients_own(sqlite_server: RunningServer) -> None:
    """Per client, for verifiers that refuse `at+jwt`."""
    await sqlite_server.add_client(
        "billing", **SERVICE, access_token_ttl_s=60, access_token_typ="JWT"
    )
    body = await granted(sqlite_server)
    claims = claims_of(body)
    assert (body["expires_in"], claims["exp"] - claims["iat"]) == (60, 60)
    assert jwt.get_unverified_header(body["access_token"])["typ"] == "JWT"


async def test_machine_token_writes_nothing(server: RunningServer) -> None:
    """No family, no refresh token, no audit row per token (§4.4.3): only the secret's last use."""
    await server.add_client("billing", **{**SERVICE, "grant_types": BOTH})
    body = await granted(server)
    assert "refresh_token" not in body
    await server.runtime.background.close()
    async with server.runtime.store.read() as connection:
        families = await connection.exec_driver_sql("SELECT count(*) FROM families")
        assert families.scalar_one() == 0
        events = await connection.exec_driver_sql("SELECT event FROM audit_events ORDER BY id")
        # Nothing after what the fixture and the registration have left.
        assert [row[0] for row in events][-1] == "client.created"


async def test_parameters_of_other_grants_are_ignored(sqlite_server: RunningServer) -> None:
    """A parameter that the grant does not declare never reaches it (RFC 6749 §3.2)."""
    await sqlite_server.add_client("billing", **SERVICE)
    body = await granted(sqlite_server, username="ada", password="x", refresh_token="y", sub="eve")
    assert claims_of(body)["sub"] == "billing"
