"""Node.js programs of tests/interop/node, with their locked dependencies."""

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "interop" / "node"
TIMEOUT_S = 110
MISSING = "npm is not installed: the interop run with jose needs Node.js 20 and npm"


def has_node() -> bool:
    return shutil.which("npm") is not None and shutil.which("node") is not None


def install_node_project(directory: Path) -> Path:
    """The programs and their locked dependencies, installed as any Node.js project installs
    them."""
    for path in (*SOURCE.glob("*.json"), *SOURCE.glob("*.mjs")):
        shutil.copyfile(path, directory / path.name)
    run_node(directory, ("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"))
    return directory


def run_node(directory: Path, command: Sequence[str], stdin: str = "") -> str:
    """What the command prints; it must succeed."""
    done = subprocess.run(
        command,
        cwd=directory,
        env={**os.environ, "npm_config_update_notifier": "false"},
        input=stdin,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
