"""The registration switch, and the setting that keeps a taken e-mail to itself."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.account import assert_problem, log_in, post
from tests.support.server import RunningServer, copy_keys, make_settings, running_server
from token_server.services.users import enable_user, list_users

NEWCOMER = {"email": "test@example.com", "password": "securepass123", "name": "Test User"}
Serve = Callable[..., AbstractAsyncContextManager[RunningServer]]


@pytest.fixture
def serve(database_url: str, shared_keys: Path, tmp_path: Path) -> Serve:
    copy_keys(shared_keys, tmp_path)

    @asynccontextmanager
    async def start(**settings: Any) -> AsyncIterator[RunningServer]:
        async with running_server(make_settings(database_url, tmp_path, **settings)) as server:
            yield server

    return start


async def test_closed_registration_makes_nobody(serve: Serve) -> None:
    """Also for a taken e-mail and an impossible body: nothing is to be learnt here."""
    async with serve(registration="closed") as server:
        await server.add_user(NEWCOMER["email"])
        for body in (NEWCOMER, {**NEWCOMER, "email": "new@example.com"}, {**NEWCOMER, "name": " "}):
            assert_problem(await post(server, "/register", body), 403, "registration_closed")
        assert len(await list_users(server.runtime)) == 1


async def test_silent_registration_answers_alike_and_waits_for_an_operator(serve: Serve) -> None:
    """F105: new and taken are one answer, and so is the login that follows either of them."""
    async with serve(registration_silent="yes") as server:
        new = await post(server, "/register", NEWCOMER)
        taken = await post(server, "/register", {**NEWCOMER, "password": "another one 456"})

        for answer in (new, taken):
            assert (answer.status_code, answer.json()) == (202, {"status": "received"})
            answer.headers.pop("x-request-id")
        assert new.headers == taken.headers
        for password in (NEWCOMER["password"], "another one 456"):
            waiting = await log_in(server, NEWCOMER["email"], password)
            assert_problem(waiting, 401, "credentials_refused")

        await enable_user(server.runtime, NEWCOMER["email"])
        first = await log_in(server, NEWCOMER["email"], NEWCOMER["password"])
        assert first.status_code == 200


async def test_racing_registrations_of_one_name_make_one_account(serve: Serve) -> None:
    """One 200, 409 for the rest, and one account with one session."""
    spellings = ("test@example.com", "TEST@example.com", "Test@EXAMPLE.com", "test@example.COM")
    async with serve() as server:
        answers = await asyncio.gather(
            *(post(server, "/register", {**NEWCOMER, "email": email}) for email in spellings)
        )
        statuses = sorted(answer.status_code for answer in answers)
        assert statuses == [200, 409, 409, 409]
        (user,) = await list_users(server.runtime)
        assert user.email_canonical == "test@example.com"


async def test_registrations_count_against_their_network(serve: Serve) -> None:
    """Whether an e-mail is taken can be asked only so often; other networks are unharmed."""
    async with serve() as server:
        await server.add_user(NEWCOMER["email"])
        answers = [await post(server, "/register", NEWCOMER) for _ in range(8)]
        refused = [answer for answer in answers if answer.status_code != 409]
        assert refused
        for answer in refused:
            assert_problem(answer, 429, "too_many_attempts")
            assert int(answer.headers["retry-after"]) > 0
        elsewhere = {"X-Forwarded-For": "203.0.113.9"}
        answer = await post(server, "/register", NEWCOMER, elsewhere)
        assert_problem(answer, 409, "email_taken")
