"""kill -9 at every write of every state change; see tests/faults/write_kills.py."""

import argparse
import asyncio
import contextlib
import os
import signal
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tests.faults.broken_server import BREAKS, wrapper_of
from tests.faults.forked_starts import Forker
from tests.faults.write_changes import CHANGES
from tests.faults.write_commands import COMMANDS
from tests.faults.write_kills import Victim, Walk, WriteKillReport, WriteKills
from tests.faults.write_postgres import sync_to_disk
from tests.faults.write_tracer import Moment
from tests.support.places import temporary_installation
from tests.support.process import Installation
from token_server.logs import configure_logging

NAMES = [*(change.name for change in CHANGES), *(command.name for command in COMMANDS)]
VICTIMS: dict[str, tuple[tuple[Victim, Moment], ...]] = {
    "sqlite": (("server", "before"), ("command", "before")),
    # After a COMMIT was sent, and before its answer was read: only a socket has such a moment.
    "postgresql": (
        ("server", "before"),
        ("server", "after"),
        ("backend", "before"),
        ("command", "before"),
    ),
}


def main() -> int:
    options = _options()
    for number in (signal.SIGINT, signal.SIGTERM):  # in the background as well: leave nothing over
        signal.signal(number, signal.default_int_handler)
    configure_logging("console", "error")
    options.log.parent.mkdir(parents=True, exist_ok=True)
    options.log.write_text("", encoding="utf-8")
    if options.database == "postgresql" and os.environ.get("TEST_DATABASE_URL"):
        raise SystemExit("Unset TEST_DATABASE_URL: this needs a PostgreSQL of its own to kill.")
    started = time.monotonic()
    with contextlib.ExitStack() as stack:
        installation = stack.enter_context(temporary_installation(options.database))
        forker = None
        if options.starts == "fork":
            forker = Forker()
            stack.callback(forker.close)
        report = asyncio.run(_run(installation, forker, options))
    print(f"{options.database}, seed {options.seed}: {time.monotonic() - started:.0f} s")
    _print(report)
    print(f"Each kill with what was in flight: {options.log}")
    return 1 if report.problems else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/write_kills",
        description="Kill server, commands and database processes at every write they make.",
    )
    parser.add_argument("--database", choices=list(VICTIMS), default="sqlite")
    parser.add_argument(
        "--rounds",
        type=int,
        default=2,
        help="odd ones alone and at each write, even ones under load",
    )
    parser.add_argument("--seed", type=int, default=1, help="chooses the writes under load")
    parser.add_argument("--only", choices=NAMES, action="append", help="one change; repeatable")
    parser.add_argument("--victim", choices=("server", "command", "backend"), action="append")
    parser.add_argument("--every", type=int, default=1, help="meet each so manieth write alone")
    parser.add_argument("--first", type=int, default=1, help="the first write to meet")
    parser.add_argument(
        "--starts",
        choices=("fork", "command"),
        default="fork",
        help="fork: nine starts of ten begin after the imports",
    )
    parser.add_argument("--broken", choices=list(BREAKS), help="a server that must be noticed")
    parser.add_argument(
        "--log", type=Path, default=Path("data/write_kills.jsonl"), help="one JSON line for a kill"
    )
    options = parser.parse_args()
    if options.broken:
        options.starts = "command"
    return options


async def _run(
    installation: Installation, forker: Forker | None, options: argparse.Namespace
) -> WriteKillReport:
    if options.database == "postgresql":
        await sync_to_disk(installation.database_url)
    wrapper: Sequence[str] = wrapper_of(options.broken) if options.broken else ()
    kills = WriteKills(installation, options.log, wrapper=wrapper, forker=forker)
    try:
        await kills.prepare(options.seed)
        for number in range(1, options.rounds + 1):
            for victim, moment in VICTIMS[options.database]:
                if options.victim and victim not in options.victim:
                    continue
                under_load = number % 2 == 0
                names = frozenset(options.only or ())
                walk = Walk(victim, moment, names, options.first, options.every, under_load)
                where = f"{options.database}, round {number}: "
                await kills.walk(walk, lambda text, where=where: _tell(where + text))
        await kills.close()
    except BaseException:
        await kills.abandon()
        _print(kills.report)
        raise
    return kills.report


def _tell(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def _print(report: WriteKillReport) -> None:
    columns = "change | kills | acknowledged | whole | absent | not told apart"
    print(f"\n| {columns} |\n|{'---|' * 6}")
    for name, table in report.tables.items():
        cells = (table.kills, table.acknowledged, table.whole, table.absent, table.untold)
        print(f"| {name} | {' | '.join(map(str, cells))} |")
    print(f"| all | {report.kills} | | | | |\n")
    for title, counts in (("write met", report.steps), ("in flight", report.in_flight)):
        print(f"{title}:", ", ".join(f"{count} x {name}" for name, count in counts.most_common()))
    for kind, seconds in report.ready_s.items():
        median, slowest = statistics.median(seconds), max(seconds)
        print(
            f"ready again, {kind}: {len(seconds)}, median {median:.2f} s, slowest {slowest:.2f} s"
        )
    print(f"{report.kills} kills, {len(report.problems)} problems")
    for problem in report.problems[:20]:
        print("  problem:", problem)


if __name__ == "__main__":
    raise SystemExit(main())
