"""Many clients that are slow on purpose, and what everybody else notices (M219, M220).

Four kinds at once, from many loopback addresses: silent from the start, a head or a body that
comes a byte a second, and answers that nobody reads. When they are gone is read from the server's
open descriptors. The others are timed from when each request was due: a stall is not excused.
"""

import asyncio
import contextlib
import os
import resource
import sys
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field

from tests.support.load import Address, Connection, get_request, token_request
from tests.support.process import ROOT, ServerProcess
from token_server.services.metadata import JWKS_PATH
from token_server.web.traffic import Limits

LIMITS = Limits()
# The longest deadline, and two seconds.
ALLOWED_S = max(LIMITS.head_s, LIMITS.body_s, LIMITS.write_s) + 2
_PATIENCE_S = 120.0


@dataclass(frozen=True, slots=True)
class Plan:
    """`each` sockets of each kind; requests per second of the others; seconds of the quiet time
    before."""

    each: int
    per_s: float = 100.0
    quiet_s: float = 10.0


@dataclass(slots=True)
class Report:
    """Seconds from the last slow client's first byte until the server has closed them all; `quiet`
    and `crowded` are seconds of the others' answers before and meanwhile."""

    opened: int = 0
    gone_s: float = 0.0
    quiet: list[float] = field(default_factory=list)
    crowded: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def text(self) -> str:
        times = quantile(self.crowded, 0.99) / quantile(self.quiet, 0.99)
        return (
            f"{self.opened} slow sockets, all closed {self.gone_s:.1f} s after the last one began"
            f" (allowed {ALLOWED_S:.0f} s)\n"
            f"the others before: {_quantiles(self.quiet)}\n"
            f"the others meanwhile: {_quantiles(self.crowded)}\n"
            f"p99 meanwhile / before: {times:.2f}\n"
            f"failed requests of the others: {len(self.failures)}"
        )


async def run_drill(server: ServerProcess, secret: str, client_id: str, plan: Plan) -> Report:
    """`client_id` may use client_credentials with `secret`."""
    report = Report()
    requests = [
        get_request(JWKS_PATH),
        token_request({"grant_type": "client_credentials", "client_id": client_id}, secret=secret),
    ]
    others = _Others(server.address, requests, plan.per_s, report)
    await others.run(report.quiet, until=time.monotonic() + plan.quiet_s)
    before = _descriptors(server.pid) - others.opened
    stop = asyncio.Event()
    meanwhile = asyncio.create_task(others.run(report.crowded, stop=stop))
    async with _crowd(server.address, plan.each) as opened:
        report.opened = opened
        begun = time.monotonic()
        while time.monotonic() - begun < _PATIENCE_S:
            if _descriptors(server.pid) <= before + others.opened:
                break
            await asyncio.sleep(0.25)
        report.gone_s = time.monotonic() - begun
    stop.set()
    await meanwhile
    return report


@contextlib.asynccontextmanager
async def _crowd(address: Address, each: int) -> AsyncIterator[int]:
    """How many slow clients there are, once all of them are connected."""
    host, port = address
    crowd = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.faults.slow_crowd", host, str(port), str(each)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        cwd=ROOT,
    )
    assert crowd.stdin is not None
    assert crowd.stdout is not None
    try:
        word, _, count = (await crowd.stdout.readline()).decode().partition(" ")
        assert word == "open", "the slow clients could not connect"
        yield int(count)
    finally:
        crowd.stdin.close()
        await crowd.wait()


@dataclass(slots=True)
class _Others:
    """A fixed pace over kept connections, one for each request that may be under way."""

    address: Address
    requests: list[bytes]
    per_s: float
    report: Report
    opened: int = 0
    idle: list[Connection] = field(default_factory=list)

    async def run(
        self, latencies: list[float], until: float = float("inf"), stop: asyncio.Event | None = None
    ) -> None:
        running = set()
        due = time.monotonic()
        count = 0
        while due < until and not (stop is not None and stop.is_set()):
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            task = asyncio.create_task(self._ask(count, due, latencies))
            running.add(task)
            task.add_done_callback(running.discard)
            due += 1 / self.per_s
            count += 1
        await asyncio.gather(*running)

    async def _ask(self, count: int, due: float, latencies: list[float]) -> None:
        try:
            connection = self.idle.pop() if self.idle else await self._open()
            reply = await connection.request(self.requests[count % len(self.requests)])
        except (OSError, TimeoutError) as error:
            self.report.failures.append(repr(error))
            return
        latencies.append(time.monotonic() - due)
        self.idle.append(connection)
        if reply.status != 200:
            self.report.failures.append(str(reply.status))

    async def _open(self) -> Connection:
        connection = await Connection.open(self.address)
        self.opened += 1
        return connection


def _descriptors(pid: int) -> int:
    """How many the process has open. Their names would say more, and cost whoever is timed here."""
    return len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208 - thousands, some times a second


def quantile(seconds: list[float], share: float) -> float:
    return sorted(seconds)[min(len(seconds) - 1, int(len(seconds) * share))]


def _quantiles(seconds: list[float]) -> str:
    p50, p99 = quantile(seconds, 0.5), quantile(seconds, 0.99)
    return f"{len(seconds)} answers, p50 {1000 * p50:.1f} ms, p99 {1000 * p99:.1f} ms"


@contextlib.contextmanager
def many_descriptors() -> Iterator[None]:
    """As many as this process may have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
