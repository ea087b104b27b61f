"""Real server processes: `token-server serve` (or `dev`) with its own database, keys and ports.

Ports are the kernel's choice (port 0) and read from the log, so that servers never collide.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from token_server.config import PREFIX, Settings
from token_server.config_loading import load_settings
from token_server.runtime import Runtime, open_runtime

ROOT = Path(__file__).resolve().parents[2]
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 30.0
PUBLIC_ISSUER = "https://auth.example"

Mode = Literal["dev", "serve"]


@dataclass(frozen=True, slots=True)
class Installation:
    """A directory with `keys/`, a database, and the settings of whatever runs on them."""

    directory: Path
    database_url: str
    overrides: Mapping[str, str] = field(default_factory=dict)  # by name without the prefix

    def environ(self, mode: Mode | None = None) -> dict[str, str]:
        """The environment of a process of this installation; nothing of ours leaks into it."""
        values = {
            "DATABASE_URL": self.database_url,
            "KEYS_DIR": str(self.directory / "keys"),
            "BIND": "127.0.0.1:0",
            "MANAGEMENT_BIND": "127.0.0.1:0",
            "LOG_FORMAT": "json",
        }
        if mode != "dev":
            values |= {"ISSUER": PUBLIC_ISSUER, "REGISTRATION": "closed"}
        clean = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
        settings = {PREFIX + name: value for name, value in {**values, **self.overrides}.items()}
        return {**clean, **settings, "PYTHONPATH": str(ROOT)}

    def settings(self) -> Settings:
        return load_settings("tool", {}, self.environ()).settings

    def run_cli(self, *arguments: str, stdin: str = "", timeout_s: float = START_TIMEOUT_S) -> Any:
        """What `token-server ARGUMENTS --json` prints; it must succeed."""
        done = subprocess.run(
            [*_command(), *arguments, "--json"],
            cwd=self.directory,
            env=self.environ(),
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        if done.returncode != 0:
            raise RuntimeError(f"{arguments}: status {done.returncode}: {done.stderr}")
        return json.loads(done.stdout)

    @contextlib.asynccontextmanager
    async def runtime(self) -> AsyncIterator[Runtime]:
        """The services on this installation's database, as the command line opens them."""
        async with open_runtime(self.settings(), with_keys=False) as runtime:
            yield runtime


class ServerProcess:
    """One server that was started and answers; `log_path` has all that it ever printed."""

    def __init__(
        self, process: "subprocess.Popen[bytes]", log_path: Path, bind: str, management: str
    ) -> None:
        self.process = process
        self.log_path = log_path
        self.base_url = f"http://{bind}"
        self.management_url = f"http://{management}"
        host, _, port = bind.rpartition(":")
        self.address = (host, int(port))

    @property
    def pid(self) -> int:
        return self.process.pid

    def kill(self) -> None:
        """kill -9: nothing is flushed, nothing is said."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """SIGTERM and a drain; the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def log_records(self) -> list[dict[str, Any]]:
        return log_records(self.log_path)


def log_records(path: Path) -> list[dict[str, Any]]:
    """What a server has logged so far."""
    return list(_json_lines(path))


def start_server(
    installation: Installation,
    mode: Mode = "serve",
    *,
    name: str = "server",
    cpus: Sequence[int] = (),
    overrides: Mapping[str, str] | None = None,
    wrapper: Sequence[str] = (),
) -> ServerProcess:
    """Start a server and wait until it answers; `cpus` pins it and its threads to these cores,
    `wrapper` is the beginning of a command that runs another one and becomes it."""
    log_path = installation.directory / f"{name}.log"
    environ = installation.environ(mode)
    environ |= {PREFIX + key: value for key, value in (overrides or {}).items()}
    pinning = ["taskset", "-c", ",".join(map(str, cpus))] if cpus else []
    offset = log_path.stat().st_size if log_path.exists() else 0
    with log_path.open("ab") as log:
        process = subprocess.Popen(
            [*pinning, *wrapper, *_command(), mode],
            cwd=installation.directory,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        started = wait_for_start(process, log_path, offset)
    except BaseException:
        process.kill()
        process.wait()
        raise
    return ServerProcess(process, log_path, *started)


@contextlib.contextmanager
def running_processes(
    installation: Installation, count: int = 1, mode: Mode = "serve"
) -> Iterator[list[ServerProcess]]:
    """Servers on one database and one key directory; each must end well on SIGTERM."""
    servers: list[ServerProcess] = []
    try:
        for number in range(count):
            server = start_server(installation, mode, name=f"server-{number}")
            servers.append(server)
        yield servers
    except BaseException:
        for server in servers:
            server.kill()
        raise
    statuses = [server.stop() for server in servers]
    assert statuses == [0] * count, statuses


def _command() -> list[str]:
    return [sys.executable, "-m", "token_server"]


def wait_for_start(
    process: "subprocess.Popen[bytes]", log_path: Path, offset: int
) -> tuple[str, str]:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        for record in _json_lines(log_path, offset):
            if record.get("event") == "server_started":
                return str(record["bind"]), str(record["management_bind"])
            if record.get("event") == "ready":  # what `dev` prints
                bind, management = str(record["issuer"]), str(record["management"])
                return bind.removeprefix("http://"), management.removeprefix("http://")
        if process.poll() is not None:
            raise RuntimeError(f"the server ended at its start:\n{log_path.read_text()[offset:]}")
        time.sleep(0.01)
    raise TimeoutError(f"the server did not start:\n{log_path.read_text()[offset:]}")


def _json_lines(path: Path, offset: int = 0) -> Iterator[dict[str, Any]]:
    with path.open("rb") as file:
        file.seek(offset)
        for line in file:
            if line.startswith(b"{") and line.endswith(b"}\n"):
                record = json.loads(line)
                assert isinstance(record, dict)
                yield record
