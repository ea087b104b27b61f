"""The races of accounts and of revocation in full, against `token-server serve` processes of its
own; see tests/faults/account_races.py and tests/faults/revocation_races.py."""

import argparse
import asyncio
from dataclasses import replace

from tests.faults import account_races, revocation_races
from tests.support.places import DATABASE_HELP, temporary_installation
from tests.support.process import running_processes
from token_server.logs import configure_logging

KINDS = {
    "accounts": (account_races.RACES, account_races.OVERRIDES, account_races.run_races),
    "revocation": (revocation_races.RACES, revocation_races.OVERRIDES, revocation_races.run_races),
}
NAMES = [name for races, _, _ in KINDS.values() for name in races]


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="scripts/races", description="Race what people and clients do with their sessions."
    )
    parser.add_argument("--rounds", type=int, default=1000, help="of each race")
    parser.add_argument("--only", choices=NAMES, action="append", help="one race; repeatable")
    parser.add_argument("--database", default="sqlite", help=DATABASE_HELP)
    parser.add_argument("--processes", type=int, default=1, help="several on PostgreSQL only")
    options = parser.parse_args()
    configure_logging("console", "error")
    reports = []
    for races, overrides, run_races in KINDS.values():
        names = [name for name in races if not options.only or name in options.only]
        if not names:
            continue
        with (
            temporary_installation(options.database) as plain,
            running_processes(
                installation := replace(plain, overrides=overrides), options.processes
            ) as servers,
        ):
            addresses = [server.address for server in servers]
            reports += asyncio.run(run_races(installation, addresses, options.rounds, names))
    for report in reports:
        print(f"{options.database}, {options.processes} process(es): {report.summary()}")
        for problem in report.problems[:20]:
            print("  problem:", problem)
    return 1 if any(report.problems for report in reports) else 0


if __name__ == "__main__":
    raise SystemExit(main())
