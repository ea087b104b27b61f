"""The test kit in memory: what a stranger's tests rest on must be what the real server does."""

import asyncio
import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import httpx
import pytest
from litestar import Litestar, asgi
from starlette.applications import Starlette
from starlette.routing import Mount

from token_server.verify import Policy, TokenError, Verifier, decode_unverified
from token_server.verify.testing import RunningTokenServer, TestIssuer, running_token_server

USER = "usr_7vY0cQ2mS8dK4pL1xW3nZa"


@pytest.fixture
def issuer() -> TestIssuer:
    return TestIssuer(audience="https://orders.example")


def refusal(verifier: Verifier, token: str) -> str:
    with pytest.raises(TokenError) as caught:
        verifier.verify_sync(token)
    return str(caught.value.reason)


# --- good tokens ---------------------------------------------------------------------------------


def test_token_of_a_user_has_a_session(issuer: TestIssuer) -> None:
    """With `sub` a person stands behind it; further arguments are claims."""
    token = issuer.token(
        sub=USER, scope="orders:read", client_id="web", roles=["clerk"], tenant="t1"
    )
    claims = issuer.verifier().verify_sync(token)
    assert (claims.issuer, claims.subject, claims.client_id) == (issuer.issuer, USER, "web")
    assert (claims.scopes, claims.roles) == (("orders:read",), ("clerk",))
    assert claims.session_id is not None
    assert claims.auth_time == claims.issued_at == claims.expires_at - 900
    assert claims.extra["tenant"] == "t1"
    assert claims.extra.keys() == {"tenant", "status"}


def test_token_without_a_user_is_the_clients_own(issuer: TestIssuer) -> None:
    """As of the grant client_credentials: `sub` is the client, and there is no session."""
    claims = issuer.verifier().verify_sync(issuer.token(client_id="billing"))
    assert (claims.subject, claims.client_id, claims.scopes) == ("billing", "billing", ())
    assert (claims.session_id, claims.auth_time) == (None, None)


def test_claim_may_be_left_out(issuer: TestIssuer) -> None:
    """None removes it, so that a service's own demands can be tested."""
    _, claims = decode_unverified(issuer.token(sub=USER, sid=None, jti=None))
    assert {"sid", "jti"}.isdisjoint(claims)


def test_token_may_be_for_several_audiences(issuer: TestIssuer) -> None:
    """`aud` is a list then, and each of them takes it."""
    token = issuer.token(audience=["https://a.example", "https://b.example"])
    for audience in ("https://a.example", "https://b.example"):
        assert issuer.verifier(audience).verify_sync(token)
    assert refusal(issuer.verifier(), token) == "aud_refused"


def test_time_is_the_clocks_that_was_given() -> None:
    """Tokens and verifiers of one issuer live in the same time."""
    now = [1_800_000_000.5]
    issuer = TestIssuer(clock=lambda: now[0])
    token, verifier = issuer.token(), issuer.verifier()
    assert verifier.verify_sync(token).issued_at == 1_800_000_000
    now[0] += 900
    assert refusal(verifier, token) == "expired"


def test_policy_is_handed_on(issuer: TestIssuer) -> None:
    """A service that takes `typ` JWT is tested as it runs."""
    verifier = issuer.verifier(policy=Policy(accept_typ=("at+jwt", "JWT")))
    assert verifier.verify_sync(issuer.wrong_type(sub=USER)).subject == USER


def test_issuers_have_keys_of_their_own(issuer: TestIssuer) -> None:
    """A key of one says nothing about tokens of another (RFC 8725 3.8)."""
    other = TestIssuer("https://another-issuer.test")
    assert {key["kid"] for key in issuer.jwks()["keys"]}.isdisjoint(
        key["kid"] for key in other.jwks()["keys"]
    )


# --- flawed tokens -------------------------------------------------------------------------------

REASONS = {
    "expired": "expired",
    "not_yet_valid": "not_yet_valid",
    "wrong_audience": "aud_refused",
    "wrong_issuer": "iss_refused",
    "wrong_type": "typ_refused",
    "wrong_key": "signature_wrong",
    "unknown_key": "kid_unknown",
    "tampered": "signature_wrong",
    "unsigned": "alg_refused",
    "confused_algorithm": "alg_refused",
    "bound_to_a_key": "cnf_unproven",
}


@pytest.mark.parametrize("flaw", TestIssuer.FLAWS)
def test_flawed_token_has_this_one_flaw(issuer: TestIssuer, flaw: str) -> None:
    """Refused for the reason that its name says, by a verifier that takes its sound sister."""
    sound = {"sub": USER, "scope": "orders:read", "client_id": "web", "roles": ["clerk"]}
    token = issuer.flawed(flaw, **sound)
    assert refusal(issuer.verifier(), token) == REASONS[flaw]
    if flaw not in {"expired", "not_yet_valid", "wrong_audience", "wrong_issuer", "tampered"}:
        _, claims = decode_unverified(token)
        assert sound.items() <= claims.items()


def test_unknown_flaw_is_refused(issuer: TestIssuer) -> None:
    """Not any method by its name."""
    with pytest.raises(ValueError, match="expired, not_yet_valid"):
        issuer.flawed("token")


def test_other_library_refuses_the_forgeries_too(issuer: TestIssuer) -> None:
    """The signatures are what they are said to be: PyJWT agrees on each."""
    import jwt

    keys = {key["kid"]: jwt.PyJWK(key) for key in issuer.jwks()["keys"]}

    def decode(token: str) -> dict[str, Any]:
        key = keys[jwt.get_unverified_header(token)["kid"]]
        claims: dict[str, Any] = jwt.decode(
            token, key, ["RS256"], audience=issuer.audience, issuer=issuer.issuer
        )
        return claims

    assert decode(issuer.token(sub=USER))["sub"] == USER
    for flaw, error in (
        ("expired", jwt.ExpiredSignatureError),
        ("not_yet_valid", jwt.ImmatureSignatureError),
        ("wrong_audience", jwt.InvalidAudienceError),
        ("wrong_issuer", jwt.InvalidIssuerError),
        ("wrong_key", jwt.InvalidSignatureError),
        ("tampered", jwt.InvalidSignatureError),
        ("unsigned", jwt.InvalidAlgorithmError),
        ("confused_algorithm", jwt.InvalidAlgorithmError),
    ):
        with pytest.raises(error):
            decode(issuer.flawed(flaw, sub=USER))


def test_confused_algorithm_is_a_real_attack(issuer: TestIssuer) -> None:
    """A verifier that believes `alg` would take it: the MAC by the public key is right."""
    import hmac
    from base64 import urlsafe_b64decode

    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
    from jwt import PyJWK

    content, _, signature = issuer.confused_algorithm(sub=USER).rpartition(".")
    public: Any = PyJWK(issuer.jwks()["keys"][0]).key
    secret = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    expected = hmac.digest(secret, content.encode(), "sha256")
    assert urlsafe_b64decode(signature + "=") == expected


# --- rotation ------------------------------------------------------------------------------------


def test_rotated_issuer_signs_by_a_new_key_and_publishes_both(issuer: TestIssuer) -> None:
    """A verifier that was made before knows the new key at once."""
    verifier, before = issuer.verifier(), issuer.token(sub=USER)
    assert verifier.verify_sync(before)
    after = issuer.rotated(sub=USER)
    assert verifier.verify_sync(before)
    assert verifier.verify_sync(after).subject == USER
    kids = [decode_unverified(token)[0]["kid"] for token in (before, after)]
    assert [key["kid"] for key in issuer.jwks()["keys"]] == kids


def test_compromised_key_is_withdrawn(issuer: TestIssuer) -> None:
    """Tokens of it are bad at once, remembered ones too; new ones are good."""
    verifier, before = issuer.verifier(), issuer.token()
    verifier.verify_sync(before)
    leaked = issuer.compromised()
    assert refusal(verifier, leaked) == refusal(verifier, before) == "kid_unknown"
    assert verifier.verify_sync(issuer.token())
    assert len(issuer.jwks()["keys"]) == 1


# --- the documents -------------------------------------------------------------------------------


async def test_asgi_app_serves_metadata_and_keys(issuer: TestIssuer) -> None:
    """In memory, by httpx; what is not there is 404, other methods 405."""
    transport = httpx.ASGITransport(app=issuer.asgi_app())
    async with httpx.AsyncClient(transport=transport, base_url=issuer.issuer) as http:
        metadata = await http.get("/.well-known/oauth-authorization-server")
        assert metadata.json() == issuer.metadata()
        assert (await http.get("/.well-known/openid-configuration")).json() == issuer.metadata()
        keys = await http.get(metadata.json()["jwks_uri"])
        assert keys.json() == issuer.jwks()
        assert keys.headers["cache-control"] == "public, max-age=5"
        head = await http.head("/.well-known/jwks.json")
        assert (head.status_code, head.content) == (200, b"")
        assert (await http.get("/")).status_code == 404
        assert (await http.post("/.well-known/jwks.json")).status_code == 405
        issuer.rotated()
        assert (await http.get("/.well-known/jwks.json")).json() == issuer.jwks() != keys.json()


@pytest.mark.parametrize("framework", ["litestar", "starlette"])
async def test_asgi_app_can_be_mounted(framework: str) -> None:
    """Below a path of another application, each of which tells it its path in another way."""
    issuer = TestIssuer("https://service.test/issuer")
    app: Any
    if framework == "litestar":
        app = Litestar([asgi("/issuer", is_mount=True, copy_scope=False)(issuer.asgi_app())])
    else:
        app = Starlette(routes=[Mount("/issuer", app=issuer.asgi_app())])
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport) as http:
        assert (await http.get(issuer.jwks_uri)).json() == issuer.jwks()
        found = await http.get(f"{issuer.issuer}/.well-known/openid-configuration")
        assert found.json() == issuer.metadata()


async def test_asgi_app_takes_part_in_lifespan(issuer: TestIssuer) -> None:
    """Servers start it and stop it."""
    events = ["lifespan.startup", "lifespan.shutdown"]
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": events.pop(0)}

    async def send(message: Any) -> None:
        sent.append(message)

    await issuer.asgi_app()({"type": "lifespan"}, receive, send)
    assert [m["type"] for m in sent] == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


def test_issuer_with_a_path_is_found_by_discovery() -> None:
    """RFC 8414 3.1: the well-known part goes between host and path."""
    issuer = TestIssuer("https://issuer.test/tenant")
    transport = httpx.ASGITransport(app=issuer.asgi_app())

    async def look() -> None:
        async with httpx.AsyncClient(transport=transport, base_url="https://issuer.test") as http:
            found = await http.get("/.well-known/oauth-authorization-server/tenant")
            assert (await http.get(found.json()["jwks_uri"])).json() == issuer.jwks()

    asyncio.run(look())


def test_served_issuer_is_verified_by_discovery_over_http(issuer: TestIssuer) -> None:
    """By a verifier that knows only the address; a rotation reaches it, too."""
    with issuer.serve() as served:
        verifier = Verifier(issuer=served.issuer, audience=issuer.audience)
        assert verifier.verify_sync(served.token(sub=USER)).subject == USER
        assert verifier.verify_sync(served.rotated(sub=USER)).subject == USER
        # The name is another one: a token of the unserved issuer is not for this verifier.
        assert refusal(verifier, issuer.token()) == "iss_refused"
        with pytest.raises(HTTPError, match="404"):
            urlopen(f"{served.issuer}/nothing")
        with pytest.raises(HTTPError, match="405"):
            urlopen(Request(served.jwks_uri, method="POST"))
    assert not [thread for thread in threading.enumerate() if "serve_forever" in thread.name]


def test_served_issuer_is_verified_in_another_process(issuer: TestIssuer) -> None:
    """A service in a process of its own, configured by the environment."""
    program = (
        "import sys; from token_server.verify import Verifier;"
        "print(Verifier.from_environment().verify_sync(sys.stdin.read()).subject)"
    )
    with issuer.serve() as served:
        done = subprocess.run(
            [sys.executable, "-c", program],
            input=served.token(sub=USER),
            env={"TOKEN_VERIFY_ISSUER": served.issuer, "TOKEN_VERIFY_AUDIENCE": issuer.audience},
            capture_output=True,
            check=True,
            text=True,
        )
    assert done.stdout.strip() == USER


# --- revocation -----------------------------------------------------------------------------------


def test_revoked_session_is_refused_at_once(issuer: TestIssuer) -> None:
    """All tokens with its `sid`, remembered or not, and no others."""
    verifier = issuer.verifier()
    first, second = (issuer.token(sub=USER, sid="ses_1", jti=str(number)) for number in range(2))
    other = issuer.token(sub=USER)
    for token in (first, second, other):
        assert verifier.verify_sync(token).subject == USER
    issuer.revoke(first)
    assert {refusal(verifier, token) for token in (first, second)} == {"status_revoked"}
    assert verifier.verify_sync(other).subject == USER
    assert refusal(verifier, issuer.revoked()) == "status_revoked"


def test_token_without_status_cannot_be_revoked(issuer: TestIssuer) -> None:
    """A test that believes it did so would show nothing."""
    with pytest.raises(ValueError, match="no status"):
        issuer.revoke(issuer.token())


def test_service_elsewhere_hears_of_a_revocation_and_of_a_compromise(issuer: TestIssuer) -> None:
    """Over HTTP by the library's own fetching: within the second of the list's `ttl`."""
    with issuer.serve() as served:
        verifier = Verifier(issuer=served.issuer, audience="https://orders.example")
        token, machine = served.token(sub=USER), served.token()
        assert verifier.verify_sync(token).subject == USER
        assert verifier.verify_sync(machine).client_id == "test-client"
        served.revoke(token)
        wait_for_refusal(verifier, token, {"status_revoked"})
        served.compromised()
        # The list's new `kid` brings new keys, too: whichever of the two comes first.
        wait_for_refusal(verifier, machine, {"kid_compromised", "kid_unknown"})
        assert verifier.verify_sync(served.token()).client_id == "test-client"


def wait_for_refusal(verifier: Verifier, token: str, reasons: set[str]) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            verifier.verify_sync(token)
        except TokenError as error:
            assert error.reason in reasons  # noqa: PT017 - until it is refused at all
            return
        time.sleep(0.05)
    pytest.fail("the token is still accepted")


# --- as the real server ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real() -> Iterator[RunningTokenServer]:
    with running_token_server() as running:
        yield running


@pytest.mark.parametrize("kind", ["machine", "user"])
def test_token_is_of_the_real_servers_shape(real: RunningTokenServer, kind: str) -> None:
    """Header and claims one by one: the same names in the same order, of the same form."""
    audience = "https://orders.example"
    issuer = TestIssuer(real.issuer, audience=audience)
    if kind == "machine":
        secret = real.client_secret
        theirs = real.run(
            "token", "get", "--client-id", real.client_id, "--resource", audience, stdin=secret
        )
        made = issuer.token(scope=theirs["scope"], client_id=real.client_id)
    else:
        theirs = real.log_in(resource=audience)
        made = issuer.token(
            sub=str(decode_unverified(theirs["access_token"])[1]["sub"]),
            scope=theirs["scope"],
            client_id=real.public_client_id,
        )
    header, claims = decode_unverified(theirs["access_token"])
    assert_same_shape(decode_unverified(made), (header, claims))


def test_published_keys_are_of_the_real_servers_shape(
    real: RunningTokenServer, issuer: TestIssuer
) -> None:
    """The members of a JWK, and the members of the metadata that both have."""
    with urlopen(real.jwks_uri) as answer:
        theirs = json.loads(answer.read())
    for key in issuer.jwks()["keys"] + theirs["keys"]:
        assert list(key) == ["kty", "use", "alg", "kid", "n", "e"]
        assert (key["kty"], key["use"], key["alg"], key["e"]) == ("RSA", "sig", "RS256", "AQAB")
        assert (len(key["kid"]), len(key["n"])) == (43, 342)
    with urlopen(f"{real.issuer}/.well-known/oauth-authorization-server") as answer:
        metadata = json.loads(answer.read())
    assert issuer.metadata().keys() <= metadata.keys()
    served = TestIssuer(real.issuer).metadata()
    assert {served["issuer"], served["jwks_uri"]} == {metadata["issuer"], metadata["jwks_uri"]}


FORMS: dict[str, Callable[[Any], bool]] = {
    "jti": lambda value: re.fullmatch(r"[\w-]{22}", value) is not None,
    "sid": lambda value: re.fullmatch(r"ses_[\w-]{22}", value) is not None,
    "iat": lambda value: type(value) is int,
    "exp": lambda value: type(value) is int,
    "auth_time": lambda value: type(value) is int,
    "status": lambda value: type(value["status_list"].pop("idx")) is int,
}


def assert_same_shape(
    made: tuple[dict[str, Any], dict[str, Any]], real: tuple[dict[str, Any], dict[str, Any]]
) -> None:
    assert list(made[0]) == list(real[0])
    assert {**made[0], "kid": ""} == {**real[0], "kid": ""}
    assert list(made[1]) == list(real[1])
    for name, value in real[1].items():
        if name in FORMS:
            assert FORMS[name](value), name
            assert FORMS[name](made[1][name]), name
        if name == "status" or name not in FORMS:
            assert made[1][name] == value, name
    assert made[1]["exp"] - made[1]["iat"] == real[1]["exp"] - real[1]["iat"]
