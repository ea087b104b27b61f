"""The database did what it was told, and the answer never came (251): a real connection that ends
between the two. One effect, a 503, and a client that asks again as it should."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import pytest

from tests.faults.outage.link import Link, link_target
from tests.faults.outage.load import EMAIL, PASSWORD
from tests.support.load import Connection, Reply, json_request, token_request
from tests.support.process import Installation, ServerProcess, start_server
from tests.support.refresh_tokens import generation_of
from token_server.records import Secret
from token_server.services.clients import NewClient, add_client
from token_server.services.users import NewUser, add_user

APP = "lost-answers-app"
WINDOW_S = 4


@dataclass
class World:
    """A server whose only way to PostgreSQL is the link."""

    server: ServerProcess
    link: Link
    database_url: str

    async def ask(self, request: bytes) -> Reply:
        connection = await Connection.open(self.server.address)
        try:
            return await connection.request(request)
        finally:
            connection.close()

    async def log_in(self) -> Reply:
        form = {"grant_type": "password", "username": EMAIL, "password": PASSWORD}
        return await self.ask(token_request({**form, "client_id": APP}))

    async def refresh(self, refresh_token: str) -> Reply:
        form = {"grant_type": "refresh_token", "refresh_token": refresh_token}
        return await self.ask(token_request({**form, "client_id": APP}))

    async def query(self, statement: str) -> object:
        connection = await asyncpg.connect(self.database_url)
        try:
            return await connection.fetchval(statement)
        finally:
            await connection.close()


@pytest.fixture
async def world(postgres_url: str, tmp_path: Path) -> AsyncIterator[World]:
    target, through = link_target(postgres_url)
    async with contextlib.AsyncExitStack() as stack:
        link = await stack.enter_async_context(Link(target).serving())
        overrides = {
            "ARGON2_MEMORY_KIB": "7168",
            "ARGON2_TIME_COST": "5",
            "REFRESH_REPLAY_WINDOW": f"{WINDOW_S}s",
            "REGISTRATION": "open",
        }
        installation = Installation(tmp_path, through(link.address), overrides)
        async with installation.runtime() as runtime:
            await add_client(runtime, NewClient(APP, ("password", "refresh_token"), is_public=True))
            await add_user(runtime, NewUser(EMAIL, "Lost", Secret(PASSWORD)))
        server = await asyncio.to_thread(start_server, installation)
        stack.push_async_callback(asyncio.to_thread, server.stop)
        yield World(server, link, postgres_url)


def assert_not_now(reply: Reply) -> None:
    assert reply.status == 503
    assert b"\r\nretry-after:" in reply.head.lower()


async def test_rotation_whose_answer_was_lost_is_healed_by_a_replay(world: World) -> None:
    """251, 250: the token was spent, the client was told 503; the same token again gives the one
    successor, also when the database was away for longer than the window for replays."""
    first = str((await world.log_in()).json()["refresh_token"])
    second = str((await world.refresh(first)).json()["refresh_token"])
    world.link.lose_answer_to(APP.encode())  # the client is cached: the next one is the rotation
    assert_not_now(await world.refresh(second))
    world.link.cut()
    assert world.link.lost_answers == 1
    generation = await world.query("SELECT generation FROM families")
    assert generation == generation_of(second) + 1, "it did not happen, so nothing was lost"

    since = "SELECT extract(epoch FROM now())::float - rotated_at FROM families"
    while float(str(await world.query(since))) < WINDOW_S + 2:
        assert_not_now(await world.refresh(second))
    world.link.mend()
    reply = await world.refresh(second)
    while reply.status == 503:
        reply = await world.refresh(second)
    third = str(reply.json()["refresh_token"])
    assert (
        generation_of(third) == generation == await world.query("SELECT generation FROM families")
    )
    assert (await world.refresh(third)).status == 200
    assert await world.query("SELECT count(*) FROM families WHERE revoked_at IS NULL") == 1


async def test_registration_whose_answer_was_lost_happened_once(world: World) -> None:
    """251: told 503, and there is one account: the next attempt is told that it is taken."""
    body = {"email": "new@example.org", "password": PASSWORD, "name": "New"}
    request = json_request("/api/auth/register", body)
    world.link.lose_answer_to(b"COMMIT", after=b"INSERT INTO users")
    first = await world.ask(request)
    replies = [first.status]
    while replies[-1] == 503:
        replies.append((await world.ask(request)).status)
    assert replies[0] == 503
    assert world.link.lost_answers == 1
    users = "SELECT count(*) FROM users WHERE email_canonical = 'new@example.org'"
    assert (replies[-1], await world.query(users)) == (409, 1)
