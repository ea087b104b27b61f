"""The example services of docs/examples, each started as its own docstring says.

And whatever else says on which port it listens: the documentation's own services.
"""

import contextlib
import http.client
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.support.issuer import AUDIENCE
from tests.support.process import ROOT

EXAMPLES = ROOT / "docs" / "examples"
_START_TIMEOUT_S = 60.0
UVICORN = ("-m", "uvicorn", "orders:app", "--port", "0")
COMMANDS = {
    "fastapi": UVICORN,
    "starlette": UVICORN,
    "litestar": UVICORN,
    "django": UVICORN,
    "forward_auth": UVICORN,
    "flask": ("-m", "flask", "--app", "orders", "run", "--port", "0"),
    "grpc": ("orders.py", "127.0.0.1:0"),
    "grpc_aio": ("orders.py", "127.0.0.1:0"),
}
HTTP_SERVICES = ("fastapi", "starlette", "litestar", "flask", "django")
GRPC_SERVICES = ("grpc", "grpc_aio")
_PORT = re.compile(r"[Rr]unning on http://127\.0\.0\.1:(\d+)|^port (\d+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: http.client.HTTPMessage
    body: str


@dataclass(frozen=True, slots=True)
class Service:
    """A running example; `log_path` has all that it printed."""

    name: str
    port: int
    log_path: Path

    def request(self, path: str, token: str | None = None, *, method: str = "GET") -> Answer:
        return self.send(path, [] if token is None else [f"Bearer {token}"], method=method)

    def send(self, path: str, authorization: Sequence[str], *, method: str = "GET") -> Answer:
        """One request with exactly these `Authorization` headers."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        with contextlib.closing(connection):
            connection.putrequest(method, path)
            for value in authorization:
                connection.putheader("Authorization", value)
            connection.putheader("Content-Length", "0")
            connection.endheaders()
            answer = connection.getresponse()
            return Answer(answer.status, answer.headers, answer.read().decode())

    @property
    def add_path(self) -> str:
        return "/orders/new" if self.name == "django" else "/orders"


@contextlib.contextmanager
def running_service(name: str, issuer: str, directory: Path) -> Iterator[Service]:
    """Start one example against this issuer, warnings being errors; its log goes to `directory`."""
    command = [sys.executable, "-W", "error", *COMMANDS[name]]
    environ = {"TOKEN_VERIFY_ISSUER": issuer, "TOKEN_VERIFY_AUDIENCE": AUDIENCE}
    log_path = directory / f"{name}.log"
    with running_program(command, EXAMPLES / name, log_path, environ) as port:
        yield Service(name, port, log_path)


@contextlib.contextmanager
def running_program(
    command: Sequence[str], directory: Path, log_path: Path, environ: Mapping[str, str]
) -> Iterator[int]:
    """The port of a service that runs in `directory`; ended at the end, whatever happens."""
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            command,
            cwd=directory,
            env={
                **os.environ,
                "PYTHONPATH": str(ROOT),
                "PYTHONDONTWRITEBYTECODE": "1",
                "PYTHONUNBUFFERED": "1",
                **environ,
            },
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        yield _wait_for_port(process, log_path)
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_for_port(process: "subprocess.Popen[bytes]", log_path: Path) -> int:
    deadline = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < deadline:
        found = _PORT.search(log_path.read_text())
        if found is not None:
            return int(found.group(1) or found.group(2))
        if process.poll() is not None:
            raise RuntimeError(f"the service ended at its start:\n{log_path.read_text()}")
        time.sleep(0.02)
    raise TimeoutError(f"the service did not start:\n{log_path.read_text()}")
