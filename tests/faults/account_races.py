"""Races at the account API, over HTTP against real server processes; afterwards nothing lives that
should not.

Each round starts its requests at random moments within the time that a password hash takes, at
two processes where there are two, and then looks at what is stored and what the tokens are still
worth. A round returns its problems; none is expected, ever.
"""

import asyncio
import itertools
import random
import secrets
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from tests.support.load import Address, Connection, Reply, get_request, json_request
from tests.support.process import Installation
from token_server.records import Family, Secret
from token_server.runtime import Runtime
from token_server.services.users import (
    NewUser,
    add_user,
    disable_user,
    enable_user,
    show_user,
)
from token_server.storage import families

OVERRIDES = {"REGISTRATION": "open", "TRUSTED_PROXIES": "127.0.0.1"}
SPREAD_S = 0.12  # two hashes and a little: a password change begins and ends within
LANES = 2


@dataclass(slots=True)
class RaceReport:
    """`problems` is empty when everything held; the rest is for people."""

    name: str
    rounds: int = 0
    duration_s: float = 0.0
    outcomes: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)

    def summary(self) -> str:
        counts = ", ".join(f"{count} x {what}" for what, count in sorted(self.outcomes.items()))
        return (
            f"{self.name}: {self.rounds} rounds in {self.duration_s:.0f} s; {counts}; "
            f"{len(self.problems)} problems"
        )


@dataclass(slots=True)
class Lane:
    """One account and its rounds, which follow each other; lanes run side by side."""

    runtime: Runtime
    addresses: Sequence[Address]
    email: str
    report: RaceReport
    networks: "itertools.count[int]"
    password: str = "the first of many passwords"

    async def ask(self, server: int, request: bytes) -> Reply:
        """A connection of its own: requests of one round must not wait for each other."""
        connection = await Connection.open(self.addresses[server % len(self.addresses)])
        try:
            return await connection.request(request)
        finally:
            connection.close()

    async def post(
        self, server: int, path: str, body: dict[str, str], token: str | None = None
    ) -> Reply:
        request = json_request(f"/api/auth{path}", body, self._headers(token))
        return await self.ask(server, request)

    async def me(self, token: str) -> int:
        request = get_request("/api/auth/me", self._headers(token))
        return (await self.ask(1, request)).status

    def _headers(self, token: str | None) -> dict[str, str]:
        # Each request from a network of its own: guessing budgets are another test's business.
        number = next(self.networks)
        network = f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
        headers = {"X-Forwarded-For": network}
        return headers if token is None else {**headers, "Authorization": f"Bearer {token}"}

    async def log_in(self, server: int) -> Reply:
        body = {"email": self.email, "password": self.password}
        return await self.post(server, "/login", body)

    async def refresh(self, server: int, token: str) -> Reply:
        return await self.post(server, "/refresh", {"refresh_token": token})

    async def live_sessions(self) -> list[Family]:
        user = await show_user(self.runtime, self.email)
        async with self.runtime.store.read() as connection:
            return await families.list_families(
                connection, user_id=user.user_id, now=self.runtime.clock.now()
            )

    def note(self, what: str, reply: Reply, allowed: Sequence[int]) -> bool:
        """Counts the answer; True for a success. Any other answer than those is a problem."""
        self.report.outcomes[f"{what} {reply.status}"] += 1
        if reply.status not in allowed:
            self.problem(f"{what} was answered {reply.status}: {reply.body[:200]!r}")
        return reply.status in (200, 204)

    def problem(self, text: str) -> None:
        self.report.problems.append(f"{self.email}: {text}")

    async def require_dead(self, what: str, reply: Reply) -> None:
        """Neither token of this answer is worth anything."""
        tokens = reply.json()
        if (status := await self.me(tokens["access_token"])) != 401:
            self.problem(f"the access token of {what} was answered {status}")
        await self.require_spent(f"the refresh token of {what}", tokens["refresh_token"])

    async def require_spent(self, what: str, refresh_token: str) -> None:
        again = await self.refresh(1, refresh_token)
        if again.status != 401:
            self.problem(f"{what} was answered {again.status}")


async def later(work: Awaitable[Reply]) -> Reply:
    await asyncio.sleep(random.uniform(0, SPREAD_S))  # noqa: S311 - a moment, no secret
    return await work


async def login_and_refresh_against_password_change(lane: Lane) -> None:
    """F124, F125: only the session in which the password was changed goes on, with new tokens."""
    started = await lane.log_in(0)
    if not lane.note("first login", started, [200]):
        return
    mine = started.json()
    new_password = f"password {secrets.token_hex(8)}"
    body = {"current_password": lane.password, "new_password": new_password}
    changed, login, refreshed = await asyncio.gather(
        lane.post(0, "/change-password", body, mine["access_token"]),
        later(lane.log_in(1)),
        later(lane.refresh(1, mine["refresh_token"])),
    )
    if not lane.note("change", changed, [200]):
        return
    lane.password = new_password
    if lane.note("login", login, [200, 401]):
        await lane.require_dead("the racing login", login)
    if lane.note("refresh", refreshed, [200, 401]):
        await lane.require_spent("the racing refresh's token", refreshed.json()["refresh_token"])
    await lane.require_spent("the session's first refresh token", mine["refresh_token"])
    sessions = await lane.live_sessions()
    if len(sessions) != 1:
        lane.problem(f"{len(sessions)} sessions live after the change")
    fresh = await lane.refresh(1, changed.json()["refresh_token"])
    if fresh.status != 200:
        lane.problem(f"the fresh refresh token was answered {fresh.status}")
    end = await lane.post(0, "/logout", {}, fresh.json().get("access_token", ""))
    lane.note("logout", end, [204])


async def login_against_disabling(lane: Lane) -> None:
    """F9 of refresh.md: whichever commits first, no session of a disabled user lives."""

    async def disable() -> None:
        await asyncio.sleep(random.uniform(0, SPREAD_S))  # noqa: S311 - a moment, no secret
        await disable_user(lane.runtime, lane.email)

    first, second, _ = await asyncio.gather(lane.log_in(0), later(lane.log_in(1)), disable())
    sessions = await lane.live_sessions()
    if sessions:
        lane.problem(f"{len(sessions)} sessions of a disabled user live")
    # Enabled again before looking: it is the sessions that must be dead, not only their user.
    await enable_user(lane.runtime, lane.email)
    for reply in (first, second):
        if lane.note("login", reply, [200, 401]):
            await lane.require_dead("a login before the disabling", reply)
    if await lane.live_sessions():
        lane.problem("a session came back with its user")


async def refresh_against_logout(lane: Lane) -> None:
    """After the logout neither the token nor its successor refreshes."""
    started = await lane.log_in(0)
    if not lane.note("login", started, [200]):
        return
    mine = started.json()
    refreshed, ended = await asyncio.gather(
        lane.refresh(0, mine["refresh_token"]),
        lane.post(1, "/logout", {}, mine["access_token"]),
    )
    lane.note("logout", ended, [204])
    if lane.note("refresh", refreshed, [200, 401]):
        await lane.require_dead("the racing refresh", refreshed)
    await lane.require_dead("the login", started)
    if await lane.live_sessions():
        lane.problem("a session lives after its logout")


async def two_registrations_of_one_name(lane: Lane) -> None:
    """One account, one session: the other gets 409 and made nothing."""
    name = f"new-{secrets.token_hex(8)}@example.org"
    lane.email = name
    replies = await asyncio.gather(
        *(
            lane.post(
                server,
                "/register",
                {"email": email, "password": f"password number {server}", "name": "New"},
            )
            for server, email in enumerate((name, name.upper()))
        )
    )
    winners = [reply for reply in replies if lane.note("registration", reply, [200, 409])]
    if len(winners) != 1:
        lane.problem(f"{len(winners)} registrations of one name won")
        return
    if (status := await lane.me(winners[0].json()["access_token"])) != 200:
        lane.problem(f"the winner's access token was answered {status}")
    sessions = await lane.live_sessions()
    if len(sessions) != 1:
        lane.problem(f"{len(sessions)} sessions after two registrations")


Round = Callable[[Lane], Awaitable[None]]
RACES: dict[str, Round] = {
    "login x change-password x refresh": login_and_refresh_against_password_change,
    "login x disable": login_against_disabling,
    "refresh x logout": refresh_against_logout,
    "register x register": two_registrations_of_one_name,
}


async def run_races(
    installation: Installation,
    addresses: Sequence[Address],
    rounds: int,
    names: Sequence[str] = tuple(RACES),
) -> list[RaceReport]:
    """`rounds` of each race; the servers are running already, with OVERRIDES."""
    reports = []
    networks = itertools.count(1)
    async with installation.runtime() as runtime:
        for name in names:
            report = RaceReport(name)
            lanes = [await _new_lane(runtime, addresses, report, networks) for _ in range(LANES)]
            shares = [rounds // LANES + (number < rounds % LANES) for number in range(LANES)]
            started = time.monotonic()
            await asyncio.gather(
                *(
                    _run_lane(lane, RACES[name], share)
                    for lane, share in zip(lanes, shares, strict=True)
                )
            )
            report.duration_s = time.monotonic() - started
            reports.append(report)
    return reports


async def _new_lane(
    runtime: Runtime,
    addresses: Sequence[Address],
    report: RaceReport,
    networks: "itertools.count[int]",
) -> Lane:
    email = f"racer-{secrets.token_hex(6)}@example.org"
    lane = Lane(runtime, addresses, email, report, networks)
    await add_user(runtime, NewUser(email, "Race Driver", Secret(lane.password)))
    return lane


async def _run_lane(lane: Lane, race: Round, rounds: int) -> None:
    for _ in range(rounds):
        await race(lane)
        lane.report.rounds += 1
