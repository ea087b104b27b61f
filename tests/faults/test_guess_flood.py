"""A flood of guesses against real processes: the budget holds, and nobody else is disturbed."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.faults.guess_flood import (
    ALARM_AT,
    ATTACKER,
    ELSEWHERE,
    Flood,
    Site,
    flood,
    install,
    login_request,
    looked_at,
    machine_request,
    most,
    password_request,
    send_all,
)
from tests.support.guess_doors import APP
from tests.support.load import Connection, open_connections, token_request
from tests.support.process import running_processes, start_server
from tests.support.server import EMAIL, PASSWORD
from token_server.core.guess_budget import (
    CLIENT_SECRET_BUDGETS,
    NETWORK_BUDGETS,
    PASSWORD_BUDGETS,
)
from token_server.records import AuditEventType
from token_server.services.guessing import Door
from token_server.storage import audit

GUESSES = 200
ALARM = "\ntoken_server_guess_alarm 1.0"


@pytest.fixture(params=["sqlite", "two processes on postgresql"])
async def site(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Site]:
    is_sqlite = request.param == "sqlite"
    url = str(request.getfixturevalue("sqlite_url" if is_sqlite else "postgres_url"))
    installation, secrets = await install(tmp_path, url)
    with running_processes(installation, 1 if is_sqlite else 2) as servers:
        yield Site(installation, servers, secrets)


async def live_session(connection: Connection, token: str, is_over: asyncio.Event) -> list[int]:
    """Refreshes without a pause, from the attacker's own network, until `is_over`."""
    statuses = []
    while not is_over.is_set():
        form = {"grant_type": "refresh_token", "client_id": APP, "refresh_token": token}
        reply = await connection.request(
            token_request(form, more_headers={"X-Forwarded-For": ATTACKER})
        )
        statuses.append(reply.status)
        token = str(reply.json().get("refresh_token"))
    return statuses


async def test_two_hundred_guesses_at_once_verify_no_more_than_the_budget(site: Site) -> None:
    """F108, F109, F110, 268: count before looking, over all doors and processes; the owner's
    session and another network go on as if nothing happened (CVE-2024-4629)."""
    attacks = await site.attacks()
    async with open_connections(site.addresses, GUESSES + 2) as connections:
        owner, elsewhere, *guessers = connections
        login = await owner.request(password_request(EMAIL, PASSWORD, ATTACKER))
        is_over = asyncio.Event()
        session = asyncio.create_task(
            live_session(owner, str(login.json()["refresh_token"]), is_over)
        )
        hashed, failed = await site.verifications(), await site.failures()
        (statuses, elapsed_s), from_elsewhere = await asyncio.gather(
            flood(guessers, attacks, ATTACKER),
            elsewhere.request(password_request(EMAIL, PASSWORD, ELSEWHERE)),
        )
        hashed = await site.verifications() - hashed - 1  # the one from elsewhere
        failed = await site.failures() - failed
        right = await elsewhere.request(password_request(EMAIL, PASSWORD, ATTACKER))
        is_over.set()
        refreshes = await session
    logs = [server.log_path for server in site.servers]
    result = Flood(looked_at(logs, ATTACKER), statuses, elapsed_s)
    assert result.problems() == []
    # The metrics say the same: what was hashed, and what failed, once each.
    assert result.looked_at["password"] == hashed
    assert result.looked_at["client secret"] == failed[Door.CLIENT_SECRET]
    assert result.looked_at["api key"] == failed[Door.API_KEY]
    assert result.looked_at.total() == failed.total() >= NETWORK_BUDGETS[0].burst
    assert from_elsewhere.status == 200
    assert set(refreshes) == {200}
    assert right.status == 429
    assert b"\r\nretry-after: " in right.head.lower()


async def test_ten_thousand_secret_guesses_disturb_no_other_client(site: Site) -> None:
    """E96: refused by client and network; the other client and the same client elsewhere work."""
    count = 10_000 if len(site.servers) == 1 else 2_000
    statuses: Counter[int] = Counter()
    others: Counter[int] = Counter()
    guess = machine_request("billing", "not the secret", ATTACKER)
    started = time.monotonic()

    async def flood(connection: Connection) -> None:
        for _ in range(count // 50):
            statuses[(await connection.request(guess)).status] += 1

    async def work(connection: Connection, request: bytes) -> None:
        while sum(statuses.values()) < count:
            others[(await connection.request(request)).status] += 1

    async with open_connections(site.addresses, 52) as (first, second, *attackers):
        await asyncio.gather(
            work(first, machine_request("shipping", site.secrets["shipping"], ATTACKER)),
            work(second, machine_request("billing", site.secrets["billing"], ELSEWHERE)),
            *map(flood, attackers),
        )
    elapsed_s = time.monotonic() - started
    limit = CLIENT_SECRET_BUDGETS[0]
    # 503: a disk that others keep busy for seconds; what cannot be counted is not looked at.
    assert statuses.keys() <= {401, 429, 503}
    assert statuses[429] > count / 2
    assert statuses[401] <= limit.burst + int(elapsed_s / limit.interval_s)
    assert others.keys() == {200}
    assert others[200] >= 100


async def test_guessing_at_many_accounts_is_bounded_by_the_network(site: Site) -> None:
    """F111: 1,000 accounts, one guess each, from one address; a neighbour logs in meanwhile."""
    count = 1000
    quick, slow = NETWORK_BUDGETS
    before, started = await site.verifications(), time.monotonic()
    statuses: Counter[int] = Counter()
    numbers = iter(range(count))

    async def spray(connection: Connection) -> None:
        for number in numbers:
            request = password_request(f"u{number}@example.org", "Winter2026!", ATTACKER)
            statuses[(await connection.request(request)).status] += 1

    async with open_connections(site.addresses, 51) as (neighbour, *attackers):
        flood = asyncio.gather(*map(spray, attackers))
        login = await neighbour.request(password_request(EMAIL, PASSWORD, ELSEWHERE))
        await flood
    verified = await site.verifications() - before - 1
    elapsed_s = time.monotonic() - started
    assert statuses.keys() <= {400, 429, 503}
    assert (statuses[400], statuses[429] + statuses[503]) == (verified, count - verified)
    assert verified <= min(quick.burst + elapsed_s / quick.interval_s + 1, slow.burst)
    assert login.status == 200


@pytest.mark.parametrize("engine", ["sqlite", "postgres"])
async def test_kill_in_a_flood_gives_no_new_guesses(
    request: pytest.FixtureRequest, tmp_path: Path, engine: str
) -> None:
    """F114: kill -9 in the middle, a new process, and the count goes on where it was."""
    installation, _ = await install(tmp_path, str(request.getfixturevalue(f"{engine}_url")))
    names = ["server-0"] if engine == "sqlite" else ["server-0", "server-1"]
    servers = [start_server(installation, name=name) for name in names]
    try:
        started = time.monotonic()
        async with open_connections([server.address for server in servers], GUESSES) as guessers:
            guesses = [
                guesser.send(login_request(EMAIL, f"guess {number}", ATTACKER))
                for number, guesser in enumerate(guessers)
            ]
            for answered in asyncio.as_completed(guesses):
                if (await answered).status == 401:
                    break
            servers[0].kill()
            await asyncio.gather(*guesses, return_exceptions=True)
        servers[0] = start_server(installation, name=names[0])
        async with open_connections([servers[0].address], 20) as guessers:
            again = [login_request(EMAIL, f"again {n}", ATTACKER) for n in range(20)]
            replies = await send_all(guessers, again)
        elapsed_s = time.monotonic() - started
    finally:
        for server in servers:
            server.stop()
    told = looked_at([tmp_path / f"{name}.log" for name in names], ATTACKER)
    assert 0 < told.total() <= most(PASSWORD_BUDGETS[0], elapsed_s)
    assert 429 in {reply.status for reply in replies} <= {401, 429, 503}


@pytest.mark.parametrize("site", ["two processes on postgresql"], indirect=True)
async def test_guessing_from_many_networks_raises_one_alarm(site: Site) -> None:
    """F111: no budget stops one guess each from ever other networks, at ever other accounts and
    doors; both processes say so, and the audit trail once."""
    requests = [login_request(f"u{n}@example.org", "Winter2026!", f"10.1.{n}.1") for n in range(30)]
    requests += [machine_request(f"c{n}", "guess", f"10.2.{n}.1") for n in range(60)]
    [by_key] = [each for each in await site.attacks() if each.name.startswith("GET /api/auth/me")]
    requests += [by_key.guess(n).raw(f"2001:db8:{n:x}::1") for n in range(60)]
    # Failures are counted by the minute of the clock: half of them in each would raise nothing.
    second = time.time() % 60
    if second > 20:
        await asyncio.sleep(60 - second)
    async with open_connections(site.addresses, len(requests)) as connections:
        replies = await send_all(connections, requests)
    assert {reply.status for reply in replies} == {401}
    async with asyncio.timeout(60):
        while not all(ALARM in text for text in await site.metrics()):  # noqa: ASYNC110 - no event
            await asyncio.sleep(0.2)
    async with site.installation.runtime() as runtime, runtime.store.read() as connection:
        found = await audit.list_events(connection, 0, 10_000)
    [raised] = [
        stored.event for stored in found if stored.event.event is AuditEventType.GUESS_ALARM_RAISED
    ]
    assert ALARM_AT <= int(raised.details["failed"]) <= len(requests)
    assert raised.details.keys() <= {"failed", "login", "client_secret", "api_key"}
