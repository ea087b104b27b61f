"""Races of revocation, over HTTP against real server processes; afterwards nothing lives.

A session's token is given back while it is refreshed, while its user's password changes, and while
old sessions are pruned. Afterwards introspection calls every token of the session inactive, no
refresh token of it refreshes, and its bit in the status list is set. A round returns its problems;
none is expected, ever.
"""

import asyncio
import base64
import random
import secrets
import time
import zlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import insert

from tests.faults.account_races import RaceReport
from tests.support.load import Address, Connection, Reply, form_request, get_request
from tests.support.process import Installation
from tests.support.token_state import claims_of
from token_server.records import Secret
from token_server.runtime import Runtime
from token_server.services.clients import NewClient, add_client
from token_server.services.maintenance import prune_database
from token_server.services.users import NewUser, add_user, set_password
from token_server.storage.families import find_session
from token_server.storage.schema import families

AUDIENCE = "https://orders.example"
CLIENT, SERVICE = "racer", "racing-service"
OVERRIDES: dict[str, str] = {}
LANES = 4
FOLLOWED_WITHIN_S = 1.0  # a process looks for what others revoked when it is asked, twice a second
SPREAD_S = 0.006  # a rotation or revocation takes some 3 ms
HASHING_SPREAD_S = 0.08  # a password change begins and ends within


@dataclass(slots=True)
class Lane:
    """One user and their rounds, which follow each other; lanes run side by side."""

    runtime: Runtime
    addresses: Sequence[Address]
    email: str
    service_secret: str
    report: RaceReport
    password: str = "the first of many passwords"
    bits: list[tuple[str, int]] = field(default_factory=list)

    async def ask(self, server: int, request: bytes) -> Reply:
        """A connection of its own: requests of one round must not wait for each other."""
        connection = await Connection.open(self.addresses[server % len(self.addresses)])
        try:
            return await connection.request(request)
        finally:
            connection.close()

    async def post(self, server: int, path: str, **form: str) -> Reply:
        return await self.ask(server, form_request(path, form))

    async def log_in(self) -> dict[str, Any] | None:
        reply = await self.post(
            0,
            "/oauth2/token",
            grant_type="password",
            client_id=CLIENT,
            username=self.email,
            password=self.password,
        )
        self.note("login", reply, [200])
        return reply.json() if reply.status == 200 else None

    async def refresh(self, server: int, token: str) -> Reply:
        form = {"grant_type": "refresh_token", "client_id": CLIENT, "refresh_token": token}
        return await self.post(server, "/oauth2/token", **form)

    async def revoke(self, server: int, token: str) -> Reply:
        return await self.post(server, "/oauth2/revoke", client_id=CLIENT, token=token)

    async def is_active(self, server: int, token: str) -> bool:
        reply = await self.post(
            server,
            "/oauth2/introspect",
            client_id=SERVICE,
            client_secret=self.service_secret,
            token=token,
        )
        if reply.status != 200:
            self.problem(f"introspection was answered {reply.status}")
            return False
        return bool(reply.json()["active"])

    def note(self, what: str, reply: Reply, allowed: Sequence[int]) -> bool:
        """Counts the answer; True for a success. Any other answer than those is a problem."""
        self.report.outcomes[f"{what} {reply.status}"] += 1
        if reply.status not in allowed:
            self.problem(f"{what} was answered {reply.status}: {reply.body[:200]!r}")
        return reply.status == 200

    def problem(self, text: str) -> None:
        self.report.problems.append(f"{self.email}: {text}")

    async def require_dead(self, what: str, tokens: dict[str, Any]) -> None:
        """At each process: the access token is inactive and the refresh token refused."""
        for server in range(len(self.addresses)):
            if await self.is_active(server, tokens["access_token"]):
                self.problem(f"the access token of {what} is active at process {server}")
        again = await self.refresh(1, tokens["refresh_token"])
        if again.status != 400:
            self.problem(f"the refresh token of {what} was answered {again.status}")

    def expect_bit(self, access_token: str) -> None:
        """Looked for when the race is over: verifiers hear of it within `ttl`, not at once."""
        claim = claims_of(access_token)["status"]["status_list"]
        self.bits.append(("/oauth2/status-lists/" + claim["uri"].rpartition("/")[2], claim["idx"]))

    async def require_bits(self) -> None:
        """As a verifier looks: in the lists that the tokens named, at each process."""
        for server in range(len(self.addresses)):
            packed: dict[str, bytes] = {}
            for path, index in self.bits:
                if path not in packed:
                    reply = await self.ask(server, get_request(path))
                    lst = claims_of(reply.body.decode())["status_list"]["lst"]
                    raw = base64.urlsafe_b64decode(lst + "=" * (-len(lst) % 4))
                    packed[path] = zlib.decompress(raw)
                if not packed[path][index >> 3] >> (index & 7) & 1:
                    self.problem(f"bit {index} of {path} is not set at process {server}")
            self.report.outcomes["bits looked at"] += len(self.bits)


async def _later(work: Awaitable[Reply], spread_s: float = SPREAD_S) -> Reply:
    await asyncio.sleep(random.uniform(0, spread_s))  # noqa: S311 - a moment, no secret
    return await work


async def revoke_against_refresh(lane: Lane) -> None:
    """H160: by the refresh token or by the access token, whichever commits first."""
    tokens = await lane.log_in()
    if tokens is None:
        return
    given = random.choice(("refresh_token", "access_token"))  # noqa: S311 - no secret
    revoked, refreshed = await asyncio.gather(
        _later(lane.revoke(1, tokens[given])), _later(lane.refresh(0, tokens["refresh_token"]))
    )
    lane.note("revoke", revoked, [200])
    if lane.note("refresh", refreshed, [200, 400]):
        await lane.require_dead("the racing refresh", refreshed.json())
    await lane.require_dead("the login", tokens)
    lane.expect_bit(tokens["access_token"])


async def revoke_against_password_change(lane: Lane) -> None:
    """Neither undoes the other: no token from before lives."""
    tokens = await lane.log_in()
    if tokens is None:
        return
    password = f"password {secrets.token_hex(8)}"

    async def change() -> None:
        await asyncio.sleep(random.uniform(0, SPREAD_S))  # noqa: S311 - a moment, no secret
        await set_password(lane.runtime, lane.email, Secret(password))

    revoked, refreshed, _ = await asyncio.gather(
        _later(lane.revoke(0, tokens["refresh_token"]), HASHING_SPREAD_S),
        _later(lane.refresh(1, tokens["refresh_token"]), HASHING_SPREAD_S),
        change(),
    )
    lane.password = password
    lane.note("revoke", revoked, [200])
    if lane.note("refresh", refreshed, [200, 400]):
        await lane.require_dead("the racing refresh", refreshed.json())
    await lane.require_dead("the login", tokens)
    lane.expect_bit(tokens["access_token"])


async def revoke_against_purge(lane: Lane) -> None:
    """G145: the purge takes what is long past and nothing else; no orphan comes to life."""
    tokens = await lane.log_in()
    if tokens is None:
        return
    old = await _long_ended_session(lane)

    async def purge() -> None:
        await asyncio.sleep(random.uniform(0, SPREAD_S))  # noqa: S311 - a moment, no secret
        await prune_database(lane.runtime, None)

    revoked, refreshed, _ = await asyncio.gather(
        _later(lane.revoke(0, tokens["refresh_token"])),
        _later(lane.refresh(1, tokens["refresh_token"])),
        purge(),
    )
    lane.note("revoke", revoked, [200])
    if lane.note("refresh", refreshed, [200, 400]):
        await lane.require_dead("the racing refresh", refreshed.json())
    await lane.require_dead("the login", tokens)
    lane.expect_bit(tokens["access_token"])
    async with lane.runtime.store.read() as connection:
        if await find_session(connection, old) is not None:
            lane.problem("the purge left a session that ended long ago")


async def _long_ended_session(lane: Lane) -> str:
    """Something to purge; its id."""
    ended_at = lane.runtime.clock.now() - 30 * 86400
    sid = "ses_" + secrets.token_urlsafe(16)
    ended = insert(families).values(
        family_id=secrets.token_bytes(16),
        sid=sid,
        client_id=CLIENT,
        user_id="usr_long_gone",
        scope="",
        audience=AUDIENCE,
        generation=0,
        shadow_count=0,
        mac_version=1,
        auth_time=ended_at - 60,
        created_at=ended_at - 60,
        idle_expires_at=ended_at,
        absolute_expires_at=ended_at,
    )
    async with lane.runtime.store.write() as connection:
        await connection.execute(ended)
    return sid


Round = Callable[[Lane], Awaitable[None]]
RACES: dict[str, Round] = {
    "revoke x refresh": revoke_against_refresh,
    "revoke x change-password x refresh": revoke_against_password_change,
    "revoke x purge x refresh": revoke_against_purge,
}


async def run_races(
    installation: Installation,
    addresses: Sequence[Address],
    rounds: int,
    names: Sequence[str] = tuple(RACES),
) -> list[RaceReport]:
    """`rounds` of each race; the servers are running already, with OVERRIDES."""
    reports = []
    async with installation.runtime() as runtime:
        client = NewClient(
            CLIENT,
            ("password", "refresh_token"),
            audiences=(AUDIENCE,),
            default_audience=(AUDIENCE,),
            is_public=True,
        )
        await add_client(runtime, client)
        _, secret = await add_client(runtime, NewClient(SERVICE, (), serves_audiences=(AUDIENCE,)))
        assert secret is not None
        for name in names:
            report = RaceReport(name)
            lanes = [
                await _new_lane(runtime, addresses, secret.reveal(), report) for _ in range(LANES)
            ]
            shares = [rounds // LANES + (number < rounds % LANES) for number in range(LANES)]
            started = time.monotonic()
            await asyncio.gather(
                *(
                    _run_lane(lane, RACES[name], share)
                    for lane, share in zip(lanes, shares, strict=True)
                )
            )
            report.duration_s = time.monotonic() - started
            await asyncio.sleep(FOLLOWED_WITHIN_S)
            for lane in lanes:
                await lane.require_bits()
            reports.append(report)
    return reports


async def _new_lane(
    runtime: Runtime, addresses: Sequence[Address], service_secret: str, report: RaceReport
) -> Lane:
    email = f"racer-{secrets.token_hex(6)}@example.org"
    lane = Lane(runtime, addresses, email, service_secret, report)
    await add_user(runtime, NewUser(email, "Race Driver", Secret(lane.password)))
    return lane


async def _run_lane(lane: Lane, race: Round, rounds: int) -> None:
    for _ in range(rounds):
        await race(lane)
        lane.report.rounds += 1
