"""`scripts/bench soak`: a million mixed requests to one server: memory, its slope, every error.

Meanwhile signing keys are rotated every minute and `db prune` runs again and again beside it, on
sessions that were laid in as long expired. The slope is a straight line through the memory
of the whole server after the first third of the requests: what grows once at the start is no leak.
Of each stretch of requests the lower quartile counts: a password hash that happens to be under way
at a look has 19 MiB, and gives them back.
"""

import argparse
import asyncio
import contextlib
import json
import os
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvloop

from scripts import _bench_proc as proc
from scripts._bench_load import Connection, Tally
from scripts._bench_loop import loop_text, loop_watch
from scripts._bench_targets import (
    PLANS,
    Cores,
    Target,
    durable_postgres,
    new_installation,
    running_target,
)
from scripts._bench_visitor import MIX, Visitor
from scripts._bench_world import World
from tests.support.load import get_request, open_connections
from token_server.logs import configure_logging
from token_server.services.metadata import JWKS_PATH

SETTINGS = {
    "KEY_ROTATE_EVERY": "60s",
    "KEY_LEAD": "20s",
    "JWKS_MAX_AGE": "2s",
    "KEY_RELOAD_INTERVAL": "1s",
    "ACCESS_TOKEN_TTL": "60s",
}
PRUNE_EVERY_S = 15.0
BURIED = 2000  # before each prune
SAMPLE_S = 1.0
MOST_FAILURES = 1000
_STRETCHES = 20
_ROOM = 1.2  # of sessions to revoke: the mixture is drawn by lot


@dataclass(slots=True)
class Record:
    """What was seen in the course of the run."""

    memory: list[tuple[int, float]] = field(default_factory=list)  # answers so far, MiB
    kids: set[str] = field(default_factory=set)
    pruned: list[int] = field(default_factory=list)  # sessions, each time


async def _run(target: Target, options: argparse.Namespace) -> dict[str, Any]:
    world = target.world
    if world is None:
        raise RuntimeError("the bare handler keeps nothing that could be soaked")
    await world.register(sessions=options.connections)
    await world.stock_up(int(_ROOM * options.requests * MIX["revoke"] / sum(MIX.values())) + 64)
    await world.look(target.address)
    tally, record, counts = Tally(), Record(), Counter[str]()
    begun, begun_at = time.perf_counter(), time.time()
    async with _attended(target, world, tally, record, options.requests):
        await asyncio.gather(
            *(
                _visit(target, Visitor(world, number, counts), tally, options.requests)
                for number in range(options.connections)
            )
        )
    seconds = time.perf_counter() - begun
    record.memory.append((tally.answers, proc.rss_mib(target.pids())))
    return {
        "target": target.plan.name,
        "requests": tally.answers,
        "seconds": seconds,
        "per_s": tally.answers / seconds,
        "counts": dict(counts),
        "failures": dict(tally.failures),
        "rss_mib": record.memory[-1][1],
        "most_rss_mib": max(mib for _, mib in record.memory),
        "slope_mib_per_million": slope(record.memory) * 1e6,
        "keys_seen": len(record.kids),
        "pruned": record.pruned,
        "load_average": os.getloadavg(),
        "span": (begun_at, begun_at + seconds),
        "memory": record.memory,
    }


async def _visit(target: Target, visitor: Visitor, tally: Tally, requests: int) -> None:
    """Until all have asked enough; a failure ends the connection, and a new one goes on."""
    loop = asyncio.get_running_loop()
    while not tally.is_over and tally.failures.total() < MOST_FAILURES:
        _, connection = await loop.create_connection(
            lambda: Connection(visitor, tally), *target.address
        )
        connection.begin()
        while not connection.ended.done() and not tally.is_over:
            await asyncio.wait([connection.ended], timeout=0.05)
            tally.is_over = tally.answers >= requests
        await asyncio.wait([connection.ended], timeout=60)
        connection.close()
        if not visitor.can_go_on:
            return  # a refresh failed: this session cannot go on


@contextlib.asynccontextmanager
async def _attended(
    target: Target, world: World, tally: Tally, record: Record, requests: int
) -> AsyncIterator[None]:
    """With memory and keys looked at every second, and the database pruned."""
    tasks = [
        asyncio.create_task(_look(target, tally, record, requests)),
        asyncio.create_task(_prune(world, record, min(BURIED, requests))),
    ]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
    for problem in ended:
        if isinstance(problem, Exception):
            raise problem


async def _look(target: Target, tally: Tally, record: Record, requests: int) -> None:
    begun = time.perf_counter()
    async with open_connections([target.address], 1) as [connection]:
        while True:
            record.memory.append((tally.answers, proc.rss_mib(target.pids())))
            key_set = (await connection.request(get_request(JWKS_PATH))).json()
            record.kids |= {key["kid"] for key in key_set["keys"]}
            if sys.stderr.isatty():
                rate = tally.answers / (time.perf_counter() - begun)
                text = (
                    f"{tally.answers:,}/{requests:,} requests, {rate:,.0f}/s,"
                    f" {record.memory[-1][1]:.1f} MiB, {len(record.kids)} keys,"
                    f" {sum(record.pruned):,} pruned, {tally.failures.total()} failed"
                )
                print(f"\r{text:<78}", end="", file=sys.stderr, flush=True)
            await asyncio.sleep(SAMPLE_S)


async def _prune(world: World, record: Record, buried: int) -> None:
    while True:
        await world.bury(buried)
        command = ("db", "prune", "--audit-older-than", "1m")
        done = await asyncio.to_thread(world.installation.run_cli, *command)
        record.pruned.append(int(done["sessions"]))
        await asyncio.sleep(PRUNE_EVERY_S)


def slope(memory: Sequence[tuple[int, float]]) -> float:
    """MiB per request, by least squares over the last two thirds of the requests."""
    points = _between_hashes(memory)
    mean_x = sum(count for count, _ in points) / len(points)
    mean_y = sum(mib for _, mib in points) / len(points)
    spread = sum((count - mean_x) ** 2 for count, _ in points)
    if not spread:
        return 0.0
    return sum((count - mean_x) * (mib - mean_y) for count, mib in points) / spread


def _between_hashes(memory: Sequence[tuple[int, float]]) -> list[tuple[float, float]]:
    """The middle and the lower quartile of each stretch of the last two thirds."""
    last = memory[-1][0]
    points = sorted((count, mib) for count, mib in memory if count >= last / 3)
    size = max(1, len(points) // _STRETCHES)
    found = []
    for begin in range(0, len(points), size):
        stretch = points[begin : begin + size]
        mean = sum(count for count, _ in stretch) / len(stretch)
        found.append((mean, sorted(mib for _, mib in stretch)[len(stretch) // 4]))
    return found


def _text(figures: dict[str, Any]) -> str:
    failures = [f"FAILED {count:,} times: {text}" for text, count in figures["failures"].items()]
    seconds, load = figures["seconds"], figures["load_average"][0]
    lines = [
        f"{figures['requests']:,} requests to {figures['target']} in {seconds:.0f} s",
        f"{figures['per_s']:,.0f} requests/s; load average {load:.1f}",
        f"{figures['rss_mib']:.1f} MiB at the end, {figures['most_rss_mib']:.1f} at most",
        f"{figures['slope_mib_per_million']:+.2f} MiB per million requests",
        f"{figures['keys_seen']} signing keys",
        f"{len(figures['pruned'])} prunes of {sum(figures['pruned']):,} sessions",
        ", ".join(f"{count:,} {name}" for name, count in figures["counts"].items()),
        *(failures or ["no failure"]),
        *(loop_text(figures["loop"], *figures["span"]) if "loop" in figures else ()),
    ]
    return "\n".join(f"- {line}" for line in lines)


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench soak", description=__doc__)
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--target", choices=("sqlite", "postgresql"), default="sqlite")
    parser.add_argument("--json", type=Path, metavar="FILE", help="figures and memory over time")
    parser.add_argument(
        "--watch-loop", action="store_true", help="say how late the event loop was, and where"
    )
    options = parser.parse_args()
    configure_logging("console", "warning")
    cores = Cores.of_this_machine()
    os.sched_setaffinity(0, cores.load)
    plan = PLANS[options.target]
    with contextlib.ExitStack() as stack:
        databases = None
        if plan.kind == "postgresql":
            databases = stack.enter_context(durable_postgres())
        installation = stack.enter_context(new_installation(plan.kind, databases, **SETTINGS))
        watch = loop_watch(installation.directory) if options.watch_loop else None
        wrapper = () if watch is None else watch.wrapper
        with running_target(plan, installation, cores, wrapper) as target:
            figures = uvloop.run(_run(target, options))
        if watch is not None:
            figures["loop"] = watch.read()
    print(("\n" if sys.stderr.isatty() else "") + _text(figures))
    if options.json is not None:
        options.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    return 1 if figures["failures"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
