"""The real server for integration tests: `token-server dev` in a process of its own.

On free ports, with a database and keys in a temporary directory; all of it is gone at the end,
also when the test fails or its process is killed (see `guard`). Needs the extra `server`.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_START_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = 25.0
_COMMAND_TIMEOUT_S = 60.0
_PREFIX = "TOKEN_SERVER_"
_GUARD = Path(__file__).with_name("guard.py")
# Free ports; cheap hashes, since the passwords guard nothing; nobody waits for idle connections.
_SETTINGS = {
    "bind": "127.0.0.1:0",
    "management_bind": "127.0.0.1:0",
    "log_format": "json",
    "argon2_memory_kib": "8",
    "argon2_time_cost": "1",
    "drain_timeout": "2s",
}


class ServerNotStartedError(RuntimeError):
    """The server did not start, or a command on it failed; says what it printed."""


@dataclass(frozen=True, slots=True)
class RegisteredClient:
    """A client of the running server; `client_secret` is None for a public one."""

    client_id: str
    client_secret: str | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class RunningTokenServer:
    """A server that answers. The demo client may use client_credentials, the demo user may log in
    at the public client `public_client_id`, both with the scopes orders:read and orders:write for
    https://orders.example."""

    issuer: str
    token_endpoint: str
    jwks_uri: str
    management_url: str
    client_id: str
    client_secret: str = field(repr=False)
    public_client_id: str
    user_email: str
    user_password: str = field(repr=False)
    directory: Path
    _environ: Mapping[str, str] = field(repr=False)

    def add_client(
        self,
        client_id: str,
        *,
        grants: Sequence[str] = ("client_credentials",),
        scopes: Sequence[str] = (),
        audiences: Sequence[str] = (),
        public: bool = False,
    ) -> RegisteredClient:
        """Register a client; it works at once. Its tokens are for the first of `audiences` unless
        they ask for another, or for the server itself when there is none."""
        options = [f"--grant={grant}" for grant in grants]
        options += [f"--scope={scope}" for scope in scopes]
        options += [f"--audience={audience}" for audience in audiences]
        options += ["--public"] if public else []
        made = self.run("client", "add", client_id, *options)
        return RegisteredClient(client_id, made.get("client_secret"))

    def add_user(self, email: str, password: str, *, name: str = "Test User") -> str:
        """Register a person; gives the user's id, the `sub` of their tokens."""
        shown = self.run("user", "add", email, "--name", name, "--password-stdin", stdin=password)
        return str(shown["id"])

    def log_in(
        self, email: str | None = None, password: str | None = None, *, resource: str | None = None
    ) -> dict[str, Any]:
        """The token response (RFC 6749 5.1) for a person who logs in at the public client, by
        default the demo user; `resource` asks for another audience (RFC 8707)."""
        options = ["--client-id", self.public_client_id, "--public", "--grant", "password"]
        options += ["--username", email or self.user_email]
        options += ["--resource", resource] if resource is not None else []
        given: dict[str, Any] = self.run(
            "token", "get", *options, stdin=password or self.user_password
        )
        return given

    def run(self, *arguments: str, stdin: str = "") -> Any:
        """What `token-server ARGUMENTS --json` prints, on the database of this server. Takes about
        a second. Raises ServerNotStartedError when the command fails."""
        done = subprocess.run(  # noqa: S603 - our own program
            [*_command(*arguments), "--json"],
            cwd=self.directory,
            env=self._environ,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=_COMMAND_TIMEOUT_S,
            check=False,
        )
        if done.returncode != 0:
            command = " ".join(arguments[:2])
            raise ServerNotStartedError(f"token-server {command} failed: {done.stderr.strip()}")
        return json.loads(done.stdout)


@contextlib.contextmanager
def running_token_server(**settings: str) -> Iterator[RunningTokenServer]:
    """Start the real server, give it, stop it. `settings` are the server's, in lower case:
    `running_token_server(access_token_ttl="5s")`.

    Takes one to two seconds to start: make it a fixture of the session. Blocks; in async code,
    enter it with `asyncio.to_thread`. Raises ServerNotStartedError, with what the server printed,
    when the extra `server` is not installed or a setting is wrong.
    """
    directory = Path(tempfile.mkdtemp(prefix="token-server-test-"))
    environ = _environ({**_SETTINGS, **settings})
    try:
        output = directory / "server.out"
        with output.open("wb") as out, (directory / "server.log").open("wb") as log:
            process = subprocess.Popen(  # noqa: S603 - our own programs
                [sys.executable, "-P", str(_GUARD), str(directory), *_command("dev")],
                env=environ,
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the tests, which then stop the server
            )
        try:
            facts = _wait_until_ready(process, output)
            yield _running(facts, directory, environ)
        finally:
            _stop(process)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "token_server", *arguments]


def _environ(settings: Mapping[str, str]) -> dict[str, str]:
    """Ours, without the settings of another server that may be in it."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_PREFIX)}
    return kept | {_PREFIX + name.upper(): value for name, value in settings.items()}


def _wait_until_ready(process: "subprocess.Popen[bytes]", output: Path) -> dict[str, Any]:
    deadline = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < deadline:
        printed = output.read_bytes()
        if printed.endswith(b"}\n"):
            facts: dict[str, Any] = json.loads(printed)  # the one line that `dev` prints
            return facts
        if process.poll() is not None:
            break
        time.sleep(0.02)
    printed = output.with_name("server.log").read_bytes()
    raise ServerNotStartedError(
        f"token-server did not start: {printed.decode(errors='replace').strip()}"
    )


def _running(
    facts: Mapping[str, Any], directory: Path, environ: Mapping[str, str]
) -> RunningTokenServer:
    demo = json.loads(Path(facts["demo_file"]).read_bytes())
    return RunningTokenServer(
        issuer=facts["issuer"],
        token_endpoint=facts["token_endpoint"],
        jwks_uri=facts["jwks_uri"],
        management_url=facts["management"],
        client_id=demo["service_client_id"],
        client_secret=demo["service_client_secret"],
        public_client_id=demo["public_client_id"],
        user_email=demo["user_email"],
        user_password=demo["user_password"],
        directory=directory,
        _environ={**environ, _PREFIX + "ISSUER": facts["issuer"]},
    )


def _stop(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(_STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    finally:
        if process.stdin is not None:
            process.stdin.close()
