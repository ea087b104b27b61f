"""Rounds of kill -9 under load: whatever was acknowledged must be there after the restart.

Each round: a server process under refreshes and logins, a second process that changes passwords,
a SIGKILL of one or both at a random moment, a new start, and a check of every session and account
against what clients were told. What was in flight may have happened or not, but wholly.
"""

import asyncio
import contextlib
import json
import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tests.faults.kill_checks import can_log_in, check_session
from tests.faults.kill_load import (
    BEHIND_PROXY,
    CLIENT_ID,
    Account,
    Load,
    PasswordChanger,
    Session,
    World,
    in_flight,
    tokens,
)
from tests.support.load import Connection, open_connections
from tests.support.process import Installation, ServerProcess, start_server
from tests.support.refresh_tokens import family_of, generation_of
from token_server.records import Family, Secret
from token_server.runtime import Runtime
from token_server.services.clients import NewClient, add_client
from token_server.services.users import NewUser, add_user
from token_server.storage.families import find_family

REPLAY_WINDOW_S = 300  # a slow restart on a busy machine must not look like theft
STEADY_SESSIONS = 12
CHANGING_ACCOUNTS = 4
LOAD_S = (0.3, 1.2)
LATE_KILL_S = 0.05
AIM_TIMEOUT_S = 2.0
AIMED_SHARE = 0.5  # of the kills come in the middle of a password change
AIMED_KILL_S = 0.03  # about what a password change takes
SPENT_CHECK_SHARE = 4  # one session in so many is spent to see that its old token is dead


@dataclass(slots=True)
class KillReport:
    rounds: int = 0
    acknowledged: Counter[str] = field(default_factory=Counter)
    in_flight: Counter[str] = field(default_factory=Counter)
    happened: Counter[str] = field(default_factory=Counter)  # of those in flight
    problems: list[str] = field(default_factory=list)
    slowest_restart_s: float = 0.0

    def summary(self) -> str:
        return (
            f"{self.rounds} kills; acknowledged {_counts(self.acknowledged)}; "
            f"in flight at the kills {_counts(self.in_flight)}, "
            f"of which had happened {_counts(self.happened)}; "
            f"slowest restart {self.slowest_restart_s:.1f} s; {len(self.problems)} problems"
        )


@dataclass(frozen=True, slots=True)
class Plan:
    rounds: int
    seed: int
    log_path: Path


class KillRounds:
    def __init__(self, installation: Installation, plan: Plan) -> None:
        self._installation = replace(
            installation, overrides={**installation.overrides, **BEHIND_PROXY}
        )
        self._plan = plan
        self._random = random.Random(plan.seed)  # noqa: S311 - chooses moments, not secrets
        self._world = World(_sessions())
        self._report = KillReport(acknowledged=self._world.acknowledged)

    async def run(self) -> KillReport:
        async with self._installation.runtime() as runtime:
            await register(runtime, self._world.accounts)
        server, changer = await self._start(None)
        try:
            for number in range(1, self._plan.rounds + 1):
                entry = await self._kill_under_load(server, changer)
                started = time.monotonic()
                server, changer = await self._start(changer)
                restart_s = time.monotonic() - started
                self._report.slowest_restart_s = max(self._report.slowest_restart_s, restart_s)
                entry |= {"round": number, **await self._check(server)}
                with self._plan.log_path.open("a", encoding="utf-8") as log:
                    log.write(json.dumps(entry) + "\n")
                self._report.rounds = number
            await changer.stop()
            if server.stop() != 0:
                self._report.problems.append("the last server did not end well on SIGTERM")
        finally:
            changer.kill()
            server.kill()
        return self._report

    async def _start(
        self, changer: PasswordChanger | None
    ) -> tuple[ServerProcess, PasswordChanger]:
        """A new server, and a new changer where the old one was killed."""
        starting = asyncio.create_task(asyncio.to_thread(start_server, self._installation))
        if changer is None or not changer.is_alive:
            changer = await PasswordChanger.start(self._installation)
        return await starting, changer

    async def _kill_under_load(
        self, server: ServerProcess, changer: PasswordChanger
    ) -> dict[str, Any]:
        before = self._report.acknowledged.copy()
        load = Load(self._world, server, changer)
        running = asyncio.create_task(load.run())
        after_s = self._random.uniform(*LOAD_S)
        victims = self._random.choice([["server"], ["server", "changer"], ["changer", "server"]])
        await asyncio.wait([running], timeout=after_s)
        if is_aimed := self._random.random() < AIMED_SHARE:
            await self._await_change(load)
        for index, victim in enumerate(victims):
            if index:
                await asyncio.sleep(self._random.uniform(0, LATE_KILL_S))
            server.kill() if victim == "server" else changer.kill()
        load.finish()
        await running
        if "changer" in victims:
            await changer.stop()
        unanswered = in_flight(self._world)
        self._report.in_flight.update(entry["operation"] for entry in unanswered)
        return {
            "killed": victims,
            "after_s": round(after_s, 3),
            "aimed_at_a_change": is_aimed,
            "acknowledged": dict(self._report.acknowledged - before),
            "in_flight": unanswered,
        }

    async def _await_change(self, load: Load) -> None:
        load.change_begun.clear()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(load.change_begun.wait(), AIM_TIMEOUT_S)
        await asyncio.sleep(self._random.uniform(0, AIMED_KILL_S))

    async def _check(self, server: ServerProcess) -> dict[str, Any]:
        """Compare everything with what was acknowledged, and leave the world settled again."""
        happened = self._report.happened.copy()
        async with open_connections([server.address], 1) as [connection]:
            for account in self._world.accounts:
                await self._check_account(account, connection)
            stored = await self._read_families()
            for number, session in enumerate(self._world.sessions):
                self._check_stored(session, stored)
                spend = self._random.randrange(SPENT_CHECK_SHARE) == number % SPENT_CHECK_SHARE
                await check_session(self._world, session, connection, spend=spend)
                session.in_flight = None
        problems = self._world.problems.copy()  # those that the load saw included
        self._world.problems.clear()
        self._report.problems += problems
        return {"happened": dict(self._report.happened - happened), "problems": problems}

    async def _check_account(self, account: Account, connection: Connection) -> None:
        """One password is good: the acknowledged one, or wholly the one that was in flight."""
        if account.pending is not None:
            if await can_log_in(account.email, account.pending, connection):
                account.acknowledge_change()
                self._report.happened["password change"] += 1
            else:
                account.pending = None
        problems = self._world.problems
        if not await can_log_in(account.email, account.password, connection):
            problems.append(f"{account.email}: the acknowledged password is refused")
        if account.previous is not None and await can_log_in(
            account.email, account.previous, connection
        ):
            problems.append(f"{account.email}: the old password is accepted")

    async def _read_families(self) -> dict[bytes, Family]:
        """Opened and closed in each round: a connection held over a kill would spare SQLite the
        recovery of its log."""
        found: dict[bytes, Family] = {}
        async with self._installation.runtime() as runtime, runtime.store.read() as connection:
            for token in tokens(self._world.sessions):
                family = await find_family(connection, family_of(token))
                if family is not None:
                    found[family.family_id] = family
        return found

    def _check_stored(self, session: Session, stored: dict[bytes, Family]) -> None:
        if session.token is None:
            return
        family = stored.get(family_of(session.token))
        if family is None:
            self._world.note(session, "an acknowledged session is not stored")
            return
        ahead = family.generation - generation_of(session.token)
        if ahead not in ((0, 1) if session.in_flight == "refresh" else (0,)):
            self._world.note(session, f"generation {family.generation} is stored")
        self._report.happened["refresh"] += ahead
        if family.revoked_at is None and session.must_be_dead:
            self._world.note(session, "stored as live after a password change")
        if family.revoked_at is not None and not session.must_be_dead:
            self._world.note(session, f"stored as revoked: {family.revoked_reason}")


def _sessions() -> list[Session]:
    steady = [
        Account(f"steady-{number}@example.org", "correct horse battery staple", changes=False)
        for number in range(STEADY_SESSIONS // 4)
    ]
    changing = [
        Account(f"changing-{number}@example.org", "correct horse battery staple", changes=True)
        for number in range(CHANGING_ACCOUNTS)
    ]
    return [Session(account) for account in (*steady * 4, *changing * 2)]


async def register(runtime: Runtime, accounts: Sequence[Account]) -> None:
    new = NewClient(
        CLIENT_ID,
        ("password", "refresh_token"),
        is_public=True,
        refresh_replay_window_s=REPLAY_WINDOW_S,
    )
    await add_client(runtime, new)
    for account in accounts:
        await add_user(runtime, NewUser(account.email, "Survivor", Secret(account.password)))


def _counts(counter: Counter[str]) -> str:
    return " + ".join(f"{count} {name}" for name, count in sorted(counter.items())) or "nothing"
