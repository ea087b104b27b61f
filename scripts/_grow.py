"""Loads databases of several sizes and measures what their size costs: see tests/growth/.

For each engine: load what is missing, start a server on each size, measure refreshes and logins in
rounds over all of them, then prune the expired sessions of each size under load. Ratios are to the
smallest size, within one round. Must not run against anything but 127.0.0.1.
"""

import argparse
import asyncio
import contextlib
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import click

from tests.growth import places
from tests.growth.loading import sizes as table_sizes
from tests.growth.places import Engine, Place
from tests.growth.purging import Purge, purge
from tests.growth.serving import Cost, Grown, Start, rounds, sample, start
from tests.support.process import Installation, ServerProcess
from token_server.logs import configure_logging

SAMPLE = 20_000
ENGINES: dict[str, tuple[Engine, ...]] = {
    "sqlite": ("sqlite",),
    "postgresql": ("postgresql",),
    "both": ("sqlite", "postgresql"),
}


def main() -> int:
    options = _options()
    configure_logging("console", "warning")
    cpus = sorted(os.sched_getaffinity(0))
    options.server_cpu = cpus[0]
    os.sched_setaffinity(0, {cpus[-1]})  # the database server and `db prune` inherit it
    if len(cpus) == 1:
        print("One core for server and load: times of answers say nothing here.")
    with contextlib.ExitStack() as stack:
        if options.keep is None:
            name = stack.enter_context(tempfile.TemporaryDirectory(prefix="token-server-"))
            directory = Path(name)
        else:
            directory = options.keep.absolute()
            directory.mkdir(parents=True, exist_ok=True)
        if not _has_room(directory, options):
            return 3
        figures: dict[str, Any] = {
            "machine": f"{platform.machine()}, Python {platform.python_version()}",
            "cores": len(cpus),
            "load_average": os.getloadavg()[0],
            "connections": options.connections,
        }
        for engine in ENGINES[options.engine]:
            figures[engine] = _run_engine(engine, directory, options)
            if options.json is not None:  # after each one: a run may take hours
                options.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/grow",
        description="Load many sessions and measure refresh, login, start, sizes and prune.",
    )
    parser.add_argument("--sizes", type=_sizes, default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--engine", choices=ENGINES, default="both")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement")
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--starts", type=int, default=3, help="of each server")
    parser.add_argument("--prune-load", type=float, default=200, help="requests/s beside a prune")
    parser.add_argument(
        "--prune-up-to", type=float, default=1e9, metavar="N", help="sessions; larger ones are not"
    )
    parser.add_argument("--quiet", type=float, default=20, help="seconds before and after it")
    parser.add_argument("--load-only", action="store_true")
    parser.add_argument(
        "--keep", type=Path, metavar="DIR", help="keep the databases for later runs"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    return parser.parse_args()


def _sizes(text: str) -> list[int]:
    """`10000,1e6`: from the smallest on."""
    numbers = sorted({int(float(part)) for part in text.split(",")})
    if numbers[0] < 1000:
        raise argparse.ArgumentTypeError("1000 is the least")
    return numbers


def _has_room(directory: Path, options: argparse.Namespace) -> bool:
    engines = ENGINES[options.engine]
    needed = sum(places.needed_bytes(engine, options.sizes, directory) for engine in engines)
    free = places.free_bytes(directory)
    print(
        f"{directory}: needs {needed / 1e9:.1f} GB more, {free / 1e9:.1f} GB are free", flush=True
    )
    if needed * 1.2 > free:
        print("That is not enough (a fifth is to stay free).", file=sys.stderr)
        return False
    return True


def _run_engine(engine: Engine, directory: Path, options: argparse.Namespace) -> dict[str, Any]:
    with contextlib.ExitStack() as stack:
        if engine == "sqlite":
            found = [places.sqlite_installation(directory, size) for size in options.sizes]
        else:
            server_url = stack.enter_context(places.postgres_at(directory))
            found = asyncio.run(_postgres_installations(directory, server_url, options.sizes))
            places.set_durable(server_url, is_durable=False)
        grown, seconds = [], {}
        for size, installation in zip(options.sizes, found, strict=True):
            begun = time.perf_counter()
            grown.append(_grow(installation, engine, size))
            seconds[size] = round(time.perf_counter() - begun, 1)
        if engine == "postgresql":
            places.set_durable(server_url, is_durable=True)
        figures = {"loading_s": seconds, "bytes": asyncio.run(_bytes(grown))}
        _print_bytes(engine, figures["bytes"])
        if not options.load_only:
            figures |= asyncio.run(_measure(grown, options))
        return figures


async def _postgres_installations(
    directory: Path, server_url: str, sizes: list[int]
) -> list[Installation]:
    return [await places.postgres_installation(directory, server_url, size) for size in sizes]


def _grow(installation: Installation, engine: Engine, size: int) -> Place:
    label = f"{engine}, {size:,} sessions"
    with click.progressbar(length=size, label=label, show_pos=True, file=sys.stderr) as bar:
        return asyncio.run(places.grow(installation, engine, size, bar.update))


async def _bytes(grown: list[Place]) -> dict[str, Any]:
    """Of each table and index, per row of a table; there are as many users as sessions."""
    found: dict[str, Any] = {}
    for place in grown:
        size = place.shape.families
        tables = await table_sizes(place.installation.database_url)
        found[str(size)] = {
            name: {
                "total": round(table.total_bytes / size, 1),
                "table": round(table.table_bytes / size, 1),
                "indexes": {k: round(v / size, 1) for k, v in table.index_bytes.items()},
            }
            for name, table in tables.items()
        }
    return found


async def _measure(found: list[Place], options: argparse.Namespace) -> dict[str, Any]:
    starts: dict[int, list[Start]] = {place.shape.families: [] for place in found}
    for _ in range(options.starts - 1):
        async with _started(found, starts, options.server_cpu):
            pass
    async with _started(found, starts, options.server_cpu) as servers:
        grown = []
        for place, server in zip(found, servers, strict=True):
            tokens, emails = await sample(place, place.shape.now, SAMPLE)
            grown.append(Grown(place, server, tokens, emails))
        costs = await rounds(grown, options.rounds, options.seconds, options.connections)
        _print_costs(costs, starts)
        purges = {}
        for one in grown:
            if one.size > options.prune_up_to:
                continue
            result = await purge(one, per_s=options.prune_load, quiet_s=options.quiet)
            purges[one.size] = {**asdict(result), "rows_per_s": result.rows_per_s}
            _print_purge(one.size, result)
    return {
        "starts": {size: [asdict(one) for one in all_] for size, all_ in starts.items()},
        "costs": {
            size: {kind: [asdict(one) for one in all_] for kind, all_ in kinds.items()}
            for size, kinds in costs.items()
        },
        "purges": purges,
    }


@contextlib.asynccontextmanager
async def _started(
    found: list[Place], starts: dict[int, list[Start]], server_cpu: int
) -> AsyncIterator[list[ServerProcess]]:
    """A server for each place, one after the other; each must end well on SIGTERM."""
    servers: list[ServerProcess] = []
    try:
        for place in found:
            server, cost = await start(place, [server_cpu])
            servers.append(server)
            starts[place.shape.families].append(cost)
        yield servers
    except BaseException:
        for server in servers:
            server.kill()
        raise
    statuses = [server.stop() for server in servers]
    if any(statuses):
        raise RuntimeError(f"servers ended with {statuses}")


def _print_bytes(engine: Engine, found: dict[str, Any]) -> None:
    print(f"\n{engine}: bytes per session")
    for size, tables in found.items():
        print(f"  {int(size):>12,} sessions")
        for name, table in tables.items():
            indexes = ", ".join(f"{k} {v:.0f}" for k, v in table["indexes"].items())
            print(f"    {name:<13}{table['total']:6.0f}: table {table['table']:.0f}, {indexes}")


def _print_costs(costs: dict[int, dict[str, list[Cost]]], starts: dict[int, list[Start]]) -> None:
    smallest = costs[min(costs)]
    names = ("CPU-ms", "ratio", "lowest", "highest", "DB CPU-ms", "bytes", "p50 ms", "p99 ms")
    print(f"\n{'':24}" + "".join(f"{name:>11}" for name in names))
    for kind in smallest:
        for size, kinds in costs.items():
            row = kinds[kind]
            ratios = [a.cpu_ms / b.cpu_ms for a, b in zip(row, smallest[kind], strict=True)]
            values = (
                f"{median(one.cpu_ms for one in row):.3f}",
                *(f"{choose(ratios):.3f}" for choose in (median, min, max)),
                f"{median(one.database_cpu_ms for one in row):.3f}",
                f"{median(one.written_bytes for one in row):.0f}",
                f"{median(one.p50_ms for one in row):.1f}",
                f"{median(one.p99_ms for one in row):.1f}",
            )
            print(f"{kind:<9}{size:>13,}  " + "".join(f"{value:>11}" for value in values))
    for size, all_ in starts.items():
        print(
            f"start    {size:>13,}  {median(one.first_token_s for one in all_):.2f} s to a first"
            f" token ({median(one.cpu_s for one in all_):.2f} s of CPU), first status list"
            f" {1000 * median(one.first_list_cpu_s for one in all_):.0f} CPU-ms"
            f" ({all_[0].lists} lists), RSS {all_[-1].rss_kib / 1024:.0f} MiB"
        )


def _print_purge(size: int, result: Purge) -> None:
    print(
        f"\nprune    {size:>13,}  {result.rows:,} rows in {result.seconds:.1f} s,"
        f" {result.rows_per_s:,.0f}/s; {result.expired_left} expired left,"
        f" {result.others_lost} others lost"
    )
    for phase, kinds in result.felt.items():
        for kind, felt in kinds.items():
            print(
                f"  {phase:<8}{kind:<20}p50 {felt.p50_ms:7.2f} ms  p99 {felt.p99_ms:7.2f} ms"
                f"  longest {felt.longest_ms:7.1f} ms  of {felt.requests:,}"
                + (f", {felt.refused} answered 503" if felt.refused else ""),
                flush=True,
            )


if __name__ == "__main__":
    raise SystemExit(main())
