"""A site of real processes that is guessed at, and what came of it; for a test and a long run.

What was looked at is told by the servers themselves: by their metrics, and by their logs, which
outlive a `kill -9` and name the network that each guess came from.
"""

import asyncio
import itertools
import json
import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from tests.support.guess_doors import APP, Attack, find_attacks, find_targets, prepare
from tests.support.load import Connection, Reply, json_request, token_request
from tests.support.process import Installation, ServerProcess
from token_server.core.guess_budget import (
    API_KEY_BUDGETS,
    CLIENT_SECRET_BUDGETS,
    NETWORK_BUDGETS,
    PASSWORD_BUDGETS,
)
from token_server.core.throttle import Budget
from token_server.services.clients import NewClient, add_client

ATTACKER, ELSEWHERE = "203.0.113.9", "198.51.100.1"
ALARM_AT = 100
HASHES = "token_server_password_hash_duration_seconds_count"
FAILED = re.compile(
    r'^token_server_guesses_total\{door="(\w+)",outcome="failed"\} (\S+)$', re.MULTILINE
)
# What a process logs before it answers a guess that it has looked at.
LOOKED_AT = {
    "login_failed": "password",
    "user_registration_refused": "password",
    "client_authentication_failed": "client secret",
    "api_key_refused": "api key",
}
BUDGETS = {
    "password": PASSWORD_BUDGETS[0],
    "client secret": CLIENT_SECRET_BUDGETS[0],
    "api key": API_KEY_BUDGETS[0],
}


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


async def send_all(connections: Sequence[Connection], requests: Sequence[bytes]) -> list[Reply]:
    """All are written before any answer is read."""
    pairs = zip(connections, requests, strict=True)
    return list(await asyncio.gather(*(connection.send(text) for connection, text in pairs)))


@dataclass(frozen=True, slots=True)
class Interrupt:
    """Something that happens when so many answers are there."""

    after: int
    act: Callable[[], None]


@dataclass(frozen=True, slots=True)
class Flood:
    """What became of a flood from one network."""

    looked_at: Counter[str] = field(default_factory=Counter)  # by kind, as the logs say
    statuses: Counter[int] = field(default_factory=Counter)  # 0: the connection broke
    elapsed_s: float = 0.0

    def problems(self) -> list[str]:
        """Where more was looked at than a budget has, or an answer fits no log line."""
        found = [
            f"{kind}: {self.looked_at[kind]} looked at, {most(budget, self.elapsed_s)} allowed"
            for kind, budget in BUDGETS.items()
            if self.looked_at[kind] > most(budget, self.elapsed_s)
        ]
        total, allowed = self.looked_at.total(), most(NETWORK_BUDGETS[0], self.elapsed_s)
        if total > allowed:
            found.append(f"network: {total} looked at, {allowed} allowed")
        answered = sum(self.statuses[status] for status in (400, 401, 409))
        # Without a broken connection each was answered; with one, some were not.
        if answered > total or (answered < total and not self.statuses[0]):
            found.append(f"{answered} answers for {total} guesses that were looked at")
        if unforeseen := self.statuses.keys() - {0, 400, 401, 409, 429, 503}:
            found.append(f"answers {sorted(unforeseen)}")
        return found


async def flood(
    connections: Sequence[Connection],
    attacks: Sequence[Attack],
    address: str,
    interrupt: Interrupt | None = None,
) -> tuple[Counter[int], float]:
    """As many guesses as connections, over all doors in turn: the statuses, and how long it took;
    all are written before any answer is read."""
    started, answered = time.monotonic(), 0

    def note(_reply: object) -> None:
        nonlocal answered
        answered += 1
        if interrupt is not None and answered == interrupt.after:
            interrupt.act()

    sent = [
        connection.send(attack.guess(number).raw(address))
        for number, (connection, attack) in enumerate(
            zip(connections, itertools.cycle(attacks), strict=False)
        )
    ]
    for reply in sent:
        reply.add_done_callback(note)
    replies = await asyncio.gather(*sent, return_exceptions=True)
    statuses = Counter(reply.status if isinstance(reply, Reply) else 0 for reply in replies)
    return statuses, time.monotonic() - started


def looked_at(logs: Sequence[Path], address: str) -> Counter[str]:
    """By kind, how many guesses from that network were looked at, over all processes there were."""
    found: Counter[str] = Counter()
    for path in logs:
        for line in path.read_text().splitlines():
            if f'"{address}"' not in line:
                continue
            record = json.loads(line)
            kind = LOOKED_AT.get(record["event"])
            if kind is not None and record["ip_address"] == address:
                found[kind] += 1
    return found
