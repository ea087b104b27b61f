"""Whether the time of a failed login tells why it failed (cases F103, F104).

Five kinds of failure against a real server with the default Argon2id profile, in rounds of one
request of each kind in random order. Guessing budgets stay on: every request comes from an
address of its own, which the server believes because this machine is its TRUSTED_PROXIES.
"""

import argparse
import asyncio
import ipaddress
import itertools
import random
import time
from collections.abc import Iterator, Mapping
from statistics import median, quantiles

from tests.support.load import Connection, json_request, open_connections, token_request
from tests.support.places import DATABASE_HELP, temporary_installation
from tests.support.process import Installation, running_processes
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


async def measure(
    connection: Connection, door: str, rounds: int, seed: int
) -> dict[str, list[float]]:
    shuffled = random.Random(seed)  # noqa: S311 - an order, not a secret
    times: dict[str, list[float]] = {kind: [] for kind in KINDS}
    bodies = set()
    origin = addresses()
    for number in range(WARM_UP_ROUNDS + rounds):
        for kind in shuffled.sample(list(KINDS), len(KINDS)):
            request = login_request(door, kind, next(origin))
            started = time.perf_counter()
            reply = await connection.request(request)
            elapsed_s = time.perf_counter() - started
            status, code = DOORS[door]
            if reply.status != status or code.encode() not in reply.body:
                raise RuntimeError(f"{kind}: {reply.status} {reply.body!r}")
            bodies.add(reply.body)
            if number >= WARM_UP_ROUNDS:
                times[kind].append(elapsed_s)
    if len(bodies) != 1:
        raise RuntimeError(f"the answers differ: {bodies}")
    return times


def report(times: Mapping[str, list[float]]) -> bool:
    """Print the figures; whether the medians agree within 1 ms or 3 %."""
    medians = {kind: median(values) for kind, values in times.items()}
    middle = median(medians.values())
    for kind, values in times.items():
        tenths = quantiles(values, n=10)
        print(
            f"  {kind:18} median {medians[kind] * 1000:7.3f} ms"
            f"  ({(medians[kind] / middle - 1) * 100:+5.2f} %)"
            f"  p10 {tenths[0] * 1000:7.3f}  p90 {tenths[-1] * 1000:7.3f}  n {len(values)}"
        )
    spread_s = max(medians.values()) - min(medians.values())
    is_level = spread_s <= max(TOLERANCE_S, TOLERANCE_RATIO * middle)
    verdict = "agree" if is_level else "DO NOT agree"
    print(
        f"  medians lie within {spread_s * 1000:.3f} ms ({spread_s / middle * 100:.2f} %):"
        f" they {verdict} within 1 ms or 3 %"
    )
    return is_level


async def run(installation: Installation, door: str, rounds: int, seed: int) -> bool:
    async with installation.runtime() as runtime:
        await register(runtime)
    with running_processes(installation) as [server]:
        async with open_connections([server.address], 1) as [connection]:
            return report(await measure(connection, door, rounds, seed))


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="scripts/timing", description="Compare the times of five kinds of failed login."
    )
    parser.add_argument("--rounds", type=int, default=400, help="requests of each kind")
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
