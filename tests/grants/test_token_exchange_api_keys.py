"""API keys in, access tokens out: what such a token says and what ends it (RFC 8693)."""

import pytest

from tests.support.api_keys import EMAIL, SCOPES, add_owner, make_key
from tests.support.exchange import BILLING, ORDERS, REFUSED
from tests.support.guessing import context
from tests.support.server import RunningServer
from tests.support.token_state import World, claims_of
from token_server.core.client_policy import TOKEN_EXCHANGE
from token_server.core.token_exchange import ACCESS_TOKEN_TYPE, API_KEY_TYPE
from token_server.records import User
from token_server.services.client_changes import ClientChanges, change_client
from token_server.services.own_api_keys import revoke_api_key
from token_server.services.user_profile import set_roles
from token_server.services.users import disable_user


@pytest.fixture
async def owner(server: RunningServer) -> User:
    await server.add_client(
        "gateway",
        grant_types=(TOKEN_EXCHANGE,),
        scopes=("orders:read", "bills:read"),
        exchange_audiences=(ORDERS,),
    )
    await server.add_client(
        "orders",
        grant_types=(TOKEN_EXCHANGE,),
        scopes=("orders:read",),
        serves_audiences=(ORDERS,),
        exchange_audiences=(BILLING,),
    )
    await server.add_client("billing", grant_types=(), serves_audiences=(BILLING,))
    return await add_owner(server.runtime)


async def ask(server: RunningServer, key: str, **form: str) -> tuple[int, dict[str, str]]:
    sound = {"subject_token": key, "subject_token_type": API_KEY_TYPE}
    answer = await server.token("gateway", None, grant_type=TOKEN_EXCHANGE, **{**sound, **form})
    assert key not in answer.text
    return answer.status_code, answer.json()


async def exchange(server: RunningServer, key: str) -> str:
    status, body = await ask(server, key)
    assert status == 200, body
    return body["access_token"]


async def further(server: RunningServer, token: str) -> str:
    """The same call, one service further down."""
    answer = await server.token(
        "orders",
        None,
        grant_type=TOKEN_EXCHANGE,
        subject_token=token,
        subject_token_type=ACCESS_TOKEN_TYPE,
    )
    assert answer.status_code == 200, answer.text
    return str(answer.json()["access_token"])


async def test_token_speaks_for_the_owner_within_the_key(
    server: RunningServer, owner: User
) -> None:
    """No login is made up, the scope is what key and client both have, and no role comes along."""
    await set_roles(server.runtime, EMAIL, ["boss"])
    _, key = await make_key(server.runtime, owner)
    claims = claims_of(await exchange(server, key))
    assert (claims["sub"], claims["client_id"]) == (owner.user_id, "gateway")
    assert (claims["aud"], claims["scope"]) == (ORDERS, "orders:read")
    assert claims["act"] == {"sub": "gateway"}
    assert "/m" in claims["status"]["status_list"]["uri"]
    assert claims.keys().isdisjoint({"sid", "auth_time", "roles"})


async def test_all_tokens_of_a_key_share_its_position(server: RunningServer, owner: User) -> None:
    """Also further down the chain; another key of the same owner stands elsewhere."""
    (_, key), (_, other) = [await make_key(server.runtime, owner) for _ in range(2)]
    first = await exchange(server, key)
    positions = [
        claims_of(token)["status"]
        for token in (
            first,
            await exchange(server, key),
            await further(server, first),
            await exchange(server, other),
        )
    ]
    assert positions[0] == positions[1] == positions[2] != positions[3]


@pytest.mark.parametrize("end", ["key", "owner"])
async def test_end_of_the_key_ends_the_chain(server: RunningServer, owner: User, end: str) -> None:
    """Introspection says so at once, and no further exchange gets through."""
    made, key = await make_key(server.runtime, owner)
    _, other = await make_key(server.runtime, owner)
    world = World(server)
    token, kept = await exchange(server, key), await exchange(server, other)
    below = await further(server, token)
    assert await world.is_active(token)
    assert await world.is_active(below, "billing")
    if end == "key":
        await revoke_api_key(server.runtime, owner, made.key_id, context(server.runtime))
    else:
        await disable_user(server.runtime, EMAIL)
    assert not await world.is_active(token)
    assert not await world.is_active(below, "billing")
    assert await world.is_active(kept) == (end == "key")
    assert await ask(server, key) == (400, REFUSED)


async def test_token_of_a_key_is_given_back_alone(server: RunningServer, owner: User) -> None:
    """The number that all tokens of the key share is not the acting client's to revoke."""
    _, key = await make_key(server.runtime, owner)
    token, sister = await exchange(server, key), await exchange(server, key)
    world = World(server)
    await world.give_back("gateway", token)
    assert not await world.is_active(token)
    assert await world.is_active(sister)
    assert claims_of(await exchange(server, key))["status"] == claims_of(sister)["status"]


@pytest.mark.parametrize(("lives_s", "expected"), [(100, 100), (None, 900), (5000, 900)])
async def test_token_never_outlives_its_key(
    server: RunningServer, owner: User, lives_s: int | None, expected: int
) -> None:
    """L210: the end of the key is the end of the token."""
    expires_at = None if lives_s is None else server.clock.now() + lives_s
    _, key = await make_key(server.runtime, owner, expires_at=expires_at)
    claims = claims_of(await exchange(server, key))
    assert claims["exp"] - claims["iat"] == expected
    if lives_s == 100:
        server.clock.advance(100)
        assert await ask(server, key) == (400, REFUSED)


async def test_scope_is_what_keys_may_have_now(server: RunningServer, owner: User) -> None:
    """L210: taken from all keys by the operator, refused at the next exchange."""
    _, key = await make_key(server.runtime, owner)
    await change_client(server.runtime, "account", ClientChanges(scopes=SCOPES[1:]))
    status, body = await ask(server, key)
    assert (status, body["error"]) == (400, "invalid_scope")
    status, body = await ask(server, key, scope="orders:read")
    assert (status, body["error"]) == (400, "invalid_scope")


async def test_what_is_no_key_is_refused_alike(server: RunningServer, owner: User) -> None:
    """L209: an access token, a client's secret, a key that was never made, another's form."""
    _, key = await make_key(server.runtime, owner)
    token = await exchange(server, key)
    for text in (token, server.secrets["gateway"], key[:-1], "tsk_", "é"):
        assert await ask(server, text) == (400, REFUSED)
    assert await ask(server, key, subject_token_type=ACCESS_TOKEN_TYPE) == (400, REFUSED)
