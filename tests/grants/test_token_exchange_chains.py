"""Call chains by token exchange: who acts, how deep, and what ends all of it (RFC 8693 §4.1)."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from tests.support.exchange import BILLING, GATEWAY, LEDGER, ORDERS, REFUSED, SCOPES, Chain
from tests.support.server import EMAIL, RunningServer
from tests.support.token_state import claims_of
from token_server.cli.explanation_text import explanation_json, explanation_text
from token_server.core.client_policy import TOKEN_EXCHANGE
from token_server.core.status_list import parse_uri
from token_server.records import Secret
from token_server.services.clients import disable_client
from token_server.services.sessions import revoke_session
from token_server.services.token_explanation import explain_token
from token_server.services.users import disable_user, set_password
from token_server.storage.token_facts import MAX_ACTORS
from token_server.verify import StaticKeySet, Verifier
from token_server.verify.claims import MAX_ACT_DEPTH

ALIVE, DEAD = [True] * 3, [False] * 3


@pytest.fixture
async def chain(server: RunningServer) -> Chain:
    return await Chain.make(server)


@pytest.fixture
async def sqlite_chain(sqlite_server: RunningServer) -> Chain:
    return await Chain.make(sqlite_server)


async def is_listed_as_revoked(chain: Chain, token: str) -> bool:
    """What a verifier that only has the status lists finds (status list draft §8.3)."""
    status, claim = chain.server.runtime.status, claims_of(token)["status"]["status_list"]
    chain.server.clock.advance(1)
    await status.follow(at_once=True)
    name = parse_uri(claim["uri"], chain.server.runtime.settings.issuer)
    assert name is not None
    found = status.find(name)
    assert found is not None
    return found.bits.is_set(claim["idx"])


async def test_each_service_adds_itself_around_those_before(chain: Chain) -> None:
    """RFC 8693 §4.1: the current actor outermost; subject, session and position stay the same."""
    subject_token = await chain.login()
    tokens = await chain.through(subject_token)
    claims = [claims_of(token) for token in tokens]
    assert [each["aud"] for each in claims] == [ORDERS, BILLING, LEDGER]
    assert [each["client_id"] for each in claims] == ["gateway", "orders", "billing"]
    assert [each["act"] for each in claims] == [
        {"sub": "gateway"},
        {"sub": "orders", "act": {"sub": "gateway"}},
        {"sub": "billing", "act": {"sub": "orders", "act": {"sub": "gateway"}}},
    ]
    for name in ("sub", "sid", "auth_time", "status"):
        assert {str(each[name]) for each in claims} == {str(claims_of(subject_token)[name])}
    assert await chain.live(tokens) == ALIVE


async def test_our_verifier_tells_the_chain(sqlite_chain: Chain) -> None:
    """A service reads who calls it without knowing how `act` nests."""
    tokens = await sqlite_chain.through(await sqlite_chain.login())
    jwks = (await sqlite_chain.server.http.get("/.well-known/jwks.json")).json()
    verifier = Verifier(
        issuer=sqlite_chain.server.runtime.settings.issuer,
        audience=LEDGER,
        keys=StaticKeySet.from_jwks(jwks),
        clock=sqlite_chain.server.clock.now,
    )
    assert verifier.verify_sync(tokens[-1]).actors == ("billing", "orders", "gateway")


async def test_explanation_names_whoever_passed_the_token_on(sqlite_chain: Chain) -> None:
    """`token explain` shows the chain, and which link of it is broken."""
    token = (await sqlite_chain.through(await sqlite_chain.login()))[-1]
    runtime = sqlite_chain.server.runtime
    found = await explain_token(runtime, token)
    assert (found.verdict, found.actors) == ("live", ("billing", "orders", "gateway"))
    assert "gateway -> orders -> billing" in explanation_text(found, None)
    assert explanation_json(found, None)["actors"] == ["billing", "orders", "gateway"]
    await disable_client(runtime, "gateway")
    assert (await explain_token(runtime, token)).verdict == "actor_disabled"


End = Callable[[Chain, str], Awaitable[None]]


async def end_session(chain: Chain, token: str) -> None:
    await revoke_session(chain.server.runtime, claims_of(token)["sid"])


async def log_out(chain: Chain, token: str) -> None:
    await chain.world.give_back("app", token)


async def disable(chain: Chain, _token: str) -> None:
    await disable_user(chain.server.runtime, EMAIL)


async def change_password(chain: Chain, _token: str) -> None:
    await set_password(chain.server.runtime, EMAIL, Secret("another password 1"))


@pytest.mark.parametrize("end", [end_session, log_out, disable, change_password])
async def test_end_of_the_login_ends_the_whole_chain(chain: Chain, end: End) -> None:
    """For introspection at once, for the status list by the one bit that all of them share."""
    subject_token = await chain.login()
    others = await chain.through(await chain.login())
    tokens = await chain.through(subject_token)
    await end(chain, subject_token)
    assert await chain.live(tokens) == DEAD
    assert [await is_listed_as_revoked(chain, token) for token in tokens] == [True] * 3
    if end in (end_session, log_out):
        assert await chain.live(others) == ALIVE
        assert not await is_listed_as_revoked(chain, others[0])
    answer = await chain.ask("billing", tokens[1])
    assert (answer.status_code, answer.json()) == (400, REFUSED)


async def test_exchange_in_the_moment_of_the_end_gives_nothing_that_lives(chain: Chain) -> None:
    """Refused, or dead with the session: there is no gap between the look and the signature."""
    for _ in range(5):
        subject_token = await chain.login()
        asking = [asyncio.create_task(chain.ask("gateway", subject_token)) for _ in range(8)]
        await end_session(chain, subject_token)
        answers = [await each for each in asking]
        given = [a.json()["access_token"] for a in answers if a.status_code == 200]
        assert {a.status_code for a in answers} <= {200, 400}
        assert [t for t in given if await chain.world.is_active(t, "orders")] == []


async def test_disabled_service_ends_what_it_passed_on(chain: Chain) -> None:
    """What somebody did with a service's secret does not live on further down the chain."""
    tokens = await chain.through(await chain.login())
    await disable_client(chain.server.runtime, "gateway")
    assert await chain.live(tokens) == DEAD
    answer = await chain.ask("orders", tokens[0], audience=BILLING)
    assert (answer.status_code, answer.json()) == (400, REFUSED)


async def test_service_further_down_leaves_those_before_it_alone(chain: Chain) -> None:
    """Only what passed through it is in doubt."""
    tokens = await chain.through(await chain.login())
    await disable_client(chain.server.runtime, "billing")
    assert await chain.world.is_active(tokens[0], "orders")
    assert not await chain.world.is_active(tokens[2], "ledger")


async def test_exchanged_token_is_given_back_alone(chain: Chain) -> None:
    """RFC 7009 by the acting client: neither its caller's login nor the tokens further down."""
    subject_token = await chain.login()
    tokens = await chain.through(subject_token)
    for stranger in ("app", "orders", "ledger"):
        await chain.world.give_back(stranger, tokens[0])
    assert await chain.live(tokens) == ALIVE
    await chain.world.give_back("gateway", tokens[0])
    assert await chain.live(tokens) == [False, True, True]
    assert not await is_listed_as_revoked(chain, tokens[0])
    assert (await chain.ask("gateway", subject_token)).status_code == 200
    answer = await chain.ask("orders", tokens[0], audience=BILLING)
    assert (answer.status_code, answer.json()) == (400, REFUSED)


async def test_own_token_that_was_narrowed_is_given_back_alone(chain: Chain) -> None:
    """Also for the client that logged the user in: only the token that it names."""
    await chain.server.add_client(
        "site",
        grant_types=("password", TOKEN_EXCHANGE),
        scopes=SCOPES,
        audiences=(GATEWAY,),
        exchange_audiences=(ORDERS,),
    )
    login = (await chain.server.login("site"))["access_token"]
    narrow = await chain.exchange("site", login, scope="orders:read")
    assert claims_of(narrow)["act"] == {"sub": "site"}
    await chain.world.give_back("site", narrow)
    assert not await chain.world.is_active(narrow, "orders")
    assert await chain.world.is_active(login, "gateway")


async def test_machine_is_spoken_for_until_its_token_is_revoked(chain: Chain) -> None:
    """`sub` stays the machine's id, no login is made up, and its position is shared."""
    subject_token = await chain.machine("meter")
    tokens = await chain.through(subject_token)
    claims = claims_of(tokens[-1])
    assert (claims["sub"], claims["client_id"]) == ("meter", "billing")
    assert claims["status"] == claims_of(subject_token)["status"]
    assert claims.keys().isdisjoint({"sid", "auth_time", "roles"})
    await chain.world.give_back("gateway", tokens[0])
    assert await chain.live(tokens) == [False, True, True]
    assert not await is_listed_as_revoked(chain, subject_token)
    await chain.world.give_back("meter", subject_token)
    assert await chain.live(tokens) == DEAD
    assert await is_listed_as_revoked(chain, tokens[-1])


async def test_machine_without_position_ends_with_its_client(chain: Chain) -> None:
    """Its tokens have no place in a list: what was exchanged lives until then, or expires."""
    subject_token = await chain.machine("job")
    tokens = await chain.through(subject_token)
    assert "status" not in claims_of(tokens[0])
    await disable_client(chain.server.runtime, "job")
    assert await chain.live(tokens) == DEAD


def test_all_parts_know_the_same_longest_chain() -> None:
    """B54: what a verifier takes, the database can be asked about."""
    assert MAX_ACTORS == MAX_ACT_DEPTH


@pytest.mark.parametrize("depth", [7, 8], ids=["B54_8_deep", "B54_9_deep"])
async def test_chain_is_as_long_as_verifiers_take_it(sqlite_chain: Chain, depth: int) -> None:
    """B54: services that call each other in a ring come to an end, here and not at a verifier."""
    token = await sqlite_chain.exchange("gateway", await sqlite_chain.login())
    for _ in range(depth - 1):  # its own tokens, again and again
        token = await sqlite_chain.exchange("gateway", token)
    answer = await sqlite_chain.ask("gateway", token)
    if depth < 8:
        assert await sqlite_chain.world.is_active(answer.json()["access_token"], "orders")
        return
    assert (answer.status_code, answer.json()) == (400, REFUSED)
    assert await sqlite_chain.reasons() == ["actor_chain_too_long"]
