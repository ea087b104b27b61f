"""Forward authentication by API key, and the fresh token for the service behind the proxy."""

import secrets
from collections.abc import Mapping
from typing import Any

import httpx
import jwt
import pytest

from tests.support.forward_auth import (
    HERE,
    INVALID_TOKEN,
    ask,
    assert_refused,
    bearer,
    identity,
    make_key,
)
from tests.support.server import AUDIENCE, EMAIL, RunningServer
from tests.support.token_state import SCOPES, World, claims_of
from tests.support.wire import basic
from token_server.core.api_key import format_api_key
from token_server.core.client_policy import TOKEN_EXCHANGE
from token_server.services.client_changes import ClientChanges, change_client
from token_server.services.key_rotation import Asked, compromise_key
from token_server.services.own_api_keys import revoke_api_key
from token_server.services.request_context import RequestContext
from token_server.services.sessions import revoke_session
from token_server.services.user_profile import set_roles
from token_server.services.users import disable_user, show_user
from token_server.verify.claims import MAX_ACT_DEPTH

BILLING = "https://billing.example"
FRESH = {**HERE, "token_audience": BILLING}


@pytest.fixture
async def world(server: RunningServer) -> World:
    return await World.make(server)


@pytest.fixture
async def sqlite_world(sqlite_server: RunningServer) -> World:
    return await World.make(sqlite_server)


# --- API keys ------------------------------------------------------------------------------------


async def test_api_key_speaks_for_its_owner(world: World) -> None:
    """I165: with the scopes that the owner has now, without a client, a session or roles; for the
    audiences of a login at the account API."""
    await set_roles(world.server.runtime, EMAIL, ["clerk"])
    key_id, key = await make_key(world)
    told = identity(await ask(world, {"X-API-Key": key}, {"scope": "orders:read"}))
    assert told == {
        "subject": (await show_user(world.server.runtime, EMAIL)).user_id,
        "client-id": "",
        "scope": "orders:read orders:write",
        "roles": "",
        "session": "",
        "actor": "",
        "api-key-id": key_id,
    }
    await change_client(world.server.runtime, "account", ClientChanges(scopes=("orders:write",)))
    answer = await ask(world, {"X-API-Key": key}, {"scope": "orders:read"})
    assert_refused(answer, 403, "insufficient_scope")
    assert_refused(
        await ask(world, {"X-API-Key": key}, {"role": "clerk"}), 403, "insufficient_scope"
    )
    assert_refused(await ask(world, {"X-API-Key": key}, HERE), 401, "invalid_token")


async def test_api_key_ends_in_the_same_second(world: World) -> None:
    """I166: revoked, expired, of a disabled owner; one answer."""
    runtime, clock = world.server.runtime, world.server.clock
    key_id, key = await make_key(world)
    _, short = await make_key(world, expires_in_s=60)
    _, last = await make_key(world)
    for each in (key, short, last):
        assert identity(await ask(world, {"X-API-Key": each}, {}))
    owner = await show_user(runtime, EMAIL)
    await revoke_api_key(runtime, owner, key_id, RequestContext(clock.now(), "test"))
    clock.advance(60)
    await disable_user(runtime, EMAIL)
    for each in (key, short, last, key[:-1] + "0", "tsk_" + "A" * 65):
        answer = await ask(world, {"X-API-Key": each}, {})
        assert_refused(answer, 401, "invalid_token")
        assert answer.headers["www-authenticate"] == INVALID_TOKEN


async def test_guessing_of_keys_is_throttled(sqlite_world: World) -> None:
    """By the budget of the account API's door; another network is not affected."""
    _, good = await make_key(sqlite_world)
    key_id, _ = await make_key(sqlite_world)
    here, there = ({"X-Forwarded-For": address} for address in ("192.0.2.1", "198.51.100.1"))
    answers: list[httpx.Response] = []
    guess: dict[str, str] = {}
    while not answers or (answers[-1].status_code == 401 and len(answers) < 200):
        guess = {"X-API-Key": format_api_key(key_id, secrets.token_bytes(32))}
        answers.append(await ask(sqlite_world, {**guess, **here}, {}))
    assert answers[-1].status_code == 429
    assert int(answers[-1].headers["retry-after"]) > 0
    assert identity(await ask(sqlite_world, {"X-API-Key": good, **here}, {}))
    again = await ask(sqlite_world, {**guess, **there}, {})
    assert_refused(again, 401, "invalid_token")


# --- a fresh token for the service behind --------------------------------------------------------


async def add_gateway(world: World, **changes: Any) -> None:
    """The client that the proxy is: it serves AUDIENCE and may act for BILLING."""
    policy: dict[str, Any] = {
        "grant_types": (TOKEN_EXCHANGE,),
        "scopes": ("orders:read",),
        "serves_audiences": (AUDIENCE,),
        "exchange_audiences": (BILLING,),
    }
    await world.server.add_client("gateway", **policy, **changes)


def as_gateway(world: World, headers: Mapping[str, str]) -> dict[str, str]:
    proxy = basic("gateway", world.server.secrets["gateway"])[1]
    return {**headers, "X-Forward-Auth-Client": proxy}


def fresh(answer: httpx.Response) -> str:
    assert answer.status_code == 200, answer.text
    scheme, _, token = answer.headers["authorization"].partition(" ")
    assert scheme == "Bearer"
    return str(token)


async def test_fresh_token_is_narrower_and_dies_with_the_session(world: World) -> None:
    """RFC 8693: another audience, no more scope than subject and client have, `act`, the session's
    position in the status list."""
    await add_gateway(world)
    token = (await world.server.login("app"))["access_token"]
    before = claims_of(token)
    answer = await ask(world, as_gateway(world, bearer(token)), FRESH)
    claims = claims_of(fresh(answer))
    assert claims["aud"] == BILLING
    assert (claims["sub"], claims["sid"]) == (before["sub"], before["sid"])
    assert claims["scope"] == "orders:read"
    assert (claims["client_id"], claims["act"]["sub"]) == ("gateway", "gateway")
    assert claims["status"] == before["status"]
    assert claims["exp"] <= before["exp"]
    assert identity(answer)["client-id"] == "app"
    await revoke_session(world.server.runtime, before["sid"])
    ended = await ask(world, as_gateway(world, bearer(token)), FRESH)
    assert_refused(ended, 401, "invalid_token")


async def test_token_from_an_api_key_dies_with_the_key(world: World) -> None:
    """Also for an audience that the key itself is not good for: the exchange's policy decides."""
    await add_gateway(world)
    _, key = await make_key(world)
    claims = claims_of(fresh(await ask(world, as_gateway(world, {"X-API-Key": key}), FRESH)))
    assert (claims["aud"], claims["act"]["sub"]) == (BILLING, "gateway")
    assert "roles" not in claims
    assert "/oauth2/status-lists/m" in claims["status"]["status_list"]["uri"]


async def test_token_is_used_again_for_a_minute_by_the_same_alone(sqlite_world: World) -> None:
    """H155: by the whole credential, client, audience, scope and roles; a signature less each."""
    world, clock = sqlite_world, sqlite_world.server.clock
    await add_gateway(world)
    await set_roles(world.server.runtime, EMAIL, ["clerk"])

    async def minted(token: str) -> str:
        return fresh(await ask(world, as_gateway(world, bearer(token)), FRESH))

    tokens = [(await world.server.login("app"))["access_token"] for _ in range(2)]
    first, other = [await minted(token) for token in tokens]
    assert claims_of(first)["sid"] != claims_of(other)["sid"]
    clock.advance(59)
    assert await minted(tokens[0]) == first
    clock.advance(1)
    second = await minted(tokens[0])
    assert second != first
    await set_roles(world.server.runtime, EMAIL, [])
    third = await minted(tokens[0])
    assert "roles" in claims_of(second)
    assert "roles" not in claims_of(third)
    clock.advance(10)
    await change_client(world.server.runtime, "gateway", ClientChanges(scopes=SCOPES))
    clock.advance(10)
    assert claims_of(await minted(tokens[0]))["scope"] == "orders:read orders:write"


async def test_token_of_a_compromised_key_is_not_used_again(sqlite_world: World) -> None:
    """The key that signs now signs anew, although the minute is not over."""
    world = sqlite_world
    await add_gateway(world)
    token = (await world.server.login("app"))["access_token"]
    headers = as_gateway(world, bearer(token))
    first = fresh(await ask(world, headers, FRESH))
    kid = jwt.get_unverified_header(first)["kid"]
    await compromise_key(world.server.runtime, kid, Asked("compromise"))
    assert_refused(await ask(world, headers, FRESH), 401, "invalid_token")
    token = (await world.server.login("app"))["access_token"]
    second = fresh(await ask(world, as_gateway(world, bearer(token)), FRESH))
    assert jwt.get_unverified_header(second)["kid"] != kid


async def test_only_a_proxy_that_proves_itself_gets_a_token(
    sqlite_world: World, capfd: pytest.CaptureFixture[str]
) -> None:
    """A token for one service must not become one for another by asking. Whatever is wrong with
    the proxy is a 400 for its operator, never a 401: the client's token is good."""
    world = sqlite_world
    await add_gateway(world)
    token = await world.machine_token()
    good = world.server.secrets["gateway"]
    wrong = {
        "client_credentials_missing": [],
        "authorization_scheme_unknown": ["Bearer x"],
        "basic_credentials_malformed": ["Basic %"],
        "client_secret_wrong": [basic("gateway", good + "x")[1]],
        "client_unknown": [basic("nobody", good)[1]],
        "client_auth_method_not_registered": [basic("app", "x")[1]],
        "several_authorization_headers": [basic("gateway", good)[1]] * 2,
        "proxy_does_not_serve_audience": [basic("stock", world.server.secrets["stock"])[1]],
        "token_exchange_not_registered": [basic("orders", world.server.secrets["orders"])[1]],
    }
    for reason, values in wrong.items():
        capfd.readouterr()
        headers = [*bearer(token).items(), *(("X-Forward-Auth-Client", value) for value in values)]
        answer = await ask(world, headers, FRESH)
        assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request"), reason
        assert "www-authenticate" not in answer.headers
        assert "authorization" not in answer.headers
        logged = capfd.readouterr().err
        assert (
            f'"forward_auth_misconfigured","module":"token_server.web.forward_auth","reason":"{reason}"'
            in logged
        )
        assert good not in logged
    elsewhere = {**HERE, "token_audience": "https://stock.example"}
    answer = await ask(world, as_gateway(world, bearer(token)), elsewhere)
    assert answer.status_code == 400


async def test_proxy_is_not_looked_at_before_the_credential_is_good(sqlite_world: World) -> None:
    """Junk does not spend the budget for client secrets; without token_audience nothing is
    checked that nobody asked for."""
    world = sqlite_world
    await add_gateway(world)
    bad = {"X-Forward-Auth-Client": basic("gateway", "wrong")[1]}
    for _ in range(30):
        assert_refused(await ask(world, {**bearer("a.b.c"), **bad}, FRESH), 401, "invalid_token")
    token = await world.machine_token()
    assert identity(await ask(world, {**bearer(token), **bad}))["subject"] == "billing"
    assert (await ask(world, {**bearer(token), **bad}, FRESH)).status_code == 400


async def test_nothing_in_common_is_a_403(sqlite_world: World) -> None:
    """The proxy's client has none of the scopes of the token: nothing is minted."""
    await add_gateway(sqlite_world)
    token = (await sqlite_world.server.login("app", scope="orders:write"))["access_token"]
    answer = await ask(sqlite_world, as_gateway(sqlite_world, bearer(token)), FRESH)
    assert_refused(answer, 403, "insufficient_scope")


async def test_chain_that_is_too_long_is_refused(sqlite_world: World) -> None:
    """RFC 8693 §4.1: verifiers would refuse what came out."""
    await add_gateway(sqlite_world)
    claims = claims_of((await sqlite_world.server.login("app"))["access_token"])
    act: dict[str, Any] = {"sub": "billing"}
    for _ in range(MAX_ACT_DEPTH - 1):
        act = {"sub": "billing", "act": act}
    token = sqlite_world.signed({**claims, "client_id": "billing", "act": act})
    assert identity(await ask(sqlite_world, bearer(token)))["actor"] == "billing"
    answer = await ask(sqlite_world, as_gateway(sqlite_world, bearer(token)), FRESH)
    assert_refused(answer, 401, "invalid_token")
