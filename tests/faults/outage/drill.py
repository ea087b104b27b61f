"""Takes the database away from servers under a steady load, gives it back, and judges.

What is asked of every fault: documents are always 200, everything else is 200 or a 503 with
Retry-After after a bounded wait; the process lives and says that it is not ready; the log says
what is wrong without a line for each request; service is whole again soon after the return,
without a restart; and every session goes on with exactly the rotations that it was told of.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from tests.faults.outage.load import DOCUMENTS, Answer, Load
from tests.support.load import Connection, get_request
from tests.support.process import Installation, ServerProcess
from tests.support.refresh_tokens import family_of, generation_of
from token_server.runtime import Runtime
from token_server.storage import families

RECOVERY_S = 3.0
WAIT_LIMIT_S = 10.0
SETTLING_S = 8.0  # a database that hangs is found out in 4 s, on an idle machine
CACHED_S = 6.0  # a client that is known gets machine tokens for 5 s
POLL_S = 0.25
WARNINGS = 40  # that a fault may cost each server, however long it lasts

Step = Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Fault:
    """`strike` and `heal` do it and undo it. `is_total`: nothing that needs the database may be
    answered 200 in the middle of it. `makes_unready` as long as it lasts."""

    name: str
    strike: Step
    heal: Step
    is_total: bool = True
    makes_unready: bool = True


@dataclass(frozen=True, slots=True)
class Plan:
    before_s: float = 2.0
    outage_s: float = 60.0
    after_s: float = 6.0
    sessions: int = 40
    settling_s: float = SETTLING_S


@dataclass(slots=True)
class Report:
    fault: str
    answers: list[Answer]
    struck_at: float
    healed_at: float
    readiness: list[tuple[float, int, int]]  # when, /readyz, /livez
    warnings: Counter[str]
    settling_s: float
    problems: list[str] = field(default_factory=list)

    def during(self) -> Counter[str]:
        """What was answered to requests that began while the fault lasted, by kind and status."""
        return Counter(
            f"{one.kind} {one.status or 'none'}"
            for one in self.answers
            if self.struck_at <= one.began_at < self.healed_at
        )

    @property
    def slowest_s(self) -> float:
        return max(one.took_s for one in self.answers)

    @property
    def recovery_s(self) -> float:
        """From the return to the last request that was answered by anything but 200."""
        failed = [one.began_at for one in self.answers if one.status != 200]
        return max([0.0, *(at - self.healed_at for at in failed)])

    def text(self) -> str:
        unready = [at - self.struck_at for at, ready, _ in self.readiness if ready != 200]
        unready_text = f"{min(unready):.1f} s after" if unready else "never"
        seconds = self.healed_at - self.struck_at
        lines = [
            f"{self.fault}: {len(self.answers):,} requests, {seconds:.0f} s",
            f"  during: {dict(sorted(self.during().items()))}",
            f"  slowest {self.slowest_s:.1f} s, not ready {unready_text} the fault",
            f"  whole again {self.recovery_s:.2f} s after the return",
            f"  warnings in the log: {dict(sorted(self.warnings.items()))}",
        ]
        return "\n".join([*lines, *(f"  PROBLEM: {problem}" for problem in self.problems)])


async def run_fault(
    fault: Fault,
    servers: Sequence[ServerProcess],
    load: Load,
    installation: Installation,
    plan: Plan,
) -> Report:
    """One fault from the quiet before to the judgement after it."""
    already = [len(server.log_records()) for server in servers]
    load.answers.clear()
    load.start()
    seen: list[tuple[float, int, int]] = []
    watcher = asyncio.create_task(_watch(servers[0], seen))
    await asyncio.sleep(plan.before_s)
    struck_at = time.monotonic()
    await fault.strike()
    await asyncio.sleep(plan.outage_s)
    await fault.heal()
    healed_at = time.monotonic()
    await asyncio.sleep(plan.after_s)
    await load.stop()
    watcher.cancel()
    events: Counter[str] = Counter(
        str(record["event"])
        for server, count in zip(servers, already, strict=True)
        for record in server.log_records()[count:]
        if record["level"] in ("warning", "error")
    )
    report = Report(
        fault.name, list(load.answers), struck_at, healed_at, seen, events, plan.settling_s
    )
    report.problems += _problems(report, fault, len(servers))
    report.problems += await load.refresh_all()
    async with installation.runtime() as runtime:
        report.problems += await _doubled(runtime, load)
    return report


def _problems(report: Report, fault: Fault, servers: int) -> list[str]:
    answers = report.answers
    found = [
        f"{one.kind}: {one.status} {one.text}"
        for one in answers
        if one.status not in ((200,) if one.kind in DOCUMENTS else (200, 503))
    ][:5]
    found += [
        f"a 503 without Retry-After: {one.kind} {one.text}"
        for one in answers
        if one.status == 503 and not one.has_retry_after
    ][:5]
    if report.slowest_s > WAIT_LIMIT_S:
        found.append(f"an answer took {report.slowest_s:.1f} s")
    if report.recovery_s > RECOVERY_S:
        found.append(f"still failing {report.recovery_s:.1f} s after the return")
    middle = [
        one
        for one in answers
        if one.kind not in DOCUMENTS
        and report.struck_at + report.settling_s <= one.began_at < report.healed_at
    ]
    if fault.is_total:
        wrong = Counter(
            f"{one.kind} {one.status}"
            for one in middle
            if one.status != 503
            and not (one.kind == "machine token" and one.began_at < report.struck_at + CACHED_S)
        )
        if wrong:
            found.append(f"in the middle: {dict(wrong)}")
    lines = sum(report.warnings.values())
    if lines > WARNINGS * servers:
        found.append(f"{lines} warnings in the log: {dict(report.warnings)}")
    return found + _readiness_problems(report, fault)


def _readiness_problems(report: Report, fault: Fault) -> list[str]:
    found = []
    if any(live != 200 for _, _, live in report.readiness):
        found.append("liveness failed")
    inside = [
        ready
        for at, ready, _ in report.readiness
        if report.struck_at + report.settling_s <= at < report.healed_at
    ]
    if fault.makes_unready and any(ready == 200 for ready in inside):
        found.append("ready while the database was away")
    after = [
        ready for at, ready, _ in report.readiness if at >= report.healed_at + RECOVERY_S + POLL_S
    ]
    if any(ready != 200 for ready in after):
        found.append("not ready after the return")
    return found


async def _watch(server: ServerProcess, seen: list[tuple[float, int, int]]) -> None:
    host, _, port = server.management_url.removeprefix("http://").rpartition(":")
    connection = await Connection.open((host, int(port)))
    try:
        while True:
            began = time.monotonic()
            ready = await connection.request(get_request("/readyz?verbose"))
            live = await connection.request(get_request("/livez"))
            seen.append((began, ready.status, live.status))
            await asyncio.sleep(POLL_S)
    finally:
        connection.close()


async def _doubled(runtime: Runtime, load: Load) -> list[str]:
    """Each family's stored generation is the number of successors that its client was given: no
    rotation was lost, none was made twice, and there is one usable token."""
    found = []
    for session in load.sessions:
        held = generation_of(session.refresh_token)
        async with runtime.store.read() as connection:
            family = await families.find_family(connection, family_of(session.refresh_token))
        assert family is not None
        if family.revoked_at is not None:
            found.append(f"a session was revoked: {family.revoked_reason}")
        elif not family.generation == session.rotations == held:
            found.append(
                f"{session.rotations} successors were given, generation {family.generation} is "
                f"stored, the client holds {held}"
            )
    return found
