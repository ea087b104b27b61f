"""`token-server db prune` while a server answers: what the others feel, and how fast it goes.

Requests come at a fixed pace, refreshes and client_credentials in turn, and their time counts
from the instant at which they were due, so that a stall is felt by all that it kept waiting. The
prune is the operator's command, a process of its own.
"""

import asyncio
import contextlib
import sqlite3
import time
from collections.abc import Awaitable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from tests.growth.loading import postgres, sqlite_path
from tests.growth.places import Place
from tests.growth.serving import Grown, machine_request, refresh_once
from tests.support.load import Connection, open_connections

T = TypeVar("T")
CONNECTIONS = 64
PRUNE_TIMEOUT_S = 4 * 3600
_COUNT = "SELECT count(*) FROM families"


@dataclass(frozen=True, slots=True)
class Felt:
    """Of one kind of request in one phase."""

    requests: int
    refused: int  # 503: counted with their waiting time
    p50_ms: float
    p99_ms: float
    longest_ms: float


@dataclass(frozen=True, slots=True)
class Purge:
    """What the command deleted and how long it took (its process included), and what was felt in
    the phases `before`, `during` and `after` it, by kind of request."""

    rows: int
    seconds: float
    felt: dict[str, dict[str, Felt]]
    expired_left: int
    others_lost: int  # rows that were not expired and are gone: must be 0

    @property
    def rows_per_s(self) -> float:
        return self.rows / self.seconds


async def purge(grown: Grown, *, per_s: float, quiet_s: float) -> Purge:
    """Prune the database of a running server under `per_s` requests a second; before and after
    it, `quiet_s` seconds of the same load alone."""
    expired_before, others_before = await _counts(grown.place)
    load = _PacedLoad(grown, per_s)
    async with open_connections([grown.server.address], CONNECTIONS) as connections:
        running = asyncio.create_task(load.run(connections))
        try:
            await asyncio.sleep(1.0)  # connections and caches
            await load.phase("before", asyncio.sleep(quiet_s))
            begun = time.perf_counter()
            run_cli = partial(grown.place.installation.run_cli, timeout_s=PRUNE_TIMEOUT_S)
            pruned = await load.phase("during", asyncio.to_thread(run_cli, "db", "prune"))
            seconds = time.perf_counter() - begun
            await load.phase("after", asyncio.sleep(quiet_s))
        finally:
            load.is_over = True
            await running
    expired, others = await _counts(grown.place)
    if pruned["sessions"] != expired_before - expired:
        raise RuntimeError(f"{pruned} of {expired_before} expired sessions, {expired} are left")
    return Purge(pruned["sessions"], seconds, load.felt(), expired, others_before - others)


@dataclass(frozen=True, slots=True)
class _Answer:
    waited_s: float
    is_refused: bool


class _PacedLoad:
    """Open loop: what is due is sent, on any connection that is free."""

    def __init__(self, grown: Grown, per_s: float) -> None:
        self._grown = grown
        self._interval_s = 1 / per_s
        self._machine = machine_request(grown.place)
        self._phase = ""
        self._waited: dict[str, dict[str, list[_Answer]]] = {}
        self.is_over = False

    async def phase(self, name: str, work: Awaitable[T]) -> T:
        """Requests that become due until the work is done belong to this phase."""
        self._phase = name
        try:
            return await work
        finally:
            self._phase = ""

    async def run(self, connections: list[Connection]) -> None:
        free: asyncio.Queue[Connection] = asyncio.Queue()
        for connection in connections:
            free.put_nowait(connection)
        started, number = time.perf_counter(), 0
        async with asyncio.TaskGroup() as tasks:
            while not self.is_over:
                due = started + number * self._interval_s
                await asyncio.sleep(due - time.perf_counter())
                kind = ("refresh", "client_credentials")[number % 2]
                number += 1
                tasks.create_task(self._send(kind, self._phase, due, free))

    def felt(self) -> dict[str, dict[str, Felt]]:
        return {
            phase: {kind: _felt(waited) for kind, waited in kinds.items()}
            for phase, kinds in self._waited.items()
        }

    async def _send(
        self, kind: str, phase: str, due: float, free: asyncio.Queue[Connection]
    ) -> None:
        connection = await free.get()
        if kind == "refresh":
            reply = await refresh_once(self._grown, connection)
        else:
            reply = await connection.send(self._machine)
        free.put_nowait(connection)
        if reply.status not in {200, 503}:
            raise RuntimeError(f"answered {reply.status} {reply.body!r}")
        if phase:
            waited = self._waited.setdefault(phase, {}).setdefault(kind, [])
            waited.append(_Answer(time.perf_counter() - due, is_refused=reply.status == 503))


def _felt(answers: list[_Answer]) -> Felt:
    ordered = sorted(answer.waited_s for answer in answers)
    count = len(ordered)
    return Felt(
        requests=count,
        refused=sum(answer.is_refused for answer in answers),
        p50_ms=1000 * ordered[count // 2],
        p99_ms=1000 * ordered[int(count * 0.99)],
        longest_ms=1000 * ordered[-1],
    )


async def _counts(place: Place) -> tuple[int, int]:
    """Expired sessions that may be pruned, and all others that were loaded."""
    shape = place.shape
    expired = f"{_COUNT} WHERE seq <= {shape.expired}"
    others = f"{_COUNT} WHERE seq > {shape.expired} AND seq <= {shape.families}"
    path = sqlite_path(place.installation.database_url)
    if path is not None:
        with contextlib.closing(sqlite3.connect(path)) as file:
            return file.execute(expired).fetchone()[0], file.execute(others).fetchone()[0]
    async with postgres(place.installation.database_url) as connection:
        return await connection.fetchval(expired), await connection.fetchval(others)
