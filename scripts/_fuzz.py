"""Coverage-guided fuzzing of what reads strangers' bytes: `scripts/fuzz --help`.

The targets are those of tests/fuzzing; each runs in a process of its own with atheris. A crash is
any exception but the reader's own refusals, or a promise that is not kept; the input is then left
in data/fuzz. The corpus of a run goes with it.
"""

import argparse
import logging
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["token_server"]):
    from tests.fuzzing.targets import TARGETS

ARTIFACTS = Path("data/fuzz")
GRACE_S = 600  # for a run that is counted in inputs: its time is unknown


def run_target(name: str, bounds: list[str], corpus: str) -> None:
    """In the child: does not return, libFuzzer ends the process."""
    target = TARGETS[name]
    for number, seed in enumerate(target.seeds):
        (Path(corpus) / str(number)).write_bytes(seed)
    options = ["-max_len=4096", "-print_final_stats=1", "-rss_limit_mb=2048", *bounds]
    options.append(f"-artifact_prefix={ARTIFACTS}/{name}-")
    atheris.Setup([sys.argv[0], *options, corpus], target.read)
    atheris.Fuzz()


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(TARGETS))
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument(
        "--runs", type=int, default=0, help="inputs for each target, however long they take"
    )
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    bounds = [f"-max_total_time={options.seconds}"]
    if options.runs:
        bounds = [f"-runs={options.runs}"]
    if options.child is not None:
        logging.disable()
        run_target(options.child[0], bounds, options.child[1])
    unknown = set(options.targets) - set(TARGETS)
    if unknown:
        parser.error(f"no target {min(unknown)}")
    ARTIFACTS.mkdir(parents=True, exist_ok=True)
    failed = total = 0
    for name in options.targets or TARGETS:
        executed, is_sound = _run_child(name, options.seconds, options.runs)
        failed += not is_sound
        total += executed
    print(f"{total:,} inputs in all, {failed} targets with a foreign exception")
    return 1 if failed else 0


def _run_child(name: str, seconds: int, runs: int) -> tuple[int, bool]:
    """How many inputs, and whether all went well; says so."""
    command = [sys.executable, __file__, "--seconds", str(seconds), "--runs", str(runs)]
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as corpus:
        run = subprocess.run(
            [*command, "--child", name, corpus],
            capture_output=True,
            text=True,
            timeout=None if runs else seconds + GRACE_S,
            check=False,
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        )
    executed = re.search(r"number_of_executed_units: (\d+)", run.stderr)
    covered = re.findall(r"cov: (\d+)", run.stderr)
    print(
        f"{name:<14} {time.monotonic() - began:6.0f} s, "
        f"{int(executed[1]) if executed else 0:>10,} inputs, "
        f"{covered[-1] if covered else '?':>5} edges, "
        + ("no foreign exception" if run.returncode == 0 else f"FAILED\n{run.stderr[-3000:]}"),
        flush=True,
    )
    return int(executed[1]) if executed else 0, run.returncode == 0


if __name__ == "__main__":
    raise SystemExit(main())
