"""A flood of guesses against real processes: the budget holds, and nobody else is disturbed."""

import asyncio
import json
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.support.guess_doors import APP, Attack, find_attacks, find_targets, prepare
from tests.support.load import Connection, Reply, json_request, open_connections, token_request
from tests.support.process import Installation, ServerProcess, running_processes, start_server
from tests.support.server import EMAIL, PASSWORD
from token_server.core.guess_budget import (
    API_KEY_BUDGETS,
    CLIENT_SECRET_BUDGETS,
    NETWORK_BUDGETS,
    PASSWORD_BUDGETS,
)
from token_server.core.throttle import Budget
from token_server.records import AuditEventType
from token_server.services.clients import NewClient, add_client
from token_server.services.guessing import Door
from token_server.storage import audit

ATTACKER, ELSEWHERE = "203.0.113.9", "198.51.100.1"
GUESSES = 200
ALARM_AT, ALARM = 100, "\ntoken_server_guess_alarm 1.0"
HASHES = "token_server_password_hash_duration_seconds_count"
FAILED = re.compile(
    r'^token_server_guesses_total\{door="(\w+)",outcome="failed"\} (\S+)$', re.MULTILINE
)


def password_request(email: str, password: str, address: str) -> bytes:
    form = {"grant_type": "password", "client_id": APP, "username": email, "password": password}
    return token_request(form, more_headers={"X-Forwarded-For": address})


def machine_request(client_id: str, secret: str, address: str) -> bytes:
    form = {"grant_type": "client_credentials", "client_id": client_id}
    return token_request(form, secret, {"X-Forwarded-For": address})


def login_request(email: str, password: str, address: str) -> bytes:
    body = {"email": email, "password": password}
    return json_request("/api/auth/login", body, {"X-Forwarded-For": address})


def most(budget: Budget, elapsed_s: float) -> int:
    """What a budget lets through in a while, from full."""
    return budget.burst + int(elapsed_s / budget.interval_s) + 1


@dataclass(frozen=True, slots=True)
class Site:
    """Two processes on PostgreSQL, or one on SQLite, behind a proxy on this machine."""

    installation: Installation
    servers: Sequence[ServerProcess]
    secrets: dict[str, str]

    @property
    def addresses(self) -> list[tuple[str, int]]:
        return [server.address for server in self.servers]

    async def metrics(self) -> list[str]:
        """Of each process."""
        async with httpx.AsyncClient() as http:
            return [
                (await http.get(f"{server.management_url}/metrics")).text for server in self.servers
            ]

    async def verifications(self) -> int:
        """How many passwords were hashed by all processes since their start."""
        pattern = re.compile(rf"^{HASHES} (\S+)$", re.MULTILINE)
        return sum(int(float(n)) for text in await self.metrics() for n in pattern.findall(text))

    async def failures(self) -> Counter[str]:
        """How many guesses were looked at and wrong, by door, over all processes."""
        found: Counter[str] = Counter()
        for text in await self.metrics():
            for door, count in FAILED.findall(text):
                found[door] += int(float(count))
        return found

    async def attacks(self) -> list[Attack]:
        """Every way to guess that the servers describe."""
        async with httpx.AsyncClient(base_url=self.servers[0].base_url) as http:
            targets = await find_targets(http, ELSEWHERE, self.secrets["service"])
            return find_attacks((await http.get("/openapi.json")).json(), targets)


@pytest.fixture(params=["sqlite", "two processes on postgresql"])
async def site(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Site]:
    is_sqlite = request.param == "sqlite"
    url = str(request.getfixturevalue("sqlite_url" if is_sqlite else "postgres_url"))
    installation, secrets = await install(tmp_path, url)
    with running_processes(installation, 1 if is_sqlite else 2) as servers:
        yield Site(installation, servers, secrets)


async def install(directory: Path, url: str) -> tuple[Installation, dict[str, str]]:
    overrides = {
        "TRUSTED_PROXIES": "127.0.0.1",
        "REGISTRATION": "open",
        "GUESS_ALARM_PER_MINUTE": str(ALARM_AT),
    }
    installation, secrets = Installation(directory, url, overrides), {}
    async with installation.runtime() as runtime:
        secrets["service"] = await prepare(runtime)
        for client_id in ("billing", "shipping"):
            _, secret = await add_client(runtime, NewClient(client_id, ("client_credentials",)))
            assert secret is not None
            secrets[client_id] = secret.reveal()
    return installation, secrets


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


async def send_all(connections: Sequence[Connection], requests: Sequence[bytes]) -> list[Reply]:
    """All are written before any answer is read."""
    pairs = zip(connections, requests, strict=True)
    return list(await asyncio.gather(*(connection.send(text) for connection, text in pairs)))


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
        requests = [attacks[n % len(attacks)].guess(n).raw(ATTACKER) for n in range(GUESSES)]
        hashed, failed = await site.verifications(), await site.failures()
        started = time.monotonic()
        replies, from_elsewhere = await asyncio.gather(
            send_all(guessers, requests),
            elsewhere.request(password_request(EMAIL, PASSWORD, ELSEWHERE)),
        )
        elapsed_s = time.monotonic() - started
        hashed = await site.verifications() - hashed - 1  # the one from elsewhere
        failed = await site.failures() - failed
        right = await elsewhere.request(password_request(EMAIL, PASSWORD, ATTACKER))
        is_over.set()
        refreshes = await session
    machines = failed[Door.CLIENT_SECRET] + failed[Door.API_KEY]
    assert 0 < hashed <= most(PASSWORD_BUDGETS[0], elapsed_s)
    assert hashed == sum(failed.values()) - machines
    assert failed[Door.CLIENT_SECRET] <= most(CLIENT_SECRET_BUDGETS[0], elapsed_s)
    assert failed[Door.API_KEY] <= most(API_KEY_BUDGETS[0], elapsed_s)
    assert 0 < machines < sum(failed.values()) <= most(NETWORK_BUDGETS[0], elapsed_s)
    statuses = Counter(reply.status for reply in replies)
    # 503: beyond the attacker's share of the hash queue, and neither counted nor looked at.
    assert statuses.keys() <= {400, 401, 409, 429, 503}
    assert statuses[429] + statuses[503] == GUESSES - sum(failed.values())
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
    assert statuses.keys() == {401, 429}
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
            await asyncio.wait(guesses, return_when=asyncio.FIRST_COMPLETED)
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
    log = [record for name in names for record in read_log(tmp_path / f"{name}.log")]
    told = sum(record["event"] == "login_failed" for record in log)
    assert 0 < told <= most(PASSWORD_BUDGETS[0], elapsed_s)
    assert 429 in {reply.status for reply in replies} <= {401, 429, 503}


def read_log(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines() if line.startswith("{")]


@pytest.mark.parametrize("site", ["two processes on postgresql"], indirect=True)
async def test_guessing_from_many_networks_raises_one_alarm(site: Site) -> None:
    """F111: no budget stops one guess each from ever other networks, at ever other accounts and
    doors; both processes say so, and the audit trail once."""
    requests = [login_request(f"u{n}@example.org", "Winter2026!", f"10.1.{n}.1") for n in range(30)]
    requests += [machine_request(f"c{n}", "guess", f"10.2.{n}.1") for n in range(60)]
    [by_key] = [each for each in await site.attacks() if each.name.startswith("GET /api/auth/me")]
    requests += [by_key.guess(n).raw(f"2001:db8:{n:x}::1") for n in range(60)]
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
