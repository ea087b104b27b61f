"""Concurrent refresh, revoke and introspect at real server processes; each family's history must
have an order (tests/model/history.py)."""

import argparse
import asyncio
import time

from tests.model.recording import Plan, record
from tests.support.places import DATABASE_HELP, temporary_installation
from tests.support.process import running_processes
from token_server.logs import configure_logging


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/soak history", description=__doc__)
    parser.add_argument("--rounds", type=int, default=1000, help="each with fresh families")
    parser.add_argument("--actors", type=int, default=6)
    parser.add_argument("--families", type=int, default=3, help="of each round")
    parser.add_argument("--operations", type=int, default=24, help="of each actor in a round")
    parser.add_argument("--strict", action="store_true", help="no replay window")
    parser.add_argument("--seed", type=int, default=1, help="of what actors do, not of their pace")
    parser.add_argument("--database", default="sqlite", help=DATABASE_HELP)
    parser.add_argument("--processes", type=int, default=1, help="several on PostgreSQL only")
    options = parser.parse_args()
    configure_logging("console", "warning")
    plan = Plan(
        options.rounds,
        options.actors,
        options.families,
        options.operations,
        is_strict=options.strict,
        seed=options.seed,
    )
    started = time.monotonic()
    with (
        temporary_installation(options.database) as installation,
        running_processes(installation, options.processes) as servers,
    ):
        addresses = [server.address for server in servers]
        (report,) = asyncio.run(record(installation, addresses, [plan]))
    mode = "strict" if options.strict else "replay window"
    print(
        f"{options.database}, {options.processes} process(es), {mode}: {report.summary()}; "
        f"{time.monotonic() - started:.0f} s"
    )
    for problem in report.problems[:5]:
        print(problem)
    return 1 if report.problems else 0


if __name__ == "__main__":
    raise SystemExit(main())
