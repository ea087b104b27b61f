"""kill -9 at each write of each state change: what was acknowledged is there.

Whatever was not acknowledged is there wholly or not at all. The walk: the same change again and
again, its process killed at its first write, its second, and so on, until it is answered without a
kill (then it is killed as well). Killed is the server, the process of a command beside it, or
PostgreSQL's own process of a connection, in the middle of a transaction or with the answer to a
COMMIT on its way. Meanwhile a few sessions refresh.
"""

import asyncio
import json
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import httpx

from tests.faults.forked_starts import Forker
from tests.faults.kill import register
from tests.faults.kill_checks import check_session
from tests.faults.kill_load import (
    Account,
    Load,
    Session,
    World,
    in_flight,
    login_request,
    refresh_token_of,
)
from tests.faults.write_changes import CHANGES, Acknowledged, Change
from tests.faults.write_commands import COMMANDS, Command
from tests.faults.write_postgres import await_recovery, backends_of
from tests.faults.write_site import OVERRIDES, PASSWORD, Site
from tests.faults.write_steps import step_of
from tests.faults.write_tracer import Moment, Tracer
from tests.support.load import open_connections
from tests.support.process import Installation, ServerProcess, start_server

Victim = Literal["server", "command", "backend"]
ANSWERED = "answered"  # no write was left: killed all the same
_SESSIONS = 3
_SPENT_CHECK_SHARE = 4  # one kill in so many spends the sessions of the load
_START_BY_COMMAND = 10
_PATIENCE_S = 60.0


@dataclass(frozen=True, slots=True)
class Walk:
    """Which writes of what are met: the `first`, and every `every`th after it."""

    victim: Victim
    moment: Moment = "before"
    only: frozenset[str] = frozenset()  # names of changes; empty: all
    first: int = 1
    every: int = 1
    under_load: bool = False


@dataclass(slots=True)
class KillTable:
    """What came of the kills of one change."""

    kills: int = 0
    acknowledged: int = 0
    whole: int = 0  # of those not acknowledged
    absent: int = 0
    untold: int = 0  # nobody outside can tell


@dataclass(slots=True)
class WriteKillReport:
    tables: dict[str, KillTable] = field(default_factory=dict)
    steps: Counter[str] = field(default_factory=Counter)
    in_flight: Counter[str] = field(default_factory=Counter)
    ready_s: dict[str, list[float]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    @property
    def kills(self) -> int:
        return sum(table.kills for table in self.tables.values())

    def count(self, name: str, answer: Acknowledged, happened: bool | None, step: str) -> None:
        table = self.tables.setdefault(name, KillTable())
        table.kills += 1
        self.steps[step] += 1
        if answer is not None:
            table.acknowledged += 1
        elif happened is None:
            table.untold += 1
        elif happened:
            table.whole += 1
        else:
            table.absent += 1


@dataclass(frozen=True, slots=True)
class _Outcome:
    answer: Acknowledged
    tracer: Tracer
    in_flight: list[str]


Run = Callable[[int], Awaitable[_Outcome]]  # once, with the kill at the write of that number


class WriteKills:
    """`prepare`, then walks; `close` at the end. `wrapper` as in `start_server`; with a `forker`
    only one start in `_START_BY_COMMAND` is by the command line."""

    def __init__(
        self,
        installation: Installation,
        log_path: Path,
        *,
        wrapper: Sequence[str] = (),
        forker: Forker | None = None,
    ) -> None:
        overrides = {**OVERRIDES, **installation.overrides}
        self._installation = replace(installation, overrides=overrides)
        self._log_path = log_path
        self._wrapper = wrapper
        self._forker = forker
        self._starts = 0
        self._is_forked = False
        self._site = Site(self._installation)
        self._random = random.Random(0)  # noqa: S311 - chooses moments, no secrets
        accounts = [
            Account(f"steady-{number}@example.org", PASSWORD, changes=False)
            for number in range(_SESSIONS)
        ]
        self._world = World([Session(account) for account in accounts])
        self._server: ServerProcess | None = None
        self.report = WriteKillReport()

    async def prepare(self, seed: int = 0) -> None:
        self._random.seed(seed)
        await self._site.prepare()
        async with self._installation.runtime() as runtime:
            await register(runtime, self._world.accounts)
        await self._start()

    async def close(self) -> None:
        await self._site.leave()
        assert self._server is not None
        if self._is_forked:  # only its parent hears of its status
            self._server.kill()
        elif self._server.stop() != 0:
            self.report.problems.append("the last server did not end well on SIGTERM")

    async def abandon(self) -> None:
        """After an error of the walk itself."""
        await self._site.leave()
        if self._server is not None:
            self._server.kill()

    async def walk(self, walk: Walk, tell: Callable[[str], None] = lambda _: None) -> None:
        """`tell` is called after each change."""
        if walk.victim == "command":
            for command in COMMANDS:
                await self._walk_one(walk, command, partial(self._run_command, walk, command), tell)
        else:
            for change in CHANGES:
                await self._walk_one(walk, change, partial(self._ask, walk, change), tell)

    async def _walk_one(
        self, walk: Walk, change: Change | Command, run: Run, tell: Callable[[str], None]
    ) -> None:
        if walk.only and change.name not in walk.only:
            return
        number = walk.first
        while await self._kill(walk, change, run, number):
            # Under load the other writes lie between those of the change.
            number += walk.every * (self._random.randint(1, 4) if walk.under_load else 1)
        tell(
            f"{change.name}, {walk.victim} killed {walk.moment}: {number} writes, "
            f"{self.report.kills} kills so far, {len(self.report.problems)} problems"
        )

    async def _kill(self, walk: Walk, change: Change | Command, run: Run, number: int) -> bool:
        """False when the change was over before its write `number`."""
        await change.prepare(self._site)
        newest, _ = await self._site.audit_trail()
        outcome = await run(number)
        kind, ready_s = await self._go_on(walk.victim)
        answer, tracer = outcome.answer, outcome.tracer
        _, trail = await self._site.audit_trail(newest)
        happened = await change.check(self._site, answer)
        if change.event is not None:
            rows = trail[change.event.value]
            self._site.expect(rows == int(bool(happened)), f"{rows} audit rows of {change.event}")
        await self._check_sessions(number)
        is_kill = tracer.is_met or walk.victim != "command"
        step = tracer.steps[-1] if tracer.is_met else ANSWERED
        if is_kill:
            self.report.count(change.name, answer, happened, step)
            self.report.ready_s.setdefault(kind, []).append(ready_s)
            self.report.in_flight.update(outcome.in_flight)
        where = f"{change.name}, {walk.victim} killed {walk.moment} write {number} ({step})"
        problems = [f"{where}: {text}" for text in self._site.problems]
        self._site.problems.clear()
        self.report.problems += problems
        self._log(
            change=change.name,
            victim=walk.victim,
            moment=walk.moment,
            write=number,
            step=step,
            in_flight=outcome.in_flight,
            acknowledged=answer is not None,
            happened=happened,
            ready_s=round(ready_s, 3),
            problems=problems,
        )
        return tracer.is_met

    # ---- one kill -------------------------------------------------------------------------------

    async def _ask(self, walk: Walk, change: Change, number: int) -> _Outcome:
        """Of the server, with sessions that refresh meanwhile."""
        assert self._server is not None
        if walk.victim == "server":
            pids, ports = [self._server.pid], _ports(self._server)
        else:
            pids, ports = await backends_of(self._installation.database_url), []
        tracer = Tracer(pids, partial(step_of, ports=ports), number, walk.moment)
        tracer.start()
        load = Load(self._world, self._server, may_be_unavailable=True)
        running = asyncio.create_task(load.run()) if walk.under_load else None
        try:
            answer = self._acknowledged(change, await change.act(self._site))
        except httpx.TransportError:
            answer = None
        finally:
            tracer.kill()
            load.finish()
        if running is not None:
            await running
        await asyncio.to_thread(tracer.join)
        unanswered = [entry["operation"] for entry in in_flight(self._world)]
        return _Outcome(answer, tracer, [change.name] * (answer is None) + unanswered)

    def _acknowledged(self, change: Change, answer: httpx.Response) -> Acknowledged:
        if answer.status_code == 503:  # the database was killed: whether it happened is not said
            self._site.expect("retry-after" in answer.headers, "503 without Retry-After")
            return None
        text = f"{change.name} was answered {answer.status_code} {answer.text}"
        if not self._site.expect(answer.is_success, text):
            return None
        return dict(answer.json()) if answer.content else {}

    async def _run_command(self, walk: Walk, command: Command, number: int) -> _Outcome:
        """A command by itself, under the load of the server."""
        assert self._server is not None
        load = Load(self._world, self._server)
        running = asyncio.create_task(load.run()) if walk.under_load else None
        tracer, printed = await asyncio.to_thread(self._trace_command, walk, command, number)
        load.finish()
        if running is not None:
            await running
        status = tracer.statuses[tracer.pids[0]]
        answer: Acknowledged = None
        if not tracer.is_met or (status == 0 and printed):
            self._site.expect(status == 0, f"the command ended with status {status}")
            answer = dict(json.loads(printed)) if printed else None
        unanswered = [entry["operation"] for entry in in_flight(self._world)]
        return _Outcome(answer, tracer, [command.name] * (answer is None) + unanswered)

    def _trace_command(self, walk: Walk, command: Command, number: int) -> tuple[Tracer, bytes]:
        log_path = self._installation.directory / "command.log"
        with log_path.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "token_server", *command.arguments(), "--json"],
                cwd=self._installation.directory,
                env=self._installation.environ(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
            )
        assert process.stdin is not None
        assert process.stdout is not None
        tracer = Tracer([process.pid], step_of, number, walk.moment)
        try:
            with process.stdin, process.stdout:
                tracer.start()
                process.stdin.write(command.stdin.encode())
                process.stdin.close()
                printed = process.stdout.read()
                tracer.join()
        finally:
            process.kill()
            process.wait()
        return tracer, printed

    # ---- afterwards -----------------------------------------------------------------------------

    async def _go_on(self, victim: Victim) -> tuple[str, float]:
        """Whatever was killed answers again; what came back, and in how many seconds."""
        started, kind = time.monotonic(), f"after a {victim}"
        if victim == "server":
            assert self._server is not None
            self._server.kill()
            kind = await self._start()
        elif victim == "backend":
            await await_recovery(self._installation.database_url)
            self.report.ready_s.setdefault("PostgreSQL itself", []).append(
                time.monotonic() - started
            )
            started, kind = time.monotonic(), "server after PostgreSQL"
        while not await self._is_ready():
            if time.monotonic() - started > _PATIENCE_S:
                raise TimeoutError("the server does not come back")
            await asyncio.sleep(0.02)
        return kind, time.monotonic() - started

    async def _is_ready(self) -> bool:
        return (await self._site.ask("GET", "/readyz")).status_code == 200

    async def _start(self) -> str:
        """How it was started."""
        self._starts += 1
        self._is_forked = self._forker is not None and self._starts % _START_BY_COMMAND != 0
        if self._forker is None or not self._is_forked:
            kind = "server started"
            self._server = await asyncio.to_thread(
                start_server, self._installation, wrapper=self._wrapper
            )
        else:
            kind = "server forked"
            self._server = await asyncio.to_thread(self._forker.start_server, self._installation)
        await self._site.turn_to(self._server)
        return kind

    async def _check_sessions(self, number: int) -> None:
        assert self._server is not None
        async with open_connections([self._server.address], 1) as [connection]:
            for place, session in enumerate(self._world.sessions):
                spend = (number + place) % _SPENT_CHECK_SHARE == 0
                await check_session(self._world, session, connection, spend=spend)
                session.in_flight = None
                if session.token is None:  # or else the load would begin with logins each time
                    account = session.account
                    reply = await connection.request(login_request(account.email, account.password))
                    session.token = refresh_token_of(reply)
        self._site.problems += self._world.problems
        self._world.problems.clear()

    def _log(self, **entry: Any) -> None:
        with self._log_path.open("a", encoding="utf-8") as log:
            log.write(json.dumps(entry) + "\n")


def _ports(server: ServerProcess) -> list[int]:
    urls = (server.base_url, server.management_url)
    return [int(url.rpartition(":")[2]) for url in urls]
