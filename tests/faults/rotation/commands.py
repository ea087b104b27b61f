"""The command line of a drill: every change of keys is made by a process of its own."""

import asyncio
import json
import sys
import time
from asyncio.subprocess import DEVNULL, PIPE
from dataclasses import dataclass
from typing import Any

from tests.faults.rotation.world import Ring
from tests.support.process import ROOT

TIMEOUT_S = 60.0
TOKEN_SERVER = (sys.executable, "-m", "token_server", "keys")
SCRIPT = (str(ROOT / "scripts" / "rotate_keys.py"),)


@dataclass(frozen=True, slots=True)
class Run:
    """A command that ended; instants are `time.time()`."""

    began_at: float
    ended_at: float
    printed: Any

    @property
    def took_s(self) -> float:
        return round(self.ended_at - self.began_at, 3)


async def run_keys(ring: Ring, *arguments: str, by_script: bool = False) -> Run:
    """`token-server keys ARGUMENTS --json` (or the script's same verb) in the environment of the
    keyring's servers. Anything but exit code 0 fails the drill."""
    command = (*(SCRIPT if by_script else TOKEN_SERVER), *arguments, "--json")
    began_at = time.time()
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=ring.installation.directory,
        env=ring.installation.environ(),
        stdin=DEVNULL,
        stdout=PIPE,
        stderr=PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), TIMEOUT_S)
    ended_at = time.time()
    if process.returncode != 0:
        raise RuntimeError(f"{arguments}: status {process.returncode}: {err.decode()}")
    return Run(began_at, ended_at, json.loads(out))
