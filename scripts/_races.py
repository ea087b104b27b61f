"""The account API's races in full, against `token-server serve` processes of its own; see
tests/faults/account_races.py."""

import argparse
import asyncio
from dataclasses import replace

from tests.faults.account_races import OVERRIDES, RACES, run_races
from tests.support.places import DATABASE_HELP, temporary_installation
from tests.support.process import running_processes
from token_server.logs import configure_logging


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="scripts/races", description="Race what people do with their accounts."
    )
    parser.add_argument("--rounds", type=int, default=1000, help="of each race")
    parser.add_argument("--only", choices=RACES, action="append", help="one race; repeatable")
    parser.add_argument("--database", default="sqlite", help=DATABASE_HELP)
    parser.add_argument("--processes", type=int, default=1, help="several on PostgreSQL only")
    options = parser.parse_args()
    configure_logging("console", "error")
    with (
        temporary_installation(options.database) as plain,
        running_processes(
            installation := replace(plain, overrides=OVERRIDES), options.processes
        ) as servers,
    ):
        addresses = [server.address for server in servers]
        names = options.only or tuple(RACES)
        reports = asyncio.run(run_races(installation, addresses, options.rounds, names))
    for report in reports:
        print(f"{options.database}, {options.processes} process(es): {report.summary()}")
        for problem in report.problems[:20]:
            print("  problem:", problem)
    return 1 if any(report.problems for report in reports) else 0


if __name__ == "__main__":
    raise SystemExit(main())
