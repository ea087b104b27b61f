"""Ids and secrets that nobody can guess and that never meet, however processes come to be (258)."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.process import ROOT

PROCESSES = 4
EACH = 5_000

# What a process draws after its beginning; it prints every id that it would give out.
DRAW = """
import base64, sys
from token_server.runtime import SystemEntropy

def draw(count):
    entropy = SystemEntropy()
    for _ in range(count):
        sys.stdout.write(base64.urlsafe_b64encode(entropy.token_bytes(16)).decode() + "\\n")
    sys.stdout.flush()
"""
SPAWNED = DRAW + f"\ndraw({EACH})\n"
# Forked after the first draw, with whatever state that left behind.
FORKED = (
    DRAW
    + f"""
import os
draw(1)
children = []
for _ in range({PROCESSES}):
    child = os.fork()
    if child == 0:
        draw({EACH})
        os._exit(0)
    children.append(child)
    os.waitpid(child, 0)
draw({EACH})
"""
)


def _run(script: str) -> list[str]:
    # A fixed seed of hashing, and of everything that would follow it.
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "0"}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environ, capture_output=True, text=True, check=True
    )
    return done.stdout.split()


def _spawn() -> list[str]:
    return [drawn for _ in range(PROCESSES) for drawn in _run(SPAWNED)]


def _fork() -> list[str]:
    return _run(FORKED)


@pytest.mark.parametrize("begin", [_spawn, _fork])
def test_processes_never_draw_the_same(begin: Callable[[], list[str]]) -> None:
    """Spawned with the same environment or forked from one parent, with PYTHONHASHSEED fixed:
    the system's random source knows nothing of either (ASVS 11.5.1)."""
    drawn = begin()
    assert len(drawn) >= PROCESSES * EACH
    assert len(set(drawn)) == len(drawn)


def test_nothing_else_in_the_server_draws() -> None:
    """A seeded generator in a corner would give its ids twice: only runtime.py may draw. The
    libraries for callers have no runtime: pauses by chance, and throw-away keys of tests."""
    package = ROOT / "token_server"
    of_callers = ("client/pace.py", "verify/refreshing.py", "verify/testing/signing.py")
    words = ("import random", "import secrets", "uuid1(", "uuid4(", "os.urandom")
    found = {
        path.relative_to(package)
        for path in package.rglob("*.py")
        if any(word in path.read_text() for word in words)
    }
    assert found == {Path("runtime.py"), *map(Path, of_callers)}
