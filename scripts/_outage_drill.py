"""The outage drill in full, against `token-server serve` processes of its own; see
tests/faults/outage/drill.py."""

import argparse
import asyncio
import sys
import tempfile
import warnings
from pathlib import Path

from tests.faults.outage.drill import Plan
from tests.faults.outage.namespaces import MISSING, are_possible, run_cut_link
from tests.faults.outage.run import Choice, run_postgres, run_sqlite
from token_server.logs import configure_logging

DESCRIPTION = """\
Serves a steady mix of requests (key set, metadata, machine tokens, refreshes, introspection,
logins) while the database is stopped, frozen, cut off, read-only, out of connections or failed
over, or, with SQLite, locked, on a full or failing disk, or moved away. Exit code 1 when an answer
was neither 200 nor a 503 with Retry-After, a document was not 200, an answer took longer than 10 s,
service was not whole 3 s after the return, or a session did not go on."""


async def run(options: argparse.Namespace) -> int:
    choice = Choice(
        names=options.fault or (),
        instances=options.instances,
        rate=options.rate,
        plan=Plan(outage_s=options.seconds),
    )
    problems = faults = 0
    drill = run_sqlite if options.database == "sqlite" else run_postgres
    with tempfile.TemporaryDirectory(prefix="token-server-") as directory:
        if options.namespaces:
            return await run_namespaces(Path(directory), choice)
        async for report in drill(Path(directory), choice):
            print(report.text(), flush=True)
            problems += len(report.problems)
            faults += 1
    print(f"{faults} faults, {problems} problems")
    return 1 if problems or not faults else 0


async def run_namespaces(directory: Path, choice: Choice) -> int:
    if not are_possible():
        print(MISSING, file=sys.stderr)
        return 2
    report, failed_elsewhere = await run_cut_link(directory, choice)
    print(report.text())
    print(f"failed at the other instance: {len(failed_elsewhere)}")
    for failure in failed_elsewhere[:20]:
        print("  ", failure)
    return 1 if report.problems or failed_elsewhere else 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/outage_drill", description=DESCRIPTION)
    parser.add_argument("--database", choices=("sqlite", "postgresql"), default="postgresql")
    parser.add_argument("--instances", type=int, default=1, help="servers (PostgreSQL)")
    parser.add_argument("--seconds", type=float, default=60, help="how long each fault lasts")
    parser.add_argument("--rate", type=int, default=200, help="requests a second")
    parser.add_argument(
        "--namespaces",
        action="store_true",
        help="two instances and PostgreSQL in network namespaces, the link of one is cut (root)",
    )
    parser.add_argument("--fault", action="append", help="only those with this in their name")
    configure_logging("console", "error")
    warnings.simplefilter("ignore")  # pip's PostgreSQL complains of a missing XDG_RUNTIME_DIR
    return asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    raise SystemExit(main())
