"""The revocation drill in full, against server processes of its own; see
tests/faults/revocation/drill.py."""

import argparse
import asyncio
import json
from pathlib import Path

from tests.faults.revocation.drill import Plan, as_json, as_text, run_drill
from tests.faults.revocation.verifier import KINDS
from tests.support.places import DATABASE_HELP, temporary_installation
from token_server.logs import configure_logging

DESCRIPTION = """\
Revokes sessions by command and times how long verifiers in other processes still accept them;
then kill -9 and a restart, then cuts the verifiers off. Exit code 1 when one ttl and a second were
not enough, a verification cost a request, or anything else did not hold."""


def main() -> int:
    options = _parse()
    configure_logging("console", "warning")
    plan = Plan(
        revocations=options.revocations,
        ttl_s=options.ttl,
        fail_open_for_s=options.fail_open_for,
        kinds=tuple(KINDS),
        servers=1 if options.database == "sqlite" else 2,
    )
    with temporary_installation(options.database) as installation:
        figures = asyncio.run(run_drill(installation, plan))
    if options.json is not None:
        options.json.write_text(json.dumps(as_json(figures), indent=1) + "\n", encoding="utf-8")
    print(as_text(figures, plan))
    for problem in figures.problems[:20]:
        print("  problem:", problem)
    return 1 if figures.problems else 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/revocation_drill", description=DESCRIPTION)
    parser.add_argument("--revocations", type=int, default=20, help="measured one by one")
    parser.add_argument("--ttl", type=int, default=2, help="STATUS_TTL in seconds")
    parser.add_argument("--fail-open-for", type=int, default=6, help="seconds, at the verifiers")
    parser.add_argument("--database", default="postgresql", help=DATABASE_HELP)
    parser.add_argument("--json", type=Path, help="where to write the figures")
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())
