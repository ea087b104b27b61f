"""The rotation drill in full, against `token-server serve` processes of its own; see
tests/faults/rotation/drill.py."""

import argparse
import asyncio
import contextlib
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.faults.rotation.drill import JWKS_MAX_AGE_S, Plan, run_drill
from tests.faults.rotation.report import Report
from tests.faults.rotation.rings import running_ring, with_keys_in_database
from tests.faults.rotation.verifiers import Kind, jose_kind, python_kinds
from tests.faults.rotation.world import Ring
from tests.support.node import MISSING, has_node, install_node_project
from tests.support.places import temporary_installation
from token_server.logs import configure_logging

DESCRIPTION = """\
Rotates signing keys by command while npm's jose, PyJWT's PyJWKClient and joserfc verify every
token: two servers on PostgreSQL with one keyring, one on SQLite with another, side by side. Then
calls keys compromised and times it. Exit code 1 when a good token was refused, or anything else
did not hold."""


def main() -> int:
    options = _parse()
    configure_logging("console", "warning")
    if not has_node():
        print(MISSING, file=sys.stderr)
        return 2
    plan = Plan(
        rotations=options.rotations,
        spacing_s=options.spacing,
        token_ttl_s=options.token_ttl,
        rate=options.rate,
        compromises=options.compromises,
        rotate=("rotate", "--now") if options.emergency else ("rotate",),
        waits_for_retirement=not options.emergency,
    )
    with _kinds() as kinds, _rings(plan, options.keys) as rings:
        report = asyncio.run(run_drill(rings, kinds, plan))
        _print(report, rings, options.json)
    return 1 if report.problems else 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/rotation_drill", description=DESCRIPTION)
    parser.add_argument("--rotations", type=int, default=11, help="of each of the two keyrings")
    parser.add_argument(
        "--spacing", type=float, default=38, help="seconds; above PyJWT's and jose's cooldown of 30"
    )
    parser.add_argument("--token-ttl", type=int, default=150, help="ACCESS_TOKEN_TTL in seconds")
    parser.add_argument("--rate", type=float, default=25, help="tokens per second of each server")
    parser.add_argument("--compromises", type=int, default=4, help="of each keyring")
    parser.add_argument(
        "--keys",
        choices=["database", "directory"],
        default="database",
        help="where the two servers on PostgreSQL have their keyring",
    )
    parser.add_argument(
        "--emergency",
        action="store_true",
        help="`rotate --now` instead: with a short --spacing the drill must fail",
    )
    parser.add_argument("--json", type=Path, help="where to write the figures")
    return parser.parse_args()


@contextlib.contextmanager
def _kinds() -> Iterator[list[Kind]]:
    with tempfile.TemporaryDirectory(prefix="token-server-node-") as name:
        yield [jose_kind(install_node_project(Path(name))), *python_kinds(JWKS_MAX_AGE_S)]


@contextlib.contextmanager
def _rings(plan: Plan, keys: str) -> Iterator[list[Ring]]:
    with (
        temporary_installation("postgresql") as plain,
        temporary_installation("sqlite") as single,
    ):
        several = with_keys_in_database(plain) if keys == "database" else plain
        with (
            running_ring("postgresql", several, plan.settings, servers=2) as first,
            running_ring("sqlite", single, plan.settings) as second,
        ):
            yield [first, second]


def _print(report: Report, rings: list[Ring], path: Path | None) -> None:
    if path is not None:
        text = json.dumps(report.as_json(rings), indent=1)
        path.write_text(text + "\n", encoding="utf-8")
    print(report.text(rings))
    for problem in report.problems[:20]:
        print("  problem:", problem)


if __name__ == "__main__":
    raise SystemExit(main())
