"""Whether the time of a failed login tells why it failed (cases F103, F104).

Five kinds of failure against a real server with the default Argon2id profile, in rounds of one
request of each kind in random order. Guessing budgets stay on: every request comes from an
address of its own, which the server believes because this machine is its TRUSTED_PROXIES.
On a busy machine waiting drowns a millisecond of work, so the CPU time that the server spent is
shown beside the time that the client waited.
"""

import argparse
import asyncio
import ipaddress
import itertools
import random
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles

from tests.support.load import Connection, Reply, json_request, open_connections, token_request
from tests.support.places import DATABASE_HELP, temporary_installation
from tests.support.process import Installation, ServerProcess, running_processes
from token_server.logs import configure_logging
from token_server.records import Secret
from token_server.runtime import Runtime
from token_server.services.clients import NewClient, add_client
from token_server.services.users import NewUser, add_user, disable_user
from token_server.storage import users

PASSWORD = "correct horse battery staple"
WRONG = "correct horse battery stable"
CLIENT_ID = "timing"
KINDS: Mapping[str, tuple[str, str]] = {
    "unknown user": ("nobody@example.org", PASSWORD),
    "wrong password": ("active@example.org", WRONG),
    "disabled user": ("disabled@example.org", PASSWORD),
    "unusable hash": ("damaged@example.org", PASSWORD),
    "impossible e-mail": ("no address at all", PASSWORD),
}
DOORS = {"grant": (400, "invalid_grant"), "login": (401, "credentials_refused")}
WARM_UP_ROUNDS = 20
TOLERANCE_S = 0.001
TOLERANCE_RATIO = 0.03


Samples = dict[str, list["Sample"]]


async def register(runtime: Runtime) -> None:
    await add_client(runtime, NewClient(CLIENT_ID, ("password",), is_public=True))
    for email in ("active@example.org", "disabled@example.org"):
        await add_user(runtime, NewUser(email, "Timed", Secret(PASSWORD)))
    await disable_user(runtime, "disabled@example.org")
    user = await add_user(runtime, NewUser("damaged@example.org", "Timed", Secret(PASSWORD)))
    damaged = Secret("$argon2id$v=19$m=19456,t=2,p=1$damaged")
    async with runtime.store.write() as connection:
        await users.rehash_password(connection, user.user_id, user.credential_version, damaged)


def login_request(door: str, kind: str, address: str) -> bytes:
    email, password = KINDS[kind]
    headers = {"X-Forwarded-For": address}
    if door == "login":
        return json_request("/api/auth/login", {"email": email, "password": password}, headers)
    form = {"grant_type": "password", "username": email, "password": password}
    return token_request({**form, "client_id": CLIENT_ID}, more_headers=headers)


def addresses() -> Iterator[str]:
    """10.0.0.0 and onwards: no two requests share a budget."""
    return (str(ipaddress.IPv4Address("10.0.0.0") + number) for number in itertools.count())


def cpu_s(pid: int) -> float:
    """What all threads of the process have spent on a CPU (Linux)."""
    threads = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(thread.read_text().split()[0]) for thread in threads) / 1e9


@dataclass(frozen=True, slots=True)
class Sample:
    waited_s: float
    worked_s: float


async def measure(server: ServerProcess, door: str, rounds: int, seed: int) -> Samples:
    shuffled = random.Random(seed)  # noqa: S311 - an order, not a secret
    samples: Samples = {kind: [] for kind in KINDS}
    bodies = set()
    origin = addresses()
    async with open_connections([server.address], 1) as [connection]:
        for number in range(WARM_UP_ROUNDS + rounds):
            for kind in shuffled.sample(list(KINDS), len(KINDS)):
                request = login_request(door, kind, next(origin))
                reply, sample = await measure_one(server, connection, request)
                status, code = DOORS[door]
                if reply.status != status or code.encode() not in reply.body:
                    raise RuntimeError(f"{kind}: {reply.status} {reply.body!r}")
                bodies.add(reply.body)
                if number >= WARM_UP_ROUNDS:
                    samples[kind].append(sample)
    if len(bodies) != 1:
        raise RuntimeError(f"the answers differ: {bodies}")
    return samples


async def measure_one(
    server: ServerProcess, connection: Connection, request: bytes
) -> tuple[Reply, Sample]:
    worked_s = cpu_s(server.pid)
    started = time.perf_counter()
    reply = await connection.request(request)
    waited_s = time.perf_counter() - started
    return reply, Sample(waited_s, cpu_s(server.pid) - worked_s)


def report(samples: Samples) -> bool:
    """Print the figures; whether the medians of both times agree within 1 ms or 3 %."""
    waited = {kind: median(one.waited_s for one in all_) for kind, all_ in samples.items()}
    worked = {kind: median(one.worked_s for one in all_) for kind, all_ in samples.items()}
    for kind, all_ in samples.items():
        tenths = quantiles([one.waited_s for one in all_], n=10)
        print(
            f"  {kind:18} waited {waited[kind] * 1000:7.3f} ms"
            f" (p10 {tenths[0] * 1000:7.3f}, p90 {tenths[-1] * 1000:7.3f})"
            f"  CPU {worked[kind] * 1000:7.3f} ms  n {len(all_)}"
        )
    return all([verdict("waited", waited), verdict("CPU", worked)])


def verdict(name: str, medians: Mapping[str, float]) -> bool:
    spread_s, middle_s = max(medians.values()) - min(medians.values()), median(medians.values())
    is_level = spread_s <= max(TOLERANCE_S, TOLERANCE_RATIO * middle_s)
    print(
        f"  medians of {name} lie within {spread_s * 1000:.3f} ms"
        f" ({spread_s / middle_s * 100:.2f} %): they {'agree' if is_level else 'DO NOT agree'}"
        " within 1 ms or 3 %"
    )
    return is_level


async def run(installation: Installation, door: str, rounds: int, seed: int) -> bool:
    async with installation.runtime() as runtime:
        await register(runtime)
    with running_processes(installation) as [server]:
        return report(await measure(server, door, rounds, seed))


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="scripts/timing", description="Compare the times of five kinds of failed login."
    )
    parser.add_argument("--rounds", type=int, default=300, help="requests of each kind")
    parser.add_argument("--database", default="sqlite", help=DATABASE_HELP)
    parser.add_argument(
        "--door", choices=DOORS, default="grant", help="password grant, or /api/auth/login"
    )
    parser.add_argument("--seed", type=int, default=1, help="of the order in each round")
    options = parser.parse_args()
    configure_logging("console", "warning")
    with temporary_installation(options.database) as made:
        behind_proxy = {"TRUSTED_PROXIES": "127.0.0.1"}
        installation = Installation(made.directory, made.database_url, behind_proxy)
        print(f"{options.door} on {options.database}, {options.rounds} rounds:")
        is_level = asyncio.run(run(installation, options.door, options.rounds, options.seed))
    return 0 if is_level else 1


if __name__ == "__main__":
    raise SystemExit(main())
