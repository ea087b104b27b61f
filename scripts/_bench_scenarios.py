"""What is asked of the server, one scenario after the other; and what a right answer holds.

Each gives a talk for each connection. `floor` names the work in it that cannot be saved.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from scripts._bench_load import Drain, Repeat, Talk
from scripts._bench_world import (
    APP,
    GATEWAY,
    NEXT_AUDIENCE,
    SERVICE,
    World,
    access_tokens,
    login_form,
)
from tests.support.load import form_request, get_request, token_request
from token_server.core.client_policy import TOKEN_EXCHANGE
from token_server.core.token_exchange import ACCESS_TOKEN_TYPE
from token_server.services.metadata import INTROSPECTION_PATH, JWKS_PATH, REVOCATION_PATH

Floor = Literal["signature", "hash"]
ME_PATH = "/api/auth/me"
LONG = 4  # windows of a scenario whose requests take so much longer


@dataclass(frozen=True, slots=True)
class Ask:
    """How many connections, and how many answers one window may take at most."""

    connections: int
    answers: int


@dataclass(frozen=True, slots=True)
class Scenario:
    """`most` is the number of connections beyond which it says nothing new; `stretch` makes its
    windows longer."""

    name: str
    make: Callable[[World, Ask], Awaitable[Sequence[Talk]]]
    floor: Floor = "signature"
    most: int = 64
    stretch: int = 1


async def _client_credentials(world: World, ask: Ask) -> list[Talk]:
    form = {"grant_type": "client_credentials", "client_id": SERVICE}
    request = token_request(form, secret=world.secrets[SERVICE])
    return [Repeat([request], part=b'"access_token":"ey') for _ in range(ask.connections)]


async def _password(world: World, ask: Ask) -> list[Talk]:
    emails = world.emails
    return [
        Repeat([token_request(login_form(emails[number % len(emails)]))], part=b'"refresh_token":"')
        for number in range(ask.connections)
    ]


async def _refresh(world: World, ask: Ask) -> Sequence[Talk]:
    return world.chains[: ask.connections]


async def _introspect(world: World, ask: Ask) -> list[Talk]:
    secret = {"client_id": GATEWAY, "client_secret": world.secrets[GATEWAY]}
    requests = [
        form_request(INTROSPECTION_PATH, {"token": token, **secret})
        for token in access_tokens(world.chains)
    ]
    return [
        Repeat(requests[number:] + requests[:number], part=b'"active":true')
        for number in range(ask.connections)
    ]


async def _revoke(world: World, ask: Ask) -> list[Talk]:
    await world.stock_up(ask.answers)
    tokens = world.unused
    requests = (
        form_request(REVOCATION_PATH, {"token": tokens.pop(), "client_id": APP})
        for _ in range(len(tokens))
    )
    return [Drain([], waiting=requests) for _ in range(ask.connections)]


async def _me(world: World, ask: Ask) -> list[Talk]:
    requests = [
        get_request(ME_PATH, {"Authorization": f"Bearer {token}"})
        for token in access_tokens(world.account_chains)
    ]
    return [
        Repeat(requests[number:] + requests[:number], part=b'"email":"bench-')
        for number in range(ask.connections)
    ]


async def _jwks(_world: World, ask: Ask) -> list[Talk]:
    return [Repeat([get_request(JWKS_PATH)], part=b'"keys":[{') for _ in range(ask.connections)]


async def _jwks_unchanged(world: World, ask: Ask) -> list[Talk]:
    request = get_request(JWKS_PATH, {"If-None-Match": world.etag})
    return [Repeat([request], status=b"304") for _ in range(ask.connections)]


async def _status_list(world: World, ask: Ask) -> list[Talk]:
    request = get_request(world.status_path)
    return [Repeat([request], part=b"ey") for _ in range(ask.connections)]


async def _exchange(world: World, ask: Ask) -> list[Talk]:
    form = {
        "grant_type": TOKEN_EXCHANGE,
        "client_id": GATEWAY,
        "subject_token_type": ACCESS_TOKEN_TYPE,
        "audience": NEXT_AUDIENCE,
    }
    requests = [
        token_request({**form, "subject_token": token}, secret=world.secrets[GATEWAY])
        for token in access_tokens(world.chains)
    ]
    return [
        Repeat(requests[number:] + requests[:number], part=b'"issued_token_type"')
        for number in range(ask.connections)
    ]


async def bare_token(ask: Ask) -> list[Talk]:
    """For the bare handler, which has no world: the request of `client_credentials`."""
    form = {"grant_type": "client_credentials", "client_id": SERVICE}
    request = token_request(form, secret="s" * 50)
    return [Repeat([request], part=b'"access_token":"') for _ in range(ask.connections)]


SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario("client_credentials", _client_credentials),
        Scenario("refresh", _refresh),
        # Few connections keep the hash slots busy; more only wait in the queue.
        Scenario("password", _password, floor="hash", most=4, stretch=LONG),
        Scenario("introspect", _introspect),
        Scenario("revoke", _revoke),
        Scenario("me", _me),
        Scenario("jwks-200", _jwks),
        Scenario("jwks-304", _jwks_unchanged),
        Scenario("status-list", _status_list),
        Scenario("exchange", _exchange),
    )
}
