"""Many rounds of kill -9 under load; see tests/faults/kill.py."""

import argparse
import asyncio
from pathlib import Path

from tests.faults.kill import KillRounds, Plan
from tests.support.places import DATABASE_HELP, temporary_installation
from token_server.logs import configure_logging


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="scripts/kill",
        description="Kill the server under refreshes and password changes; check what is left.",
    )
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--database", default="sqlite", help=DATABASE_HELP)
    parser.add_argument("--seed", type=int, default=1, help="chooses the moments of the kills")
    parser.add_argument(
        "--log", type=Path, default=Path("data/kills.jsonl"), help="JSON lines, one for each kill"
    )
    options = parser.parse_args()
    configure_logging("console", "warning")
    options.log.parent.mkdir(parents=True, exist_ok=True)
    options.log.write_text("", encoding="utf-8")
    plan = Plan(options.rounds, options.seed, options.log)
    with temporary_installation(options.database) as installation:
        report = asyncio.run(KillRounds(installation, plan).run())
    print(f"{options.database}, seed {options.seed}: {report.summary()}")
    for problem in report.problems[:20]:
        print("  problem:", problem)
    print(f"Operations in flight and acknowledged at each kill: {options.log}")
    return 1 if report.problems else 0


if __name__ == "__main__":
    raise SystemExit(main())
