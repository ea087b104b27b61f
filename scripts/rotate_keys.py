#!/usr/bin/env python3
"""Rotates the signing keys: the same as `token-server keys ...`, for cron and other directories.

Finds the .venv of this repository by itself, whatever interpreter and working directory it is
started with, and works in the repository (like scripts/serve) or in --directory. Safe to repeat
and to run on two hosts at once: one makes the change, the other finds it done.
"""

import argparse
import importlib.util
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VERBS = ("plan", "rotate", "promote", "rollback", "compromise")
EPILOG = """\
commands (each with --json, --help, and where it changes something --dry-run):
  plan                        what will happen to the keys, when and why
  rotate [--if-due] [--now]   give the next key its date; --now: it signs at once
  promote [--force]           the next key signs now, if every verifier can know it
  rollback                    take the last rotation back
  compromise KID | --all      drop a key, or all of them, at once

exit codes: 0 done, or nothing to do; 1 failure; 2 usage; 3 no such key; 4 refused by a rule;
5 busy, try again. In cron:

  17 3 * * *  /srv/token-server/scripts/rotate_keys.py rotate --if-due --quiet
"""


def main() -> None:
    """Replace this process by the command; settings come from the environment as always."""
    parser = argparse.ArgumentParser(
        description="Rotate the signing keys.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="TOML file with settings")
    parser.add_argument(
        "--directory",
        type=Path,
        default=ROOT,
        help="where relative paths of settings begin; default: %(default)s",
    )
    parser.add_argument("verb", choices=VERBS)
    parser.add_argument("arguments", nargs=argparse.REMAINDER)
    asked = parser.parse_args()
    command = [find_python(), "-m", "token_server"]
    if asked.config is not None:
        command += ["--config", str(asked.config.resolve())]
    command += ["keys", asked.verb, *asked.arguments]
    try:
        os.chdir(asked.directory)
    except OSError as error:
        sys.exit(f"Error: {asked.directory} cannot be entered: {error.strerror}")
    sys.stdout.flush()
    os.execv(command[0], command)  # noqa: S606 - no shell is wanted


def find_python() -> str:
    """The interpreter that has token_server: the repository's own, else the one we run in."""
    own = ROOT / ".venv" / "bin" / "python"
    if own.exists():
        return str(own)
    if importlib.util.find_spec("token_server") is not None:
        return sys.executable
    print(
        f"Error: there is no {own}, and this Python has no token-server. Run {ROOT}/scripts/serve "
        "once (it makes the .venv), or install token-server[server].",
        file=sys.stderr,
    )
    sys.exit(1)


if __name__ == "__main__":
    main()
