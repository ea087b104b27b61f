"""The race in full, against `token-server serve` processes of its own; see tests/faults/race.py."""

import argparse
import asyncio
from dataclasses import replace

from tests.faults.race import Race, run_race
from tests.support.places import DATABASE_HELP, temporary_installation
from tests.support.process import running_processes
from token_server.logs import configure_logging


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="scripts/race", description="Use each family's refresh token many times at once."
    )
    parser.add_argument("--families", type=int, default=500)
    parser.add_argument("--uses", type=int, default=50, help="below the replay budget of 200")
    parser.add_argument("--together", type=int, default=4, help="families that race at a time")
    parser.add_argument("--database", default="sqlite", help=DATABASE_HELP)
    parser.add_argument("--processes", type=int, default=1, help="several on PostgreSQL only")
    parser.add_argument("--workers", type=int, default=1, help="WORKERS of each process")
    parser.add_argument("--strict", action="store_true", help="REFRESH_REPLAY_WINDOW 0")
    options = parser.parse_args()
    configure_logging("console", "warning")
    race = Race(options.families, options.uses, options.together, options.strict)
    with (
        temporary_installation(options.database) as plain,
        running_processes(
            installation := replace(plain, overrides={"WORKERS": str(options.workers)}),
            options.processes,
        ) as servers,
    ):
        addresses = [server.address for server in servers]
        report = asyncio.run(run_race(installation, addresses, race))
    mode = "strict" if race.is_strict else "replay window"
    print(
        f"{options.database}, {options.processes} process(es) with {options.workers} worker(s), "
        f"{mode}: {report.summary()}"
    )
    for problem in report.problems[:20]:
        print("  problem:", problem)
    return 1 if report.problems else 0


if __name__ == "__main__":
    raise SystemExit(main())
