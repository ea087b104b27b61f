"""Many mutated tokens judged by token_server.verify and by npm jose: `scripts/differential`.

Fails when jose refuses a token that we accept, or when anything but a TokenError comes out.
"""

import argparse
import tempfile
import time
from pathlib import Path

from tests.support.node import MISSING, has_node, install_node_project
from tests.verify.differential import Verdicts, compare


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/differential", description=__doc__)
    parser.add_argument("--tokens", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    options = parser.parse_args()
    if not has_node():
        print(MISSING)
        return 2
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as directory:
        project = install_node_project(Path(directory))
        verdicts = compare(project, options.tokens, options.seed)
    _print(verdicts, options.seed, time.monotonic() - begun)
    return 1 if verdicts.lenient else 0


def _print(verdicts: Verdicts, seed: int, took_s: float) -> None:
    print(f"{verdicts.tokens} tokens, seed {seed}, {took_s:.0f} s")
    print(f"accepted by both: {verdicts.both_accept}")
    print(f"accepted by jose alone: {verdicts.only_jose_accepts}")
    print(f"accepted by us alone: {len(verdicts.lenient)}")
    for name, counted in (("our reasons", verdicts.ours), ("jose's codes", verdicts.joses)):
        print(f"{name}: " + ", ".join(f"{key} {count}" for key, count in counted.most_common()))
    for token, code in verdicts.lenient[:20]:
        print(f"  {code}: {token}")


if __name__ == "__main__":
    raise SystemExit(main())
