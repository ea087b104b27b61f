"""Measures the server's cost per request on one core, beside the floor: signature or hash alone.

The server is a `token-server serve` process pinned to one core; the load (and the database server,
where there is one) runs on another. Closed loop: each connection sends its next request when its
answer is there. On a shared machine only the ratios within one run mean anything, so the
floor is measured before and after every scenario. Must not run against anything but 127.0.0.1.
"""

import argparse
import asyncio
import json
import os
import platform
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from tests.support.load import (
    Address,
    Connection,
    Reply,
    get_request,
    open_connections,
    token_request,
)
from tests.support.places import temporary_installation
from tests.support.process import Installation, ServerProcess, start_server
from token_server.logs import configure_logging
from token_server.records import Secret
from token_server.runtime import Runtime
from token_server.services.clients import NewClient, add_client
from token_server.services.users import NewUser, add_user

EMAIL = "bench@example.org"
PASSWORD = "correct horse battery staple"
SERVICE, PUBLIC = "bench-service", "bench-app"
JWKS_PATH = "/.well-known/jwks.json"
WARM_UP_S = 0.5
FLOOR_S = 1.0
PASSWORD_CONNECTIONS = 4  # enough to keep the hash slot busy, far below the queue's bound
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Scenario:
    """`first` is the first request of each connection, `then` makes the next one from an answer;
    `floor` is the work in it that cannot be saved."""

    name: str
    expected: int
    first: Sequence[bytes]
    then: Callable[[Reply], bytes] | None = None
    floor: Literal["signature", "hash"] = "signature"


@dataclass(frozen=True, slots=True)
class Row:
    name: str
    requests: int
    per_s: float
    p50_ms: float
    p99_ms: float
    cpu_ms: float  # of the server process, all its threads
    core_share: float  # what the server got of its core; the rest was idle or others'
    floor: str
    floor_per_s: float  # measured around this scenario, on the same core
    floor_cpu_ms: float

    @property
    def in_floors(self) -> float:
        return self.cpu_ms / self.floor_cpu_ms


@dataclass(frozen=True, slots=True)
class Cost:
    per_s: float
    cpu_ms: float


@dataclass(frozen=True, slots=True)
class Measured:
    latencies: list[float]  # in seconds, sorted
    cpu_s: float


@dataclass(frozen=True, slots=True)
class Bench:
    seconds: float
    connections: int
    server_cpu: int
    only: frozenset[str]


async def run_bench(installation: Installation, bench: Bench) -> list[Row]:
    server = start_server(installation, cpus=[bench.server_cpu])
    try:
        async with installation.runtime() as runtime:
            secret = await _register(runtime)
        rows = []
        for scenario in await _scenarios(server.address, secret, bench):
            before = _floor(scenario.floor, bench.server_cpu)
            measured = await _measure(server, scenario, bench)
            after = _floor(scenario.floor, bench.server_cpu)
            rows.append(_row(scenario, measured, bench.seconds, (before, after)))
    finally:
        status = server.stop()
    if status != 0:
        raise RuntimeError(f"the server ended with status {status}: {server.log_path}")
    return rows


async def _register(runtime: Runtime) -> str:
    audience = ("https://orders.example",)
    service = NewClient(SERVICE, ("client_credentials",), ("orders:read",), audience)
    _, secret = await add_client(runtime, service)
    grants = ("password", "refresh_token")
    await add_client(runtime, NewClient(PUBLIC, grants, ("orders:read",), audience, is_public=True))
    await add_user(runtime, NewUser(EMAIL, "Bench", Secret(PASSWORD)))
    if secret is None:
        raise RuntimeError("a confidential client was given no secret")
    return secret.reveal()


async def _scenarios(address: Address, secret: str, bench: Bench) -> list[Scenario]:
    machine = token_request(
        {"grant_type": "client_credentials", "client_id": SERVICE}, secret=secret
    )
    login = token_request(
        {
            "grant_type": "password",
            "client_id": PUBLIC,
            "username": EMAIL,
            "password": PASSWORD,
        }
    )
    async with open_connections([address], 1) as [connection]:
        key_set = await connection.request(get_request(JWKS_PATH))
        etag = _header(key_set, b"etag")
        names = ("client_credentials", "refresh", "password", "jwks 200", "jwks 304")
        wanted = [name for name in names if not bench.only or name in bench.only]
        refreshes = []
        if "refresh" in wanted:
            refreshes = [
                _next_refresh(await connection.request(login)) for _ in range(bench.connections)
            ]
    scenarios = {
        "client_credentials": Scenario("client_credentials", 200, [machine] * bench.connections),
        "refresh": Scenario("refresh", 200, refreshes, _next_refresh),
        "password": Scenario("password", 200, [login] * PASSWORD_CONNECTIONS, floor="hash"),
        "jwks 200": Scenario("jwks 200", 200, [get_request(JWKS_PATH)] * bench.connections),
        "jwks 304": Scenario(
            "jwks 304", 304, [get_request(JWKS_PATH, {"If-None-Match": etag})] * bench.connections
        ),
    }
    return [scenarios[name] for name in wanted]


async def _measure(server: ServerProcess, scenario: Scenario, bench: Bench) -> Measured:
    latencies: list[float] = []
    statuses: Counter[int] = Counter()
    begin = time.perf_counter() + WARM_UP_S
    end = begin + bench.seconds

    async def drive(connection: Connection, request: bytes) -> None:
        while (sent := time.perf_counter()) < end:
            reply = await connection.send(request)
            if sent >= begin:
                latencies.append(time.perf_counter() - sent)
                statuses[reply.status] += 1
            if scenario.then is not None:
                request = scenario.then(reply)

    async with open_connections([server.address], len(scenario.first)) as connections:
        running = [
            asyncio.create_task(drive(connection, request))
            for connection, request in zip(connections, scenario.first, strict=True)
        ]
        await asyncio.sleep(begin - time.perf_counter())
        cpu_started = _cpu_s(server.pid)
        await asyncio.gather(*running)
        cpu_s = _cpu_s(server.pid) - cpu_started
    if set(statuses) != {scenario.expected}:
        raise RuntimeError(f"{scenario.name}: answers {dict(statuses)}")
    return Measured(sorted(latencies), cpu_s)


def _row(scenario: Scenario, measured: Measured, seconds: float, floors: Sequence[Cost]) -> Row:
    latencies = measured.latencies
    count = len(latencies)
    return Row(
        name=scenario.name,
        requests=count,
        per_s=count / seconds,
        p50_ms=1000 * latencies[count // 2],
        p99_ms=1000 * latencies[int(count * 0.99)],
        cpu_ms=1000 * measured.cpu_s / count,
        core_share=measured.cpu_s / seconds,
        floor=scenario.floor,
        floor_per_s=sum(floor.per_s for floor in floors) / len(floors),
        floor_cpu_ms=sum(floor.cpu_ms for floor in floors) / len(floors),
    )


def _next_refresh(reply: Reply) -> bytes:
    if reply.status != 200:
        raise RuntimeError(f"a refresh or login was answered {reply.status} {reply.body!r}")
    start = reply.body.index(b'"refresh_token":"') + len(b'"refresh_token":"')
    token = reply.body[start : reply.body.index(b'"', start)].decode("ascii")
    return token_request(
        {"grant_type": "refresh_token", "client_id": PUBLIC, "refresh_token": token}
    )


def _header(reply: Reply, name: bytes) -> str:
    lines = reply.head.split(b"\r\n")
    return next(
        line.partition(b":")[2].strip().decode("ascii")
        for line in lines
        if line.lower().startswith(name + b":")
    )


def _cpu_s(pid: int) -> float:
    """User and system time of a process, its threads included (proc(5))."""
    fields = Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


def _floor(name: str, cpu: int) -> Cost:
    command = ["taskset", "-c", str(cpu), sys.executable, "scripts/_floor.py", name, str(FLOOR_S)]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return Cost(**json.loads(printed))


def _table(rows: Sequence[Row]) -> str:
    columns: dict[str, Callable[[Row], str]] = {
        "requests/s": lambda row: f"{row.per_s:.0f}",
        "p50 ms": lambda row: f"{row.p50_ms:.2f}",
        "p99 ms": lambda row: f"{row.p99_ms:.2f}",
        "core": lambda row: f"{row.core_share:.0%}",
        "CPU-ms": lambda row: f"{row.cpu_ms:.3f}",
        "floor": lambda row: row.floor,
        "floor/s": lambda row: f"{row.floor_per_s:.0f}",
        "floor CPU-ms": lambda row: f"{row.floor_cpu_ms:.3f}",
        "in floors": lambda row: f"{row.in_floors:.2f}",
    }
    lines = [" " * 20 + "".join(f"{name:>13}" for name in columns)]
    lines += [
        f"{row.name:<20}" + "".join(f"{show(row):>13}" for show in columns.values()) for row in rows
    ]
    return "\n".join(lines)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/bench",
        description="Measure requests/s and CPU-ms per request of one server process on one core.",
    )
    parser.add_argument("--seconds", type=float, default=5.0, help="for each scenario")
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--postgres", action="store_true", help="measure on PostgreSQL as well")
    parser.add_argument("--only", action="append", default=[], metavar="SCENARIO")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    return parser.parse_args()


def main() -> int:
    options = _options()
    configure_logging("console", "warning")
    cpus = sorted(os.sched_getaffinity(0))
    server_cpu, load_cpu = cpus[0], cpus[-1]
    os.sched_setaffinity(0, {load_cpu})  # the database server inherits it
    if server_cpu == load_cpu:
        print("One core for server and load: requests/s and latencies say nothing here.")
    bench = Bench(options.seconds, options.connections, server_cpu, frozenset(options.only))
    figures: dict[str, Any] = {
        "cores": len(cpus),
        "python": platform.python_version(),
        "seconds": bench.seconds,
        "connections": bench.connections,
    }
    for database in ("sqlite", "postgresql") if options.postgres else ("sqlite",):
        with temporary_installation(database) as installation:
            rows = asyncio.run(run_bench(installation, bench))
        print(f"{database}, one process on one core, {bench.connections} connections")
        print(_table(rows))
        figures[database] = [{**asdict(row), "in_floors": row.in_floors} for row in rows]
    if options.json is not None:
        options.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
