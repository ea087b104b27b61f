"""A whole server for tests: real uvicorn on a real port, a real database, a manual clock."""

import asyncio
import contextlib
import ipaddress
import shutil
import socket
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from tests.support.databases import TEST_EPOCH
from tests.support.plain_http import NO_TLS
from token_server.app import create_app
from token_server.config import Settings
from token_server.crypto.opening import open_keyring
from token_server.records import Client, Secret, User
from token_server.runtime import Runtime, SystemEntropy, open_runtime
from token_server.services.clients import NewClient, add_client
from token_server.services.health import Readiness
from token_server.services.users import NewUser, add_user
from token_server.web.health import health_handlers
from token_server.web.server import Server, traffic_of

ISSUER = "https://auth.example"
AUDIENCE = "https://orders.example"
PASSWORD = "correct horse battery staple"
EMAIL = "ada@example.org"


@dataclass(slots=True)
class ManualClock:
    """Stands still until it is advanced; durations go on by the machine's monotonic clock."""

    at: int = TEST_EPOCH
    advanced_s: float = 0.0
    stepped_back: bool = False

    def now(self) -> int:
        return self.at

    def monotonic(self) -> float:
        return time.monotonic() + self.advanced_s

    def is_stepped_back(self) -> bool:
        return self.stepped_back

    def behind_s(self) -> float:
        return 3600.0 if self.stepped_back else 0.0

    def advance(self, seconds: int) -> None:
        self.at += seconds
        self.advanced_s += seconds


def make_settings(database_url: str, directory: Path, **overrides: Any) -> Settings:
    """Production settings with cheap password hashes and keys below `directory`."""
    values: dict[str, Any] = {
        "mode": "serve",
        "issuer": ISSUER,
        "database_url": Secret(database_url),
        "keys_dir": directory / "keys",
        "master_key_file": directory / "keys" / "master.key",
        "default_audience": ISSUER,
        "registration": "open",
        "browser_origins": (ISSUER,),
        "argon2_memory_kib": 8,
        "argon2_time_cost": 1,
        "password_hash_slots": 2,
        "password_hash_queue": 400,  # tests of guesses send many at once from one network
        "log_level": "warning",
        # As behind a proxy on this machine: a test chooses its address with `from_address`.
        "trusted_proxies": (ipaddress.ip_network("127.0.0.1/32"),),
    }
    return Settings(**{**values, **overrides})


def from_address(ip_address: str) -> dict[str, str]:
    """The header of a request that comes from there; each network has a guessing budget."""
    return {"X-Forwarded-For": ip_address}


async def make_keys(directory: Path) -> None:
    """One key directory for a whole test run: RSA keys are slow to make."""
    settings = make_settings("sqlite:///unused", directory)
    await open_keyring(settings, now=TEST_EPOCH, entropy=SystemEntropy().token_bytes)


@dataclass(slots=True)
class RunningServer:
    """The server, its runtime for looking behind the curtain, and a client that speaks HTTP."""

    runtime: Runtime
    clock: ManualClock
    base_url: str
    http: httpx.AsyncClient
    secrets: dict[str, str] = field(default_factory=dict)

    async def add_client(self, client_id: str, **values: Any) -> Client:
        """Register a client; its secret is kept for `token`."""
        client, secret = await add_client(self.runtime, NewClient(client_id=client_id, **values))
        if secret is not None:
            self.secrets[client_id] = secret.reveal()
        return client

    async def add_user(self, email: str = EMAIL, password: str = PASSWORD) -> User:
        return await add_user(self.runtime, NewUser(email, "Ada Lovelace", Secret(password)))

    async def token(
        self, client_id: str | None = None, headers: Mapping[str, str] | None = None, **form: str
    ) -> httpx.Response:
        """POST the form to the token endpoint, authenticated as the client if it has a secret."""
        auth = None
        if client_id is not None and client_id in self.secrets:
            auth = httpx.BasicAuth(client_id, self.secrets[client_id])
        elif client_id is not None:
            form = {"client_id": client_id, **form}
        return await self.http.post(
            "/oauth2/token",
            data=form,
            headers=dict(headers or {}),
            auth=auth or httpx.USE_CLIENT_DEFAULT,
        )

    async def login(self, client_id: str = "app", **form: str) -> dict[str, Any]:
        """Tokens of the default user by the password grant."""
        answer = await self.token(
            client_id, None, grant_type="password", username=EMAIL, password=PASSWORD, **form
        )
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    async def refresh(
        self, refresh_token: str, client_id: str = "app", **form: str
    ) -> httpx.Response:
        return await self.token(
            client_id, None, grant_type="refresh_token", refresh_token=refresh_token, **form
        )


@contextlib.asynccontextmanager
async def running_server(settings: Settings) -> AsyncIterator[RunningServer]:
    """Open a runtime, serve it on a free port of the loopback interface, stop both at the end."""
    clock = ManualClock()
    async with (
        open_runtime(settings, clock=clock) as runtime,
        serving(runtime) as base_url,
    ):
        limits = httpx.Limits(max_connections=200, max_keepalive_connections=200)
        async with httpx.AsyncClient(
            base_url=base_url, timeout=30, limits=limits, verify=NO_TLS
        ) as http:
            yield RunningServer(runtime, clock, base_url, http)


@contextlib.asynccontextmanager
async def serving(runtime: Runtime) -> AsyncIterator[str]:
    """The public application over `runtime`, at the address that is given."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    listener.listen(1024)
    app = create_app(runtime, health_handlers(Readiness(runtime)))
    server = Server(app, traffic_of(runtime), drain_timeout_s=20)
    looking = asyncio.create_task(server.traffic.keep_looking())
    task = asyncio.create_task(server.serve([listener]))
    while not server.started:  # noqa: ASYNC110 - uvicorn has no event to wait for
        await asyncio.sleep(0.005)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        looking.cancel()
        server.should_exit = True
        await task


def copy_keys(source: Path, directory: Path) -> None:
    shutil.copytree(source / "keys", directory / "keys")
