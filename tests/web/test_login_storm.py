"""More logins than can be hashed: who is refused and how, and that nobody else notices."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.hashing import Gate
from tests.support.load import Connection, token_request
from tests.support.server import (
    EMAIL,
    PASSWORD,
    RunningServer,
    copy_keys,
    from_address,
    make_settings,
    running_server,
)

SLOTS, QUEUE = 2, 4
JWKS = "/.well-known/jwks.json"
# Where a login stands that finds no place: path, body, and what the body says of it.
TOKEN_FORM = {"grant_type": "password", "client_id": "app", "username": EMAIL, "password": PASSWORD}
OAUTH_BODY = {"error": "temporarily_unavailable"}
LOGIN = {"email": EMAIL, "password": PASSWORD}
REGISTRATION = {"email": "new@example.org", "password": "a whole new phrase", "name": "New"}
DOORS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "token": ("/oauth2/token", {"data": TOKEN_FORM}, OAUTH_BODY),
    "login": ("/api/auth/login", {"json": LOGIN}, {"status": 503}),
    "register": ("/api/auth/register", {"json": REGISTRATION}, {"status": 503}),
}


@pytest.fixture
async def narrow_server(
    sqlite_url: str, shared_keys: Path, tmp_path: Path
) -> AsyncIterator[RunningServer]:
    """Two slots and four places in the queue."""
    copy_keys(shared_keys, tmp_path)
    settings = make_settings(
        sqlite_url, tmp_path, password_hash_slots=SLOTS, password_hash_queue=QUEUE
    )
    async with running_server(settings) as server:
        await server.add_client("app", grant_types=("password", "refresh_token"), is_public=True)
        await server.add_client("service", grant_types=("client_credentials",))
        await server.add_user()
        yield server


def log_in(
    server: RunningServer, number: int, door: str = "token"
) -> "asyncio.Task[httpx.Response]":
    """Each from a network of its own, unless they have the same number."""
    path, body, _ = DOORS[door]
    headers = from_address(f"192.0.2.{number}")
    return asyncio.create_task(server.http.post(path, headers=headers, **body))


def counts(server: RunningServer, series: str) -> dict[str, float]:
    lines = server.runtime.metrics.render()[0].decode().splitlines()
    found = (line.rpartition(" ") for line in lines if line.startswith(series))
    return {name: float(value) for name, _, value in found if float(value)}


@pytest.mark.parametrize("door", DOORS)
async def test_login_without_a_place_is_told_to_come_back(
    narrow_server: RunningServer, monkeypatch: pytest.MonkeyPatch, door: str
) -> None:
    """503 and Retry-After in the shape of its door, and no guess is counted (case F 126)."""
    server, gate = narrow_server, Gate(monkeypatch)
    waiting = [log_in(server, number) for number in range(SLOTS + QUEUE)]
    hasher = server.runtime.hasher
    await gate.until(lambda: gate.entered == SLOTS and hasher.queue_depth == QUEUE)
    guesses = counts(server, "token_server_guesses_total")
    refused = await log_in(server, 100, door)
    guesses_after = counts(server, "token_server_guesses_total")
    gate.open.set()
    answers = await asyncio.gather(*waiting)

    assert refused.status_code == 503
    assert int(refused.headers["retry-after"]) >= 1
    assert refused.headers["cache-control"] == "no-store"
    expected = DOORS[door][2]
    assert expected.items() <= refused.json().items()
    assert ("application/problem+json" in refused.headers["content-type"]) is (door != "token")
    assert guesses == guesses_after
    assert {answer.status_code for answer in answers} == {200}
    assert (await log_in(server, 100)).status_code == 200


async def test_one_network_leaves_places_for_the_others(
    narrow_server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One source that sends without end has half of the places; the next one still gets in."""
    server, gate = narrow_server, Gate(monkeypatch)
    hasher = server.runtime.hasher
    greedy = [log_in(server, 1) for _ in range(20)]
    await gate.until(lambda: sum(task.done() for task in greedy) == 17)
    others = [log_in(server, number) for number in (2, 3, 4)]
    await gate.until(lambda: gate.entered == SLOTS and hasher.queue_depth == QUEUE)
    gate.open.set()

    statuses = Counter(answer.status_code for answer in await asyncio.gather(*greedy))
    assert statuses == {200: 3, 503: 17}
    assert {answer.status_code for answer in await asyncio.gather(*others)} == {200}
    assert counts(server, "token_server_password_hash_refused_total") == {
        'token_server_password_hash_refused_total{reason="share_taken"}': 17
    }


async def test_everything_else_answers_while_all_slots_hash(
    narrow_server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A login storm stops neither keys, nor machines, nor running sessions, and no orchestrator
    takes the instance away for it."""
    server = narrow_server
    session = await server.login()
    gate = Gate(monkeypatch)
    storm = [log_in(server, number) for number in range(1, 60)]
    hasher = server.runtime.hasher
    await gate.until(lambda: gate.entered == SLOTS and hasher.queue_depth == QUEUE)

    assert (await server.http.get(JWKS)).status_code == 200
    assert (await server.http.get("/.well-known/openid-configuration")).status_code == 200
    machine = await server.token("service", grant_type="client_credentials")
    assert machine.status_code == 200
    assert (await server.refresh(session["refresh_token"])).status_code == 200
    bearer = {"Authorization": f"Bearer {session['access_token']}"}
    assert machine.json()["access_token"]
    assert (await server.http.get("/api/auth/me", headers=bearer)).status_code in (200, 401)
    ready = await server.http.get("/readyz")
    assert (ready.status_code, ready.json()) == (200, {"status": "degraded"})
    assert not gate.open.is_set()
    gate.open.set()
    statuses = Counter(answer.status_code for answer in await asyncio.gather(*storm))
    assert statuses == {200: SLOTS + QUEUE, 503: 59 - SLOTS - QUEUE}


async def test_client_that_hangs_up_in_the_queue_is_not_hashed_for(
    narrow_server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its place is free, its guess given back, and its password never looked at."""
    server, gate = narrow_server, Gate(monkeypatch)
    hasher = server.runtime.hasher
    running = [log_in(server, number) for number in range(SLOTS)]
    await gate.until(lambda: gate.entered == SLOTS)
    host, _, port = server.base_url.removeprefix("http://").rpartition(":")
    connection = await Connection.open((host, int(port)))
    answer = connection.send(token_request(TOKEN_FORM, more_headers=from_address("192.0.2.99")))
    await gate.until(lambda: hasher.queue_depth == 1)
    connection.close()
    with pytest.raises(ConnectionError):
        await answer
    await gate.until(lambda: hasher.queue_depth == 0)
    returned = 'token_server_guesses_total{door="password_grant",outcome="returned"}'
    await gate.until(lambda: counts(server, "token_server_guesses").get(returned) == 1)
    gate.open.set()

    assert {task.status_code for task in await asyncio.gather(*running)} == {200}
    assert gate.entered == SLOTS
