"""Whether the time of a refusal tells why it was refused (cases E93, F103, F104, H154).

Kinds of failure at one door against a real server with the default Argon2id profile, in rounds of
one request of each kind in random order. Guessing budgets stay on: every request comes from an
address of its own, which the server believes because this machine is its TRUSTED_PROXIES.
On a busy machine waiting drowns a millisecond of work, so the CPU time that the server spent is
shown beside the time that the client waited.
"""

import argparse
import asyncio
import ipaddress
import itertools
import random
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from urllib.parse import urlencode

import argon2

from tests.support.load import (
    Connection,
    Reply,
    json_request,
    open_connections,
    raw_request,
    token_request,
)
from tests.support.places import DATABASE_HELP, temporary_installation
from tests.support.process import Installation, ServerProcess, running_processes
from token_server.logs import configure_logging
from token_server.records import Secret
from token_server.runtime import Runtime
from token_server.services.clients import NewClient, add_client, disable_client
from token_server.services.users import NewUser, add_user, disable_user, show_user
from token_server.storage import users

PASSWORD = "correct horse battery staple"
WRONG = "correct horse battery stable"
CLIENT_ID, MACHINE, ELSEWHERE, ENDED = "timing", "machine", "elsewhere", "ended"
ACTIVE, DISABLED, DAMAGED, OLD = (
    f"{name}@example.org" for name in ("active", "disabled", "damaged", "old")
)
DAMAGED_HASH = Secret("$argon2id$v=19$m=19456,t=2,p=1$damaged")
KINDS: Mapping[str, tuple[str, str]] = {
    "unknown user": ("nobody@example.org", PASSWORD),
    "wrong password": (ACTIVE, WRONG),
    "disabled user": (DISABLED, PASSWORD),
    "unusable hash": (DAMAGED, PASSWORD),
    "impossible e-mail": ("no address at all", PASSWORD),
}
DOORS = ("grant", "login", "change-password", "client", "introspection")
WARM_UP_ROUNDS = 20
TOLERANCE_S = 0.001
TOLERANCE_RATIO = 0.03


Samples = dict[str, list["Sample"]]
Ask = Callable[[str], bytes]  # the request, from that address


@dataclass(frozen=True, slots=True)
class Door:
    """Where it is tried, and the one answer that all kinds must get."""

    kinds: Mapping[str, Ask]
    status: int
    answer: str


async def register(runtime: Runtime) -> dict[str, str]:
    """Users and clients that fail for every cause; the clients' secrets."""
    await add_client(runtime, NewClient(CLIENT_ID, ("password",), is_public=True))
    made = {}
    for client_id in (MACHINE, ELSEWHERE, ENDED):
        new = NewClient(client_id, ("client_credentials",), audiences=(f"https://{client_id}",))
        _, secret = await add_client(runtime, new)
        made[client_id] = "" if secret is None else secret.reveal()
    await disable_client(runtime, ENDED)
    for email in (ACTIVE, DISABLED, DAMAGED, OLD):
        await add_user(runtime, NewUser(email, "Timed", Secret(PASSWORD)))
    await disable_user(runtime, DISABLED)
    return made


async def spoil_hashes(runtime: Runtime) -> None:
    """After the users have logged in: one hash that cannot be read, one of cheaper parameters."""
    cheap = argon2.PasswordHasher(time_cost=1, memory_cost=8192, parallelism=1).hash(PASSWORD)
    for email, stored in ((DAMAGED, DAMAGED_HASH), (OLD, Secret(cheap))):
        user = await show_user(runtime, email)
        async with runtime.store.write() as connection:
            await users.rehash_password(connection, user.user_id, user.credential_version, stored)


async def log_in(server: ServerProcess, email: str) -> str:
    async with open_connections([server.address], 1) as [connection]:
        body = {"email": email, "password": PASSWORD}
        return str(
            (await connection.request(json_request("/api/auth/login", body))).json()["access_token"]
        )


async def machine_token(server: ServerProcess, client_id: str, secret: str) -> str:
    async with open_connections([server.address], 1) as [connection]:
        form = {"grant_type": "client_credentials", "client_id": client_id}
        return str((await connection.request(token_request(form, secret))).json()["access_token"])


async def make_door(
    name: str, installation: Installation, server: ServerProcess, made: Mapping[str, str]
) -> Door:
    tokens = {email: await log_in(server, email) for email in (ACTIVE, DAMAGED, OLD)}
    foreign = await machine_token(server, ELSEWHERE, made[ELSEWHERE])
    async with installation.runtime() as runtime:
        await spoil_hashes(runtime)
    match name:
        case "grant":
            return Door({kind: by_grant(*who) for kind, who in KINDS.items()}, 400, "invalid_grant")
        case "login":
            asks = {kind: by_login(*who) for kind, who in KINDS.items()}
            return Door(asks, 401, "credentials_refused")
        case "change-password":
            asks = {
                "wrong password": by_change(tokens[ACTIVE]),
                "unusable hash": by_change(tokens[DAMAGED]),
                "cheaper old hash": by_change(tokens[OLD]),
            }
            return Door(asks, 401, "credentials_refused")
        case "client":
            asks = {
                "unknown client": by_secret("nobody", "guess"),
                "wrong secret": by_secret(MACHINE, "guess"),
                "disabled client": by_secret(ENDED, made[ENDED]),
                "public client": by_secret(CLIENT_ID, "guess"),
            }
            return Door(asks, 401, "invalid_client")
        case _:
            return Door(introspections(made[MACHINE], foreign), 200, '{"active":false}')


def by_grant(email: str, password: str) -> Ask:
    form = {"grant_type": "password", "username": email, "password": password}
    form |= {"client_id": CLIENT_ID}
    return lambda address: token_request(form, more_headers={"X-Forwarded-For": address})


def by_login(email: str, password: str) -> Ask:
    body = {"email": email, "password": password}
    return lambda address: json_request("/api/auth/login", body, {"X-Forwarded-For": address})


def by_change(token: str) -> Ask:
    body = {"current_password": WRONG, "new_password": "a whole new phrase"}
    headers = {"Authorization": f"Bearer {token}"}
    path = "/api/auth/change-password"
    return lambda address: json_request(path, body, {**headers, "X-Forwarded-For": address})


def by_secret(client_id: str, secret: str) -> Ask:
    form = {"grant_type": "client_credentials", "client_id": client_id}
    return lambda address: token_request(form, secret, {"X-Forwarded-For": address})


def introspections(secret: str, foreign: str) -> dict[str, Ask]:
    """Tokens that tell the asker nothing, each another one every time (H154)."""
    header, payload, _ = foreign.split(".")
    kinds: dict[str, Callable[[], str]] = {
        "junk": lambda: secrets.token_urlsafe(400),
        "made-up refresh token": lambda: "rt_" + secrets.token_urlsafe(54),
        "wrong signature": lambda: f"{header}.{payload}.{secrets.token_urlsafe(256)}",
        "token for another": lambda: foreign,
    }

    def asking(make: Callable[[], str]) -> Ask:
        def ask(address: str) -> bytes:
            fields = {"client_id": MACHINE, "client_secret": secret, "token": make()}
            headers = {"Content-Type": "application/x-www-form-urlencoded"}
            headers["X-Forwarded-For"] = address
            return raw_request("POST", "/oauth2/introspect", headers, urlencode(fields).encode())

        return ask

    return {kind: asking(make) for kind, make in kinds.items()}


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


async def measure(server: ServerProcess, door: Door, rounds: int, seed: int) -> Samples:
    shuffled = random.Random(seed)  # noqa: S311 - an order, not a secret
    samples: Samples = {kind: [] for kind in door.kinds}
    bodies = set()
    origin = addresses()
    async with open_connections([server.address], 1) as [connection]:
        for number in range(WARM_UP_ROUNDS + rounds):
            for kind in shuffled.sample(list(door.kinds), len(door.kinds)):
                request = door.kinds[kind](next(origin))
                reply, sample = await measure_one(server, connection, request)
                if reply.status != door.status or door.answer.encode() not in reply.body:
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
            f"  {kind:21} waited {waited[kind] * 1000:7.3f} ms"
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
        made = await register(runtime)
    with running_processes(installation) as [server]:
        tried = await make_door(door, installation, server, made)
        return report(await measure(server, tried, rounds, seed))


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="scripts/timing", description="Compare the times of refusals of several kinds."
    )
    parser.add_argument("--rounds", type=int, default=300, help="requests of each kind")
    parser.add_argument("--database", default="sqlite", help=DATABASE_HELP)
    parser.add_argument(
        "--door",
        choices=(*DOORS, "all"),
        default="grant",
        help="five kinds of failed login by password grant or /api/auth/login; wrong current "
        "passwords; failed clients; tokens that introspection does not know",
    )
    parser.add_argument("--seed", type=int, default=1, help="of the order in each round")
    options = parser.parse_args()
    configure_logging("console", "warning")
    are_level = []
    for door in DOORS if options.door == "all" else (options.door,):
        with temporary_installation(options.database) as made:
            behind_proxy = {"TRUSTED_PROXIES": "127.0.0.1"}
            installation = Installation(made.directory, made.database_url, behind_proxy)
            print(f"{door} on {options.database}, {options.rounds} rounds:")
            are_level.append(asyncio.run(run(installation, door, options.rounds, options.seed)))
    return 0 if all(are_level) else 1


if __name__ == "__main__":
    raise SystemExit(main())
