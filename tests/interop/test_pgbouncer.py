"""Two servers behind a real PgBouncer in transaction mode, with fewer connections than they open.

Nothing may be remembered between two transactions: no prepared statement, session setting or
session lock. Here it is not read but tried: logins, refreshes, guesses and key changes at once.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest

from tests.faults.rotation.rings import with_keys_in_database
from tests.support.pgbouncer import (
    MISSING,
    SERVER_CONNECTIONS,
    find_pgbouncer,
    running_pgbouncer,
)
from tests.support.process import Installation, ServerProcess, running_processes, start_server
from token_server.records import Secret
from token_server.services.clients import NewClient, add_client
from token_server.services.users import NewUser, add_user

MACHINE, PEOPLE = "bounced-machine", "bounced-people"
EMAIL = "ada@example.org"
PASSWORD = "correct horse battery staple"
SESSIONS = 12
ROUNDS = 6


@pytest.fixture
def bounced_url(empty_postgres_url: str, tmp_path: Path) -> Iterator[str]:
    """An empty database behind PgBouncer."""
    program = find_pgbouncer()
    if program is None:
        pytest.skip(MISSING)
    with running_pgbouncer(program, tmp_path / "pgbouncer", empty_postgres_url) as url:
        yield url


@pytest.fixture
def installation(bounced_url: str, tmp_path: Path) -> Installation:
    overrides = {
        "KEY_LEAD": "4s",
        "JWKS_MAX_AGE": "1s",
        "KEY_RELOAD_INTERVAL": "1s",
        "CLOCK_SKEW": "1s",
        "ARGON2_MEMORY_KIB": "7168",
        "ARGON2_TIME_COST": "5",
    }
    url = f"{bounced_url}?prepared_statements=off"
    return with_keys_in_database(Installation(tmp_path, url, overrides))


async def register(installation: Installation) -> str:
    async with installation.runtime() as runtime:
        _, secret = await add_client(runtime, NewClient(MACHINE, ("client_credentials",)))
        people = NewClient(PEOPLE, ("password", "refresh_token"), is_public=True)
        await add_client(runtime, people)
        await add_user(runtime, NewUser(EMAIL, "Ada Lovelace", Secret(PASSWORD)))
    assert secret is not None
    return secret.reveal()


class Flows:
    """Requests to both servers, one after the other or at once; every status is counted."""

    def __init__(self, http: httpx.AsyncClient, servers: list[ServerProcess], secret: str) -> None:
        self._http = http
        self._urls = [f"{server.base_url}/oauth2" for server in servers]
        self._secret = secret
        self.statuses: Counter[tuple[str, int]] = Counter()

    async def log_in(self, number: int) -> dict[str, Any]:
        return await self._token(number, "login", grant_type="password", **_user(PASSWORD))

    async def refresh_often(self, number: int, refresh_token: str) -> None:
        """At the two servers in turn."""
        for turn in range(ROUNDS):
            form = {"grant_type": "refresh_token", "client_id": PEOPLE}
            reply = await self._token(number + turn, "refresh", **form, refresh_token=refresh_token)
            refresh_token = reply["refresh_token"]
        revoked = await self._post(number, "revoke", {"client_id": PEOPLE, "token": refresh_token})
        assert revoked.status_code == 200
        form = {"grant_type": "refresh_token", "client_id": PEOPLE}
        again = await self._post(number + 1, "token", {**form, "refresh_token": refresh_token})
        assert again.json()["error"] == "invalid_grant"

    async def guess(self, number: int) -> None:
        reply = await self._post(
            number, "token", {"grant_type": "password", **_user("wrong", "eve@example.org")}
        )
        self.statuses["guess", reply.status_code] += 1

    async def get_machine_tokens(self, number: int) -> None:
        for turn in range(ROUNDS):
            form = {"grant_type": "client_credentials", "client_id": MACHINE}
            await self._token(number + turn, "machine", **form, client_secret=self._secret)

    async def _token(self, number: int, kind: str, **form: str) -> dict[str, Any]:
        reply = await self._post(number, "token", form)
        self.statuses[kind, reply.status_code] += 1
        assert reply.status_code == 200, reply.text
        value = reply.json()
        assert isinstance(value, dict)
        return value

    async def _post(self, number: int, path: str, form: Mapping[str, str]) -> httpx.Response:
        return await self._http.post(f"{self._urls[number % 2]}/{path}", data=dict(form))


def _user(password: str, email: str = EMAIL) -> dict[str, str]:
    return {"client_id": PEOPLE, "username": email, "password": password}


async def test_everything_works_through_pgbouncer(
    installation: Installation, bounced_url: str
) -> None:
    """Two first starts, logins, refreshes at both servers, revocations, guesses and a rotation of
    keys, over three server connections; and nothing of a session is left on them."""
    with running_processes(installation, 2) as servers:
        secret = await register(installation)
        async with httpx.AsyncClient(timeout=60) as http:
            flows = Flows(http, servers, secret)
            logins = [await flows.log_in(number) for number in range(SESSIONS)]
            await asyncio.gather(
                *(flows.refresh_often(n, one["refresh_token"]) for n, one in enumerate(logins)),
                *(flows.get_machine_tokens(number) for number in range(4)),
                *(flows.guess(number) for number in range(20)),
                asyncio.to_thread(installation.run_cli, "keys", "rotate", "--now"),
            )
            await asyncio.sleep(1.5)  # KEY_RELOAD_INTERVAL and its margin
            after = [await flows.log_in(number) for number in range(2)]
            key_sets = [
                (await http.get(f"{server.base_url}/.well-known/jwks.json")).json()
                for server in servers
            ]
        problems = [
            record
            for server in servers
            for record in server.log_records()
            if record.get("level") in ("error", "critical")
        ]

    assert problems == []
    assert flows.statuses["refresh", 200] == SESSIONS * ROUNDS
    assert flows.statuses["machine", 200] == 4 * ROUNDS
    admitted, refused = flows.statuses["guess", 400], flows.statuses["guess", 429]
    assert (admitted + refused, refused > 0) == (20, True), "the budget is one for both servers"
    assert len(after) == 2
    assert key_sets[0] == key_sets[1]
    assert await left_behind(bounced_url) == [(0, 0, "0")] * SERVER_CONNECTIONS


async def left_behind(bounced_url: str) -> list[tuple[int, int, str]]:
    """What sessions have of ours, on each server connection: advisory locks (of all), prepared
    statements, lock_timeout."""
    found = []
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(SERVER_CONNECTIONS):  # each holds one, so that the next one gets another
            connection = await asyncpg.connect(bounced_url, statement_cache_size=0)
            stack.push_async_callback(connection.close)
            await stack.enter_async_context(connection.transaction())
            row = await connection.fetchrow(
                "SELECT (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'),"
                " (SELECT count(*) FROM pg_prepared_statements WHERE name <> ''),"
                " current_setting('lock_timeout')"
            )
            found.append(tuple(row))
    return found


async def test_without_the_switch_the_start_says_which_one(
    installation: Installation, bounced_url: str
) -> None:
    """PgBouncer refuses start-up settings: the operator hears what to write, not "unavailable"."""
    with pytest.raises(RuntimeError) as caught:
        start_server(installation, overrides={"DATABASE_URL": bounced_url})

    assert "prepared_statements=off" in str(caught.value)
    assert "Traceback" not in str(caught.value)
