"""The restart drill in full, against `token-server serve` processes of its own; see
tests/faults/restarts/drill.py."""

import argparse
import asyncio
import sys

from tests.faults.restarts.drill import Plan, run_drill
from tests.faults.restarts.load import FAILURES_SHOWN, Mix
from tests.support.nginx import MISSING, find_nginx
from tests.support.places import temporary_installation
from token_server.logs import configure_logging

DESCRIPTION = """\
Restarts two servers on PostgreSQL in turn by SIGTERM, behind nginx with
docs/deploy/nginx-balancer.conf, while clients get machine tokens, refresh and read the key set.
Exit code 1 when a client saw a failed request."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/restart_drill", description=DESCRIPTION)
    parser.add_argument("--rounds", type=int, default=20, help="restarts in all")
    parser.add_argument("--workers", type=int, default=1, help="processes of each instance")
    parser.add_argument("--pause", type=float, default=0.04, help="seconds between two requests")
    options = parser.parse_args()
    configure_logging("console", "warning")
    program = find_nginx()
    if program is None:
        print(MISSING, file=sys.stderr)
        return 2
    plan = Plan(options.rounds, options.workers, Mix(pause_s=options.pause))
    with temporary_installation("postgresql") as installation:
        report = asyncio.run(run_drill(program, installation, plan))
    print(report.text())
    for failure in report.account.failures[:FAILURES_SHOWN]:
        print("  failed:", failure)
    return 1 if report.account.failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
