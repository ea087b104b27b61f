"""The servers that are measured, each on its cores, and the floor beside them.

Server and load never share a core unless the machine has just one, or unless the target is to
have two and the machine no third. Nothing is stored without fsync: PostgreSQL runs as it comes.
"""

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import asyncpg

from scripts import _bench_proc as proc
from scripts._bench_load import Address
from scripts._bench_world import World
from tests.support.databases import PostgresDatabases, postgres_server
from tests.support.process import ROOT, Installation, ServerProcess, start_server

Kind = Literal["sqlite", "postgresql", "bare"]


@dataclass(frozen=True, slots=True)
class Cores:
    """Which core does what. The load's process, and what it starts, is on `load`."""

    one: tuple[int, ...]
    two: tuple[int, ...]
    load: tuple[int, ...]

    @classmethod
    def of_this_machine(cls) -> "Cores":
        cpus = sorted(os.sched_getaffinity(0))
        return cls((cpus[0],), tuple(cpus[:2]), tuple(cpus[2:] or cpus[-1:]))

    @property
    def is_shared(self) -> bool:
        """Whether a server on two cores has one of them in common with the load."""
        return bool(set(self.two) & set(self.load))


@dataclass(frozen=True, slots=True)
class Plan:
    """A server to measure."""

    name: str
    kind: Kind
    workers: int = 1
    is_wide: bool = False  # on two cores


PLANS = {
    plan.name: plan
    for plan in (
        Plan("sqlite", "sqlite"),
        Plan("sqlite-two-cores", "sqlite", is_wide=True),
        Plan("postgresql", "postgresql"),
        Plan("postgresql-two-processes", "postgresql", workers=2, is_wide=True),
        Plan("bare", "bare"),
    )
}


@dataclass(slots=True)
class Target:
    """One server that runs. `world` is None for the bare handler."""

    plan: Plan
    address: Address
    pid: int
    world: World | None
    server: ServerProcess | None = None
    database_pid: int | None = None
    first_start_s: float = 0.0

    def pids(self) -> list[int]:
        return proc.tree_of(self.pid)

    def database_pids(self) -> list[int]:
        return [] if self.database_pid is None else proc.tree_of(self.database_pid)


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one unit of unavoidable work."""

    per_s: float
    cpu_ms: float


class FloorMeter:
    """Measures signature or hash alone, on the server's core while the servers are idle."""

    def __init__(self, process: "subprocess.Popen[str]", seconds: float) -> None:
        self._process = process
        self._seconds = seconds

    def measure(self, name: str) -> Cost:
        """Blocks for the seconds that were agreed on."""
        if self._process.stdin is None or self._process.stdout is None:
            raise RuntimeError("the floor's process has no pipes")
        self._process.stdin.write(f"{name} {self._seconds}\n")
        self._process.stdin.flush()
        return Cost(**json.loads(self._process.stdout.readline()))


@contextlib.contextmanager
def floor_meter(cores: Cores, seconds: float) -> Iterator[FloorMeter]:
    command = [*pinned(cores.one), sys.executable, "scripts/_floor.py"]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    try:
        yield FloorMeter(process, seconds)
    finally:
        if process.stdin is not None:
            process.stdin.close()
        process.wait(10)
        if process.stdout is not None:
            process.stdout.close()


def pinned(cpus: tuple[int, ...]) -> list[str]:
    """The beginning of a command that runs on these cores alone."""
    return ["taskset", "-c", ",".join(map(str, cpus))]


@contextlib.contextmanager
def running_targets(plans: list[Plan], cores: Cores) -> Iterator[list[Target]]:
    """All of them at once, each with a database of its own; idle ones cost next to nothing."""
    with contextlib.ExitStack() as stack:
        databases = None
        if any(plan.kind == "postgresql" for plan in plans):
            databases = stack.enter_context(durable_postgres())
        targets = []
        for plan in plans:
            if plan.kind == "bare":
                targets.append(stack.enter_context(_bare_target(plan, cores)))
                continue
            installation = stack.enter_context(new_installation(plan.kind, databases))
            targets.append(stack.enter_context(running_target(plan, installation, cores)))
        yield targets


@contextlib.contextmanager
def durable_postgres() -> Iterator[PostgresDatabases]:
    """pip's PostgreSQL with its own defaults: the tests' server runs without fsync, this must not.
    A server that TEST_DATABASE_URL names is left as it is."""
    with postgres_server() as admin_url:
        if not os.environ.get("TEST_DATABASE_URL"):
            asyncio.run(_reset_settings(admin_url))
        databases = PostgresDatabases(admin_url)
        try:
            yield databases
        finally:
            databases.close()


async def _reset_settings(admin_url: str) -> None:
    connection = await asyncpg.connect(admin_url)
    try:
        await connection.execute("ALTER SYSTEM RESET ALL")
        await connection.execute("SELECT pg_reload_conf()")
        deadline = time.monotonic() + 10
        while await connection.fetchval("SHOW fsync") != "on":
            if time.monotonic() > deadline:
                raise RuntimeError("PostgreSQL does not turn fsync on")
            await asyncio.sleep(0.05)
    finally:
        await connection.close()


@contextlib.contextmanager
def new_installation(
    kind: Kind, databases: PostgresDatabases | None, **overrides: str
) -> Iterator[Installation]:
    """An empty database and a directory for keys and logs; both are removed."""
    with contextlib.ExitStack() as stack:
        name = stack.enter_context(tempfile.TemporaryDirectory(prefix="token-server-bench-"))
        if kind == "postgresql":
            if databases is None:
                raise ValueError("PostgreSQL was not started")
            url = stack.enter_context(databases.create(empty=True))
        else:
            url = f"sqlite:///{name}/token-server.db"
        yield Installation(Path(name), url, overrides)


@contextlib.contextmanager
def running_target(
    plan: Plan, installation: Installation, cores: Cores, wrapper: Sequence[str] = ()
) -> Iterator[Target]:
    """`wrapper` as in tests/support/process.py."""
    cpus = cores.two if plan.is_wide else cores.one
    begun = time.perf_counter()
    overrides = {"WORKERS": str(plan.workers)}
    server = start_server(installation, cpus=cpus, overrides=overrides, wrapper=wrapper)
    took_s = time.perf_counter() - begun
    try:
        database_pid = None
        if plan.kind == "postgresql":
            database_pid = asyncio.run(_postmaster(installation.database_url))
        world = World(installation)
        yield Target(plan, server.address, server.pid, world, server, database_pid, took_s)
    finally:
        status = server.stop()
    if status != 0:
        raise RuntimeError(f"{plan.name} ended with status {status}: {server.log_path}")


async def _postmaster(url: str) -> int | None:
    """The main process of PostgreSQL; None when it is not on this machine."""
    connection = await asyncpg.connect(url)
    try:
        parent = proc.parent_of(int(await connection.fetchval("SELECT pg_backend_pid()")))
        return parent if proc.command_of(parent).startswith("postgres") else None
    except FileNotFoundError:
        return None
    finally:
        await connection.close()


@contextlib.contextmanager
def _bare_target(plan: Plan, cores: Cores) -> Iterator[Target]:
    command = [*pinned(cores.one), sys.executable, "scripts/_bench_bare.py"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        if process.stdout is None:
            raise RuntimeError("the bare handler has no output")
        port = int(process.stdout.readline())
        yield Target(plan, ("127.0.0.1", port), process.pid, None)
    finally:
        process.terminate()
        process.wait(10)
        if process.stdout is not None:
            process.stdout.close()
