"""`POST /oauth2/introspect` (RFC 7662, RFC 9701; security cases H149 to H161)."""

import asyncio
import json
import secrets
from pathlib import Path
from typing import Any

import jwt
import pytest
from sqlalchemy import event

from tests.support.contract import Contract
from tests.support.server import (
    AUDIENCE,
    EMAIL,
    ISSUER,
    RunningServer,
    copy_keys,
    make_settings,
    running_server,
)
from tests.support.token_state import FOREIGN_AUDIENCE, World, claims_of
from tests.web.test_faults import database_away
from token_server.records import Secret
from token_server.services.clients import disable_client, enable_client
from token_server.services.key_rotation import Asked, compromise_key
from token_server.services.maintenance import mark_restored
from token_server.services.sessions import revoke_session
from token_server.services.user_profile import set_roles
from token_server.services.users import disable_user, enable_user, set_password
from token_server.web.introspection import prefers_signed

SIGNED = "application/token-introspection+jwt"
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


@pytest.fixture
async def world(server: RunningServer) -> World:
    return await World.make(server)


@pytest.fixture
async def sqlite_world(sqlite_server: RunningServer) -> World:
    return await World.make(sqlite_server)


async def test_logins_access_token_is_told_to_the_service_it_is_for(world: World) -> None:
    """RFC 7662 §2.2, RFC 9068 §2.2: exactly these members, no e-mail, no name; for no cache."""
    await set_roles(world.server.runtime, EMAIL, ["clerk"])
    tokens = await world.server.login("app")
    claims = claims_of(tokens["access_token"])
    answer = await world.introspect("orders", tokens["access_token"])
    assert answer.json() == {
        "active": True,
        "client_id": "app",
        "token_type": "Bearer",
        "exp": claims["exp"],
        "iat": claims["iat"],
        "sub": claims["sub"],
        "aud": AUDIENCE,
        "iss": ISSUER,
        "jti": claims["jti"],
        "scope": "orders:read orders:write",
        "sid": claims["sid"],
        "auth_time": claims["auth_time"],
        "roles": ["clerk"],
    }
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["content-type"] == "application/json"
    assert not [name for name in answer.headers if name.startswith("access-control-")]


async def test_machine_token_and_several_audiences(sqlite_world: World) -> None:
    """Without `sid`; `aud` is an array when there are several, one of them the asker's."""
    claims = claims_of(await sqlite_world.machine_token())
    token = sqlite_world.signed({**claims, "aud": [AUDIENCE, "https://x.example"], "scope": ""})
    told = await sqlite_world.members(token)
    assert told["aud"] == [AUDIENCE, "https://x.example"]
    assert {"sid", "scope", "roles", "auth_time"}.isdisjoint(told)
    assert (told["sub"], told["client_id"]) == ("billing", "billing")


async def test_chain_of_actors_is_told(sqlite_world: World) -> None:
    """RFC 8693 §4.1: as it stands in the token."""
    act = {"sub": "billing", "act": {"sub": "web"}}
    claims = claims_of((await sqlite_world.server.login("app"))["access_token"])
    token = sqlite_world.signed({**claims, "client_id": "billing", "act": act})
    assert (await sqlite_world.members(token))["act"] == act


@pytest.mark.parametrize("client_id", [None, "nobody", "app"])
async def test_only_confidential_clients_may_ask(
    sqlite_world: World, client_id: str | None
) -> None:
    """H149: no credentials, an unknown client, a public one: 401 and no fact (RFC 7662 §2.1)."""
    tokens = await sqlite_world.server.login("app")
    for token in (tokens["access_token"], tokens["refresh_token"], "junk"):
        answer = await sqlite_world.introspect(client_id, token)
        assert (answer.status_code, answer.json()["error"]) == (401, "invalid_client")
        assert answer.headers["www-authenticate"].startswith("Basic ")


async def test_wrong_secret_is_refused(sqlite_world: World) -> None:
    """H149: and counted as at the token endpoint."""
    token = await sqlite_world.machine_token()
    sqlite_world.server.secrets["orders"] += "x"
    answer = await sqlite_world.introspect("orders", token)
    assert (answer.status_code, answer.json()["error"]) == (401, "invalid_client")


async def test_token_for_another_is_none_of_the_askers_business(sqlite_world: World) -> None:
    """H150, H151: another audience, another client's refresh token: inactive and nothing else."""
    world = sqlite_world
    tokens = await world.server.login("app")
    assert not await world.is_active(tokens["access_token"], "stock")
    for asker in ("orders", "stock", "web", "billing"):
        assert not await world.is_active(tokens["refresh_token"], asker)
    assert await world.is_active(tokens["access_token"], "orders")


async def test_client_may_ask_about_its_own_tokens(world: World) -> None:
    """A refresh token has no token_type: it is for no service; only the current one is active, and
    asking spends and ends nothing."""
    tokens = await world.server.login("web")
    assert await world.is_active(tokens["access_token"], "web")
    told = await world.members(tokens["refresh_token"], "web")
    now = world.server.clock.now()
    assert told == {
        "active": True,
        "client_id": "web",
        "exp": now + 7 * 86400,
        "iat": now,
        "sub": claims_of(tokens["access_token"])["sub"],
        "aud": AUDIENCE,
        "iss": ISSUER,
        "sid": claims_of(tokens["access_token"])["sid"],
        "scope": "orders:read orders:write",
    }
    newer = (await world.server.refresh(tokens["refresh_token"], "web")).json()
    world.server.clock.advance(60)
    assert not await world.is_active(tokens["refresh_token"], "web")
    assert await world.is_active(newer["refresh_token"], "web")
    assert (await world.server.refresh(newer["refresh_token"], "web")).status_code == 200


async def test_what_is_no_token_of_ours_is_inactive(sqlite_world: World) -> None:
    """H151: junk, another issuer, another key, another typ, no audience, cut off, expired."""
    world = sqlite_world
    access = await world.machine_token()
    claims = claims_of(access)
    dead = [
        "x",
        "a.b.c",
        access[:-2],
        access + "=",
        "." * 10_000,
        "rt_" + "A" * 72,
        "\u00fc" * 40,
        world.signed({**claims, "iss": "https://evil.example"}),
        world.signed(claims, "statuslist+jwt"),
        world.signed(claims, "token-introspection+jwt"),
        world.signed({**claims, "aud": []}),
        world.signed({name: claims[name] for name in claims if name != "aud"}),
        world.signed({**claims, "sub": "meter-2"}),
        world.signed({**claims, "exp": world.server.clock.now()}),
        world.signed({**claims, "cnf": {"jkt": "x"}}),
        jwt.encode(claims, "k" * 32, "HS256", headers={"typ": "at+jwt", "kid": "x"}),
        jwt.encode(claims, "", "none", headers={"typ": "at+jwt"}),
    ]
    for token in dead:
        assert not await world.is_active(token, "billing"), token
    assert await world.is_active(access, "billing")
    world.server.clock.advance(901)
    assert not await world.is_active(access, "billing")


@pytest.mark.parametrize(
    "end", ["session", "user", "client", "password", "restored", "pruned", "other user"]
)
async def test_end_of_what_stands_behind_a_token_ends_it(sqlite_world: World, end: str) -> None:
    """H153: the strictest word wins, at once; nothing comes back with a user or client that does
    (CVE-2026-8922)."""
    world, runtime = sqlite_world, sqlite_world.server.runtime
    tokens = await world.server.login("web")
    access, claims = tokens["access_token"], claims_of(tokens["access_token"])
    match end:
        case "session":
            await revoke_session(runtime, claims["sid"])
        case "user":
            await disable_user(runtime, EMAIL)
            assert not await world.is_active(access)
            await enable_user(runtime, EMAIL)
        case "client":
            await disable_client(runtime, "web")
            assert not await world.is_active(access)
            await enable_client(runtime, "web")
        case "password":
            await set_password(runtime, EMAIL, Secret("another password 1"))
        case "restored":
            await mark_restored(runtime)
        case "pruned":
            access = world.signed({**claims, "sid": "ses_" + "A" * 22})
        case "other user":
            access = world.signed({**claims, "sub": "usr_" + "A" * 22})
    assert not await world.is_active(access)
    if end not in ("pruned", "other user"):
        assert (await world.server.refresh(tokens["refresh_token"], "web")).status_code == 400


async def test_machine_token_dies_with_its_client_and_with_a_restored_backup(world: World) -> None:
    """H153, and revocation.md: positions from before `db restored` count as revoked."""
    token, other = await world.machine_token(), await world.machine_token("meter")
    await disable_client(world.server.runtime, "billing")
    assert not await world.is_active(token)
    assert await world.is_active(other)
    await mark_restored(world.server.runtime)
    assert not await world.is_active(other)


async def test_token_without_session_dies_with_its_user_and_its_password(
    sqlite_world: World,
) -> None:
    """What an API key was exchanged for: no `sid`, the user behind it all the same."""
    world, runtime = sqlite_world, sqlite_world.server.runtime
    claims = claims_of((await world.server.login("app"))["access_token"])
    bare = {name: claims[name] for name in claims if name not in ("sid", "auth_time", "status")}
    token = world.signed(bare)
    assert await world.is_active(token)
    await disable_user(runtime, EMAIL)
    assert not await world.is_active(token)
    await enable_user(runtime, EMAIL)
    world.server.clock.advance(1)
    await set_password(runtime, EMAIL, Secret("another password 1"))
    assert not await world.is_active(token)


async def test_token_of_a_compromised_key_is_inactive(sqlite_world: World) -> None:
    """N236: whatever it says, and whenever it says it was made."""
    world = sqlite_world
    token = await world.machine_token()
    kid = jwt.get_unverified_header(token)["kid"]
    await compromise_key(world.server.runtime, kid, Asked("compromise"))
    assert not await world.is_active(token)
    assert await world.is_active(await world.machine_token())


async def test_scanning_reaches_no_database(sqlite_world: World) -> None:
    """H154: junk, made-up refresh tokens and tokens for others cost no query; a live one does."""
    world = sqlite_world
    good = await world.machine_token()
    foreign = world.signed({**claims_of(good), "aud": FOREIGN_AUDIENCE})
    header, payload, _ = good.split(".")
    assert await world.is_active(good)
    statements: list[str] = []

    def note(_conn: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if "denied_tokens" in statement or "families" in statement:
            statements.append(statement)

    store: Any = world.server.runtime.store
    look_up = store.read_alone

    async def look_up_and_note(*queries: Any) -> Any:
        statements.append("look-up")
        return await look_up(*queries)

    store.read_alone = look_up_and_note
    engines = [
        value.sync_engine
        for value in vars(store._backend).values()
        if hasattr(value, "sync_engine")
    ]
    for engine in engines:
        event.listen(engine, "before_cursor_execute", note)
    for _ in range(25):
        guess = f"{header}.{payload}.{secrets.token_urlsafe(256)}"
        for token in (guess, "rt_" + secrets.token_urlsafe(54), secrets.token_urlsafe(99), foreign):
            assert not await world.is_active(token)
    assert statements == []
    assert await world.is_active(good)
    assert len(statements) == 1


async def test_without_the_database_junk_is_inactive_and_the_rest_is_not_now(
    postgres_url: str, shared_keys: Path, tmp_path: Path
) -> None:
    """Never a guess: 503 with Retry-After, and right again when it is back (O254)."""
    copy_keys(shared_keys, tmp_path)
    async with running_server(make_settings(postgres_url, tmp_path)) as server:
        world = await World.make(server)
        token = await world.machine_token()
        assert await world.is_active(token)
        async with database_away(postgres_url):
            answer = await world.introspect("orders", token)
            assert (answer.status_code, answer.json()["error"]) == (503, "temporarily_unavailable")
            assert int(answer.headers["retry-after"]) >= 1
            assert not await world.is_active("junk")
        async with asyncio.timeout(20):  # it asks twice a second whether the database is back
            while (await world.introspect("orders", token)).status_code == 503:  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        assert await world.is_active(token)


async def test_answer_can_be_had_signed(sqlite_world: World) -> None:
    """RFC 9701 §5: for the asker alone, neither `sub` nor `exp`, a typ of its own; inactive tokens
    as well."""
    world = sqlite_world
    token = await world.machine_token()
    jwks = (await world.server.http.get("/.well-known/jwks.json")).json()
    for asked, members in ((token, await world.members(token)), ("junk", {"active": False})):
        answer = await world.introspect("orders", asked, {"Accept": SIGNED})
        assert answer.headers["content-type"] == SIGNED
        assert answer.headers["cache-control"] == "no-store"
        header = jwt.get_unverified_header(answer.text)
        assert (header["typ"], header["alg"]) == ("token-introspection+jwt", "RS256")
        key = jwt.PyJWKSet.from_dict(jwks)[header["kid"]]
        claims = jwt.decode(
            answer.text, key, algorithms=["RS256"], audience="orders", options={"verify_iat": False}
        )
        assert claims == {
            "iss": ISSUER,
            "aud": "orders",
            "iat": world.server.clock.now(),
            "token_introspection": members,
        }
        assert not await world.is_active(answer.text)


@pytest.mark.parametrize(
    ("accept", "is_signed"),
    [
        ([], False),
        (["*/*"], False),
        (["application/json"], False),
        ([SIGNED], True),
        ([SIGNED.upper()], True),
        (["application/*, " + SIGNED], True),
        ([SIGNED + ";q=0.5, application/json"], False),
        (["application/json;q=0.5", SIGNED], True),
        ([SIGNED + ";q=0"], False),
        ([SIGNED + ";q=junk"], False),
        ([SIGNED + ";q=²"], False),
        ([";;,,;q=,=" + SIGNED], False),
    ],
)
def test_signed_answer_is_for_whoever_names_it(accept: list[str], is_signed: bool) -> None:
    """RFC 9110 §12.5.1; `*/*` is what every client sends without thinking of JWTs."""
    assert prefers_signed(accept) is is_signed


async def test_endpoint_answers_as_documented(sqlite_world: World) -> None:
    """Each answer has the documented status, headers and body, and none is documented that was not
    seen here (but 500 and 503)."""
    world, http = sqlite_world, sqlite_world.server.http
    contract = Contract((await http.get("/openapi.json")).json())
    await set_roles(world.server.runtime, EMAIL, ["clerk"])
    tokens = await world.server.login("web")
    claims = claims_of(tokens["access_token"])
    several = world.signed({**claims, "aud": [AUDIENCE, "x:y"], "act": {"sub": "billing"}})
    for client_id, token in (
        ("orders", tokens["access_token"]),
        ("orders", several),
        ("web", tokens["refresh_token"]),
        ("orders", "junk"),
    ):
        contract.check(await world.introspect(client_id, token))
    contract.check(await world.introspect("orders", tokens["access_token"], {"Accept": SIGNED}))
    url = "/oauth2/introspect"
    sound = {"client_id": "orders", "client_secret": world.server.secrets["orders"]}
    for answer, status in (
        (await http.post(url, data=sound), 400),
        (await http.post(url + "?token=x", data=sound), 400),
        (await http.post(url, data={"token": "x"}), 401),
        (await http.post(url, content="a" * 20_000, headers=FORM), 413),
        (await http.post(url, json=sound), 415),
    ):
        assert contract.check(answer).status_code == status
    wrong = {**sound, "client_secret": "ts_wrong", "token": "x"}
    guesses = [contract.check(await http.post(url, data=wrong)) for _ in range(40)]
    assert guesses[-1].status_code == 429
    documented = contract.document["paths"][url]["post"]["responses"]
    seen = {str(status) for name, status in contract.seen if name == "introspectToken"}
    assert documented.keys() - seen == {"500", "503"}


async def test_no_other_origin_may_ask(sqlite_world: World) -> None:
    """H161: no CORS header to anything, and no preflight."""
    http, origin = sqlite_world.server.http, {"Origin": "https://shop.example"}
    asked = await http.post("/oauth2/introspect", data={"token": "x"}, headers=origin)
    preflight = await http.options("/oauth2/introspect", headers=origin)
    assert preflight.status_code == 405
    for answer in (asked, preflight):
        assert not [name for name in answer.headers if name.startswith("access-control-")]
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"


async def test_no_token_is_in_the_log(
    sqlite_world: World, capfd: pytest.CaptureFixture[str]
) -> None:
    """O263: why a token is inactive is in the log, the token is not."""
    tokens = await sqlite_world.server.login("app")
    await sqlite_world.is_active(tokens["refresh_token"])
    await sqlite_world.revoke("app", tokens["access_token"])
    await sqlite_world.is_active(tokens["access_token"])
    logged = capfd.readouterr().err
    reasons = [
        json.loads(line)["reason"]
        for line in logged.splitlines()
        if "introspected_inactive" in line
    ]
    assert reasons == ["refresh_token_not_current", "session_revoked"]
    for token in (tokens["refresh_token"], tokens["access_token"]):
        assert token not in logged
        assert token.rpartition(".")[2] not in logged


async def test_status_claim_that_cannot_be_read_is_not_let_through(sqlite_world: World) -> None:
    """Only another version of this server can have signed it: not now, rather than unlooked at."""
    world = sqlite_world
    claims = claims_of(await world.machine_token("meter"))
    listed = claims["status"]["status_list"]
    for status in (
        {},
        {"status_list": {"idx": 1, "uri": "https://evil.example/oauth2/status-lists/m0"}},
        {"status_list": {**listed, "idx": 131_072}},
        {"status_list": {**listed, "uri": ISSUER + "/oauth2/status-lists/x0"}},
    ):
        answer = await world.introspect("orders", world.signed({**claims, "status": status}))
        assert (answer.status_code, answer.json()["error"]) == (503, "temporarily_unavailable")
