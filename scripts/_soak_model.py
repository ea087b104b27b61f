"""Sequences of steps, drawn by hypothesis, against real servers and the reference model.

Two processes, one for each engine, unless one is asked for. In parts of 100 sequences, each with a
number of its own for hypothesis: `--seed N --sequences 100` plays the part that failed again.
"""

import argparse
import subprocess
import sys
import time
from collections import Counter

from tests.model.game import Game
from tests.model.machine import play
from tests.model.nodes import running_world
from tests.support.places import DATABASE_HELP, temporary_installation
from token_server.logs import configure_logging

PART = 100


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/soak model", description=__doc__)
    parser.add_argument("--sequences", type=int, default=10_000)
    parser.add_argument("--steps", type=int, default=50, help="of each sequence")
    parser.add_argument("--seed", type=int, default=1, help="of the first part")
    parser.add_argument(
        "--minutes", type=float, default=0, help="stop after so long; 0: at the end"
    )
    parser.add_argument("--database", default="both", help=f"`both`, {DATABASE_HELP}")
    options = parser.parse_args()
    if options.database == "both":
        return _run_both(sys.argv[1:])
    configure_logging("json", "error")
    return _run(options)


def _run_both(arguments: list[str]) -> int:
    """Each engine in a process of its own."""
    command = [sys.executable, __file__, *arguments, "--database"]
    running = [subprocess.Popen([*command, name]) for name in ("sqlite", "postgresql")]
    return max(process.wait() for process in running)


def _run(options: argparse.Namespace) -> int:
    name, started = options.database.partition(":")[0], time.monotonic()
    seen: Counter[str] = Counter()
    done = steps = 0
    status = 0
    seed = options.seed
    while done < options.sequences and not status:
        elapsed_s = time.monotonic() - started
        if options.minutes and elapsed_s > options.minutes * 60:
            break
        count = min(PART, options.sequences - done)
        with (
            temporary_installation(options.database) as installation,
            running_world(installation.database_url, installation.directory) as world,
        ):
            game = Game(world)
            game.open()
            try:
                play(game, count, options.steps, seed)
            except Exception as error:  # noqa: BLE001 - whatever it is, it is the outcome
                status = 1
                again = f"--seed {seed} --sequences {count} --steps {options.steps}"
                _report(game, error, f"scripts/soak model --database {name} {again}")
            else:
                done, seed = done + game.sequences, seed + 1
            steps += game.steps
            seen += game.seen
        _say(
            f"{name}: {done} of {options.sequences} sequences, {steps} steps, "
            f"{time.monotonic() - started:.0f} s"
        )
    counts = ", ".join(f"{what} {count}" for what, count in sorted(seen.items()))
    print(
        f"{name}: {done} sequences of up to {options.steps} steps ({steps} in all) in "
        f"{time.monotonic() - started:.0f} s, {status} violations; seen: {counts}",
        flush=True,
    )
    return status


def _report(game: Game, error: Exception, command: str) -> None:
    notes = "\n".join(getattr(error, "__notes__", ()))
    print(
        f"VIOLATION\n{error}\n{notes}\nfirst seen:\n{game.failure}\nplay it again: {command}",
        flush=True,
    )


def _say(line: str) -> None:
    """Progress: on one line of a terminal, or as lines of a log."""
    end = "\r" if sys.stderr.isatty() else "\n"
    print(line, end=end, file=sys.stderr, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
