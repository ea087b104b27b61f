"""`scripts/bench`: what each request costs, beside signature, hash and bare handler of its run.

Starts everything itself, on 127.0.0.1 only, and removes it. Interleaved rounds (see
_bench_rounds.py); on a shared machine the ratios are what can be compared. Asserts nothing: the
aims are printed beside the figures. Exit status 1 when a window failed.
"""

import argparse
import contextlib
import json
import os
import platform
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import uvloop

from scripts import _bench_aims as aims
from scripts import _bench_proc as proc
from scripts import _bench_report as report
from scripts._bench_rounds import Options, Results, run_rounds
from scripts._bench_scenarios import SCENARIOS
from scripts._bench_start import Start, measure_starts
from scripts._bench_targets import (
    PLANS,
    Cores,
    FloorMeter,
    Plan,
    Target,
    durable_postgres,
    floor_meter,
    running_targets,
)
from token_server.logs import configure_logging

LIBRARIES = ("cryptography", "uvicorn", "uvloop", "httptools", "litestar", "SQLAlchemy", "asyncpg")
LEAST_SESSIONS = 16  # so that questions are about different ones
_FLOOR_SHARE = 0.3  # of a window


def main() -> int:
    options = _arguments()
    configure_logging("console", "warning")
    cores = Cores.of_this_machine()
    os.sched_setaffinity(0, cores.load)  # PostgreSQL inherits it
    plans = _plans(options)
    facts = _machine(cores)
    starts = _starts(plans, cores, options.starts)
    rounds = Options(
        rounds=options.rounds,
        window_s=options.seconds,
        warm_up_s=min(0.2, options.seconds / 2),
        connections=tuple(sorted(set(options.connections))),
        only=frozenset(options.only),
    )
    with (
        running_targets(plans, cores) as targets,
        floor_meter(cores, options.seconds * _FLOOR_SHARE) as meter,
    ):
        results, memory = uvloop.run(_measure(targets, meter, rounds))
    facts["load_average_after"] = os.getloadavg()
    figures = {"machine": facts, "options": _plain(rounds), **_figures(results, memory, starts)}
    print(_document(figures, results, starts, is_markdown=options.markdown))
    if options.json is not None:
        options.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    for failure in results.failures:
        print(f"FAILED: {failure}", file=sys.stderr)
    return 1 if results.failures else 0


async def _measure(
    targets: list[Target], meter: FloorMeter, options: Options
) -> tuple[Results, dict[str, float]]:
    """The samples, and MiB of each server after all that it has answered."""
    for target in targets:
        if target.world is not None:
            await target.world.register(sessions=max(LEAST_SESSIONS, *options.connections))
    results = await run_rounds(targets, meter, options)
    return results, {target.plan.name: proc.rss_mib(target.pids()) for target in targets}


def _starts(plans: Sequence[Plan], cores: Cores, count: int) -> list[Start]:
    measured = [plan for plan in plans if plan.kind != "bare"] if count else []
    with contextlib.ExitStack() as stack:
        databases = None
        if any(plan.kind == "postgresql" for plan in measured):
            databases = stack.enter_context(durable_postgres())
        return [measure_starts(plan, databases, cores, count) for plan in measured]


def _figures(results: Results, memory: dict[str, float], starts: Sequence[Start]) -> dict[str, Any]:
    rows, compared = report.rows_of(results), report.compare(results)
    return {
        "floors": report.floors_of(results),
        "rows": [asdict(row) for row in rows],
        "comparisons": [asdict(comparison) for comparison in compared],
        "starts": [asdict(start) for start in starts],
        "rss_mib": memory,
        "aims": [asdict(aim) for aim in aims.aims_of(rows, compared, starts)],
        "failures": results.failures,
        "samples": [
            {**cell._asdict(), "samples": [asdict(sample) for sample in samples]}
            for cell, samples in results.samples.items()
        ],
    }


def _document(
    figures: dict[str, Any], results: Results, starts: Sequence[Start], *, is_markdown: bool
) -> str:
    rows, compared = report.rows_of(results), report.compare(results)
    table = report.markdown_table if is_markdown else report.text_table
    head = "### " if is_markdown else "== "
    parts = [_preface(figures)]
    for target in dict.fromkeys(row.target for row in rows):
        shown = [row for row in rows if row.target == target]
        parts.append(f"{head}{target}\n\n{table(shown)}")
    lines = [
        f"- {one.target} against {one.against}, {one.scenario}, {one.connections} connections:"
        f" {one.per_s:.2f} x the rate, {one.cpu_ms:.2f} x the CPU"
        for one in compared
    ]
    lines += [
        f"- {start.target}: {start.later_s:.2f} s from a cold start to the first token (quickest of"
        f" {start.starts}: {start.quickest_s:.2f} s); {start.first_s:.2f} s until the very first"
        f" start listens; {start.rss_mib:.0f} MiB then"
        for start in starts
    ]
    lines += [f"- {name}: {mib:.0f} MiB after the run" for name, mib in figures["rss_mib"].items()]
    parts.append("\n".join(lines))
    if figures["aims"]:
        parts.append(aims.markdown_table(aims.aims_of(rows, compared, starts)))
    return "\n\n".join(parts)


def _preface(figures: dict[str, Any]) -> str:
    machine, options = figures["machine"], figures["options"]
    floors = [
        f"one {name} {floor['cpu_ms']:.3f} CPU-ms, {floor['per_s']:,.0f}/s (quiet"
        f" {floor['quiet_cpu_ms']:.3f}, {floor['quiet_per_s']:,.0f}/s)"
        for name, floor in figures["floors"].items()
    ]
    load = f"{machine['load_average_before'][0]:.1f}, then {machine['load_average_after'][0]:.1f}"
    shared = "; a server on two cores shares one with the load" if machine["is_shared"] else ""
    command = shlex.join(["scripts/bench", *sys.argv[1:]])
    return (
        f"`{command}`: {machine['cpu']}, {machine['cores']} cores, Python"
        f" {machine['python']}; load average {load}{shared}.\n"
        f"{options['rounds']} rounds, windows of {options['window_s']} s. " + "; ".join(floors)
    )


def _plans(options: argparse.Namespace) -> list[Plan]:
    names = options.target or list(PLANS)
    # Ratios need what they refer to, and every run the bare handler.
    return [plan for name, plan in PLANS.items() if name in names or name == "bare"]


def _machine(cores: Cores) -> dict[str, Any]:
    cpu = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines()
        if line.startswith("model name")
    ]
    return {
        "cpu": cpu[0] if cpu else platform.machine(),
        "cores": len(set(cores.two + cores.load)),
        "is_shared": cores.is_shared,
        "python": platform.python_version(),
        "libraries": {name: version(name) for name in LIBRARIES},
        "load_average_before": os.getloadavg(),
    }


def _plain(options: Options) -> dict[str, Any]:
    return {**asdict(options), "only": sorted(options.only)}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=0.5, help="of each window")
    parser.add_argument("--starts", type=int, default=5, help="cold starts of each server; 0: none")
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 16, 32], metavar="N")
    parser.add_argument("--target", action="append", choices=PLANS, help="all; may be repeated")
    parser.add_argument("--only", action="append", default=[], choices=SCENARIOS)
    parser.add_argument("--json", type=Path, metavar="FILE", help="all samples and figures")
    parser.add_argument("--markdown", action="store_true", help="tables for docs/benchmarks.md")
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())
