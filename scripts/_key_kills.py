"""Kill every operation on signing keys at each of its steps; see tests/faults/key_kills.py."""

import argparse
from collections import Counter
from collections.abc import Iterator, Sequence

from tests.faults.key_checks import NEW, OLD, PART
from tests.faults.key_kills import WHOLE, Kill, Place, kill_at_each_step
from tests.faults.key_operations import OPERATIONS, Operation
from tests.faults.key_places import PLACES, place_of


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="scripts/key_kills",
        description="Kill what writes signing keys before each of its steps; look at what is left.",
    )
    parser.add_argument("--store", choices=PLACES, default="directory")
    parser.add_argument("--only", default="", help="operations whose name holds this")
    parser.add_argument("--exact", action="store_true", help="only the one that is called this")
    parser.add_argument("--every", type=int, default=1, help="only every so many steps")
    parser.add_argument("--steps", action="store_true", help="print a line for each step")
    parser.add_argument("--list", action="store_true", help="print the operations, do nothing")
    options = parser.parse_args()
    chosen = [operation for operation in OPERATIONS if options.only in operation.name]
    if options.exact:
        chosen = [operation for operation in chosen if operation.name == options.only]
    if options.list:
        print("\n".join(operation.name for operation in chosen))
        return 0
    problems, killed = 0, 0
    print(
        f"{'operation':<28} {'kills':>5}  {'as before':>9} {'as asked':>8} {'between':>7}  problems"
    )
    for operation in chosen:
        with place_of(options.store) as place:
            kills = list(_run(operation, place, options.every, options.steps))
        bad = [kill for kill in kills if kill.problems]
        problems, killed = problems + len(bad), killed + len(kills) - 1
        print(_row(operation, kills, len(bad)), flush=True)
        for kill in bad:
            print(f"  before `{kill.step}`: {'; '.join(kill.problems)}", flush=True)
    print(f"{options.store}: {killed} kills, {problems} problems")
    return 1 if problems else 0


def _run(operation: Operation, place: Place, every: int, print_steps: bool) -> Iterator[Kill]:
    for kill in kill_at_each_step(operation, place, every=every):
        if print_steps:
            print(f"  {operation.name}, before `{kill.step}`: {kill.outcome}", flush=True)
        yield kill


def _row(operation: Operation, kills: Sequence[Kill], problems: int) -> str:
    found = Counter(kill.outcome for kill in kills if kill.step != WHOLE)
    return (
        f"{operation.name:<28} {len(kills) - 1:>5}  {found[OLD]:>9} {found[NEW]:>8} "
        f"{found[PART]:>7}  {problems}"
    )


if __name__ == "__main__":
    raise SystemExit(main())
