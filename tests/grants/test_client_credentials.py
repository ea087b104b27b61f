"""Grant `client_credentials` over HTTP (RFC 6749 §4.4)."""

import jwt

from tests.support.server import AUDIENCE, ISSUER, RunningServer

SERVICE = {
    "grant_types": ("client_credentials",),
    "scopes": ("orders:read", "orders:write"),
    "audiences": (AUDIENCE, "https://stock.example"),
}


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
