"""Server processes by fork, from one that has imported everything: a start without the imports.

For runs of a thousand starts, where importing is nine tenths of the work. What runs in the child
is `token-server serve` with a directory, an environment, descriptors and a log of its own; memory
is all that it shares with its parent, and the parent opens nothing and starts no thread.
"""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import traceback
from importlib import import_module
from typing import Any

from tests.support.process import ROOT, Installation, ServerProcess, wait_for_start

_READY = "ready"
_IMPORTED_LATE = (
    "aiosqlite",
    "asyncpg",
    "sqlalchemy.dialects.postgresql.asyncpg",
    "sqlalchemy.dialects.sqlite.aiosqlite",
    "token_server.cli.main",
    "token_server.cli.process_memory",
    "token_server.cli.serve",
    "uvicorn.lifespan.on",
    "uvicorn.protocols.http.httptools_impl",
    "uvloop",
)


class ForkedProcess:
    """As much of `subprocess.Popen` as ServerProcess asks for, of another process's child."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._descriptor: int | None = os.pidfd_open(pid)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def send_signal(self, number: int) -> None:
        if self._descriptor is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._descriptor, number)

    def poll(self) -> int | None:
        """0 for whatever its status was: that is its parent's to know."""
        return 0 if self._is_over(0) else None

    def wait(self, timeout: float | None = None) -> int:
        if not self._is_over(timeout):
            raise subprocess.TimeoutExpired("token-server", timeout or 0)
        return 0

    def _is_over(self, timeout: float | None) -> bool:
        if self._descriptor is not None and select.select([self._descriptor], [], [], timeout)[0]:
            os.close(self._descriptor)
            self._descriptor = None
        return self._descriptor is None


class Forker:
    """The process that forks; `close` ends it, and leaves its children alone."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.forked_starts"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._read() == _READY

    def start_server(self, installation: Installation) -> ServerProcess:
        """Returns when it answers."""
        log_path = installation.directory / "server.log"
        log_path.touch()
        offset = log_path.stat().st_size
        order = {
            "environ": installation.environ("serve"),
            "directory": str(installation.directory),
            "log": str(log_path),
        }
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        process: Any = ForkedProcess(int(self._read()))
        try:
            started = wait_for_start(process, log_path, offset)
        except BaseException:
            process.kill()
            raise
        return ServerProcess(process, log_path, *started)

    def close(self) -> None:
        with self._process:  # closes its pipes: it reads to the end
            pass

    def _read(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


def _main() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # children leave no zombies
    for name in _IMPORTED_LATE:
        with contextlib.suppress(ModuleNotFoundError):  # an extra that is not installed
            import_module(name)
    sys.stdout.write(_READY + "\n")
    sys.stdout.flush()
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            _become_server(json.loads(line))
        sys.stdout.write(f"{pid}\n")
        sys.stdout.flush()


def _become_server(order: dict[str, Any]) -> None:
    """In the child: never returns."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.environ.clear()
    os.environ.update(order["environ"])
    os.chdir(order["directory"])
    log = os.open(order["log"], os.O_WRONLY | os.O_APPEND)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for descriptor, target in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(descriptor, target)
    sys.argv = ["token-server", "serve"]
    status = 1
    try:
        import_module("token_server.__main__").main()
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    except BaseException:  # noqa: BLE001 - the parent must never get a second life
        traceback.print_exc()
    finally:
        os._exit(status)


if __name__ == "__main__":
    _main()
