"""Real servers over grown databases, and what refreshes, logins and starts cost there.

All servers of one engine run at once on one core and take turns, in random order in each round,
so that what the machine does besides falls on every size alike; only ratios within a round are
compared. Requests go to families at random, each with its current token, which the script makes
itself: it holds the master key.
"""

import asyncio
import contextlib
import itertools
import random
import sqlite3
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field

from tests.growth.loading import postgres, sqlite_path
from tests.growth.meters import Meter, cpu_s, resident_kib
from tests.growth.places import PASSWORD, SERVICE_ID, Place
from tests.growth.rows import CLIENT_ID
from tests.support.load import Connection, Reply, get_request, open_connections, token_request
from tests.support.process import ServerProcess, start_server
from token_server.core.refresh import TokenText, encode_refresh_token
from token_server.core.status_list import PATH as STATUS_PATH

WARM_UP_S = 1.0
LEAST_LIFE_S = 6 * 3600  # of a sampled session: long enough for any run
_SAMPLE = (
    "SELECT f.family_id, f.generation, u.email FROM families f"
    " JOIN users u ON u.user_id = f.user_id"
    " WHERE f.revoked_at IS NULL AND f.idle_expires_at > {alive} AND f.mac_version = {version}"
    " AND f.seq"
)


@dataclass(slots=True)
class Grown:
    """A place with its server and the credentials for it; `tokens` are used in turn, each once."""

    place: Place
    server: ServerProcess
    tokens: deque[str] = field(repr=False)
    emails: list[str] = field(repr=False)

    @property
    def size(self) -> int:
        return self.place.shape.families


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one kind of request in one round; times per request."""

    requests: int
    cpu_ms: float  # of the server, without the password hash
    hash_ms: float  # CPU of the thread that hashes; 0 where none is needed
    database_cpu_ms: float
    written_bytes: float
    p50_ms: float
    p99_ms: float


@dataclass(frozen=True, slots=True)
class Start:
    """From the start of the process to its first token, and its first list of revoked tokens."""

    first_token_s: float
    cpu_s: float  # of the server up to there
    first_list_cpu_s: float
    lists: int
    rss_kib: int  # after that


Origins = Iterator[str]  # addresses, so that no two logins share a guessing budget


async def sample(place: Place, now: int, count: int) -> tuple[deque[str], list[str]]:
    """Refresh tokens and e-mails of at most `count` living sessions, chosen at random."""
    shape = place.shape
    source = random.Random()  # noqa: S311 - a choice for a load
    numbers = range(shape.expired + 1, shape.families + 1)
    chosen = source.sample(numbers, min(count, len(numbers)))
    query = _SAMPLE.format(alive=now + LEAST_LIFE_S, version=shape.mac_version)
    path = sqlite_path(place.installation.database_url)
    if path is not None:
        with contextlib.closing(sqlite3.connect(path)) as file:
            found = [file.execute(f"{query} = ?", (seq,)).fetchone() for seq in chosen]
            rows = [row for row in found if row is not None]
    else:
        async with postgres(place.installation.database_url) as connection:
            rows = [tuple(row) for row in await connection.fetch(f"{query} = ANY($1)", chosen)]
    source.shuffle(rows)
    tokens = deque(
        encode_refresh_token(
            TokenText(shape.mac_version, family_id, generation), place.mac_key, place.epoch
        )
        for family_id, generation, _ in rows
    )
    return tokens, [email for _, _, email in rows]


async def start(place: Place, cpus: Sequence[int]) -> tuple[ServerProcess, Start]:
    """Start a server and ask it for a first token and a first status list."""
    begun = time.perf_counter()
    server = await asyncio.to_thread(start_server, place.installation, cpus=cpus)
    async with open_connections([server.address], 1) as [connection]:
        _require(await connection.request(machine_request(place)), 200)
        first_token_s, first_cpu_s = time.perf_counter() - begun, cpu_s(server.pid)
        index = _require(await connection.request(get_request(STATUS_PATH)), 200).json()
        lists = index["status_lists"]
        newest = "/" + str(lists[-1]).split("/", 3)[3]
        _require(await connection.request(get_request(newest)), 200)
    list_cpu_s = cpu_s(server.pid) - first_cpu_s
    rss_kib = resident_kib(server.pid)
    return server, Start(first_token_s, first_cpu_s, list_cpu_s, len(lists), rss_kib)


def machine_request(place: Place) -> bytes:
    form = {"grant_type": "client_credentials", "client_id": SERVICE_ID}
    return token_request(form, secret=place.service_secret)


async def refresh_once(grown: Grown, connection: Connection) -> Reply:
    """Spend one session's current token; its successor, or the token itself if it was refused,
    goes to the end of the queue."""
    token = grown.tokens.popleft()
    form = {"grant_type": "refresh_token", "client_id": CLIENT_ID}
    reply = await connection.send(token_request({**form, "refresh_token": token}))
    grown.tokens.append(reply.json()["refresh_token"] if reply.status == 200 else token)
    return reply


async def log_in_once(grown: Grown, connection: Connection, origins: Origins) -> None:
    form = {"grant_type": "password", "client_id": CLIENT_ID, "password": PASSWORD}
    email = random.choice(grown.emails)  # noqa: S311 - a load, not a secret
    headers = {"X-Forwarded-For": next(origins)}
    request = token_request({**form, "username": email}, more_headers=headers)
    _require(await connection.send(request), 200)


def addresses() -> Origins:
    """Out of 2001:db8::/32, each in a network of its own."""
    numbers = itertools.count(random.getrandbits(20))
    return (f"2001:db8:{n >> 16 & 0xFFFF:x}:{n & 0xFFFF:x}::1" for n in numbers)


async def measure(
    grown: Grown,
    work: Callable[[Connection], Awaitable[None]],
    seconds: float,
    connections: int,
    *,
    hashes: bool,
) -> Cost:
    """Closed loop: each connection sends its next request when its answer is there."""
    latencies: list[float] = []
    meter = Meter(grown.server, grown.place.installation.database_url)
    async with open_connections([grown.server.address], connections) as opened:
        before = await meter.read()
        end = time.perf_counter() + seconds

        async def drive(connection: Connection) -> None:
            while (sent := time.perf_counter()) < end:
                await work(connection)
                latencies.append(time.perf_counter() - sent)

        await asyncio.gather(*(drive(connection) for connection in opened))
        spent = (await meter.read()).since(before)
    latencies.sort()
    count = len(latencies)
    hash_s = spent.busiest_worker_s if hashes else 0.0
    return Cost(
        requests=count,
        cpu_ms=1000 * (spent.server_cpu_s - hash_s) / count,
        hash_ms=1000 * hash_s / count,
        database_cpu_ms=1000 * spent.database_cpu_s / count,
        written_bytes=spent.written_bytes / count,
        p50_ms=1000 * latencies[count // 2],
        p99_ms=1000 * latencies[int(count * 0.99)],
    )


async def rounds(
    servers: Sequence[Grown], count: int, seconds: float, connections: int
) -> dict[int, dict[str, list[Cost]]]:
    """Costs of refreshes and logins by size; the n-th entries of all sizes are of one round.
    A first round, which is not counted, fills caches and pools."""
    costs: dict[int, dict[str, list[Cost]]] = {
        grown.size: {"refresh": [], "login": []} for grown in servers
    }
    origins = addresses()
    for number in range(count + 1):
        for grown in random.sample(servers, len(servers)):
            refresh, login = _kinds(grown, origins)
            for kind, work in (("refresh", refresh), ("login", login)):
                duration = seconds if number else WARM_UP_S
                hashes = kind == "login"
                cost = await measure(grown, work, duration, connections, hashes=hashes)
                if number:
                    costs[grown.size][kind].append(cost)
    return costs


def _kinds(
    grown: Grown, origins: Origins
) -> tuple[Callable[[Connection], Awaitable[None]], Callable[[Connection], Awaitable[None]]]:
    async def refresh(connection: Connection) -> None:
        _require(await refresh_once(grown, connection), 200)

    async def log_in(connection: Connection) -> None:
        await log_in_once(grown, connection, origins)

    return refresh, log_in


def _require(reply: Reply, status: int) -> Reply:
    if reply.status != status:
        raise RuntimeError(f"answered {reply.status} {reply.body!r}")
    return reply
