"""Waiting for a foreign program to listen."""

import contextlib
import socket
import subprocess
import time
from pathlib import Path

START_TIMEOUT_S = 30


def wait_until_it_listens(
    process: "subprocess.Popen[bytes]", address: tuple[str, int], log_path: Path
) -> None:
    """RuntimeError, with what the program wrote, when it ends before or takes too long."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            socket.create_connection(address).close()
            return
        time.sleep(0.02)
    raise RuntimeError(f"{process.args!r} did not start: {log_path.read_text()}")
