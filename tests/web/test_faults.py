"""What breaks behind the edge: a failing signer, no key, no database (M225, ASVS 16.5)."""

import asyncio
import contextlib
import dataclasses
import json
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest
from sqlalchemy.engine import make_url

from tests.support.keyrings import with_keyring
from tests.support.server import (
    EMAIL,
    PASSWORD,
    RunningServer,
    copy_keys,
    make_settings,
    running_server,
    serving,
)
from token_server.crypto.keyring import Keyring
from token_server.records import SigningKey
from token_server.runtime import Runtime
from token_server.web.edge import Edge

APP = {
    "grant_types": ("password", "refresh_token"),
    "scopes": ("orders:read",),
    "is_public": True,
}
MACHINE = {"grant_types": ("client_credentials",), "scopes": ("orders:read",)}
SERVER_ERROR = b'{"error":"server_error","error_description":"The server failed; it is logged."}'
NOT_NOW = (
    b'{"error":"temporarily_unavailable",'
    b'"error_description":"Not now: try again after the time in Retry-After."}'
)


class BrokenSigner:
    """An HSM that has gone away in the middle."""

    def __init__(self, kid: str) -> None:
        self.kid = kid
        self.alg = "RS256"

    def sign(self, content: bytes) -> bytes:
        raise OSError(f"slot 7 does not answer to {len(content)} bytes")


def with_broken_signer(runtime: Runtime) -> Runtime:
    keys: dict[SigningKey, Any] = {key: BrokenSigner(key.kid) for key in runtime.keyring.keys}
    return with_keyring(runtime, Keyring("kr_broken", 1, keys))


@contextlib.asynccontextmanager
async def beside(server: RunningServer, runtime: Runtime) -> AsyncIterator[RunningServer]:
    """Another server over the same database, with something in its runtime replaced."""
    async with serving(runtime) as base_url, httpx.AsyncClient(base_url=base_url) as http:
        yield dataclasses.replace(server, runtime=runtime, base_url=base_url, http=http)


def assert_failure(answer: httpx.Response, status: int, body: bytes) -> None:
    assert (answer.status_code, answer.content) == (status, body)
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["strict-transport-security"] == "max-age=31536000"


async def test_unhandled_exception_is_a_server_error(
    server: RunningServer, capfd: pytest.CaptureFixture[str]
) -> None:
    """M225: JSON without a detail, one log line with the trace and the request id, and the process
    lives."""
    await server.add_client("billing", **MACHINE)
    async with beside(server, with_broken_signer(server.runtime)) as broken:
        capfd.readouterr()
        answer = await broken.token("billing", grant_type="client_credentials")
        assert_failure(answer, 500, SERVER_ERROR)
        lines = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
        failures = [line for line in lines if line["event"] == "request_failed"]
        assert [line["request_id"] for line in failures] == [answer.headers["x-request-id"]]
        assert "slot 7 does not answer" in failures[0]["exception"]
        assert server.secrets["billing"] not in str(lines)
        assert (await broken.http.get("/.well-known/jwks.json")).status_code == 200
        metrics = broken.runtime.metrics.render()[0].decode()
        assert 'grant="client_credentials",outcome="server_error"} 1.0' in metrics
        assert 'http_requests_total{route="/oauth2/token",status="5xx"} 1.0' in metrics
    assert (await server.token("billing", grant_type="client_credentials")).status_code == 200


async def test_refresh_that_failed_to_sign_is_healed_by_its_repetition(
    server: RunningServer,
) -> None:
    """The spent token was durable before the fault: its replay gives the successor, and nobody is
    logged out (refresh.md 4)."""
    await server.add_client("app", **APP)
    await server.add_user()
    tokens = await server.login()
    async with beside(server, with_broken_signer(server.runtime)) as broken:
        assert_failure(await broken.refresh(tokens["refresh_token"]), 500, SERVER_ERROR)
    healed = await server.refresh(tokens["refresh_token"])
    assert healed.status_code == 200
    assert (await server.refresh(healed.json()["refresh_token"])).status_code == 200


async def test_failure_outside_oauth_is_a_problem(
    sqlite_server: RunningServer, capfd: pytest.CaptureFixture[str]
) -> None:
    """M225: a damaged key set fails the JWKS in the shape of its path, and nothing else."""
    keys: dict[SigningKey, Any] = {
        dataclasses.replace(key, n=-1): None for key in sqlite_server.runtime.keyring.keys
    }
    runtime = with_keyring(sqlite_server.runtime, Keyring("kr_broken", 1, keys))
    async with beside(sqlite_server, runtime) as broken:
        answer = await broken.http.get("/.well-known/jwks.json")
        assert (answer.status_code, answer.json()["code"]) == (500, "server_error")
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-request-id"] in capfd.readouterr().err
        metadata = await broken.http.get("/.well-known/oauth-authorization-server")
        assert metadata.status_code == 200


async def test_without_a_signing_key_the_answer_is_not_now(sqlite_server: RunningServer) -> None:
    """No key may sign: 503 with Retry-After, retryable, never a wrong token."""
    await sqlite_server.add_client("billing", **MACHINE)
    runtime = with_keyring(sqlite_server.runtime, Keyring.empty())
    async with beside(sqlite_server, runtime) as keyless:
        answer = await keyless.token("billing", grant_type="client_credentials")
        assert_failure(answer, 503, NOT_NOW)
        assert answer.headers["retry-after"] == "5"


async def test_clock_set_back_stops_issuing(sqlite_server: RunningServer) -> None:
    """Tokens made now would live longer than they say: 503 until the clock has caught up."""
    await sqlite_server.add_client("billing", **MACHINE)
    sqlite_server.clock.stepped_back = True
    answer = await sqlite_server.token("billing", grant_type="client_credentials")
    assert_failure(answer, 503, NOT_NOW)
    assert answer.headers["retry-after"] == "30"
    sqlite_server.clock.stepped_back = False
    answer = await sqlite_server.token("billing", grant_type="client_credentials")
    assert answer.status_code == 200


async def until_refreshed(server: RunningServer, refresh_token: str) -> None:
    """It asks twice a second whether the database is back."""
    async with asyncio.timeout(20):
        while (answer := await server.refresh(refresh_token)).status_code == 503:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
    assert answer.status_code == 200


@contextlib.asynccontextmanager
async def database_away(database_url: str) -> AsyncIterator[None]:
    """Connections are cut and the database is renamed; at the end it gets its name back."""
    url = make_url(database_url)
    name = str(url.database)
    admin = await asyncpg.connect(
        url.set(database="postgres").render_as_string(hide_password=False)
    )
    cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1"
    try:
        await admin.execute(cut, name)
        await admin.execute(f"ALTER DATABASE {name} RENAME TO {name}_away")
        try:
            yield
        finally:
            await admin.execute(f"ALTER DATABASE {name}_away RENAME TO {name}")
    finally:
        await admin.close()


async def test_without_the_database_the_answer_is_not_now(
    postgres_url: str, shared_keys: Path, tmp_path: Path
) -> None:
    """503 with Retry-After for what needs the database, never invalid_client or invalid_grant, and
    everything works again when it is back; documents and cached clients never stop (O254)."""
    copy_keys(shared_keys, tmp_path)
    async with running_server(make_settings(postgres_url, tmp_path)) as server:
        await server.add_client("app", **APP)
        await server.add_client("billing", **MACHINE)
        await server.add_user()
        tokens = await server.login()
        assert (await server.token("billing", grant_type="client_credentials")).status_code == 200
        async with database_away(postgres_url):
            for answer in (
                await server.token("app", grant_type="password", username=EMAIL, password=PASSWORD),
                await server.refresh(tokens["refresh_token"]),
                await server.token("stranger", grant_type="client_credentials"),
            ):
                assert_failure(answer, 503, NOT_NOW)
                assert int(answer.headers["retry-after"]) >= 1
            assert (await server.http.get("/.well-known/jwks.json")).status_code == 200
            cached = await server.token("billing", grant_type="client_credentials")
            assert cached.status_code == 200
        await until_refreshed(server, tokens["refresh_token"])
        await server.login()


async def test_while_another_program_locks_the_database_the_answer_is_not_now(
    sqlite_server: RunningServer,
) -> None:
    """503 after a bounded wait, nothing spent and nobody logged out (O245)."""
    await sqlite_server.add_client("app", **APP)
    await sqlite_server.add_user()
    tokens = await sqlite_server.login()
    path = sqlite_server.runtime.store.path
    assert path is not None
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as stranger:
        stranger.execute("BEGIN IMMEDIATE")
        refreshed, logged_in = await asyncio.gather(
            sqlite_server.refresh(tokens["refresh_token"]),
            sqlite_server.token("app", grant_type="password", username=EMAIL, password=PASSWORD),
        )
        for answer in (refreshed, logged_in):
            assert_failure(answer, 503, NOT_NOW)
            assert int(answer.headers["retry-after"]) >= 1
        stranger.execute("ROLLBACK")
    await until_refreshed(sqlite_server, tokens["refresh_token"])


async def test_fault_after_the_answer_began_is_logged_and_ends_there(
    sqlite_server: RunningServer, capfd: pytest.CaptureFixture[str]
) -> None:
    """There is no second answer to one request."""

    async def half(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise RuntimeError("torn")

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope: Any = {"type": "http", "method": "GET", "path": "/", "headers": []}
    await Edge(half, sqlite_server.runtime)(scope, None, send)  # type: ignore[arg-type]  # unused
    assert [message["type"] for message in sent] == ["http.response.start"]
    assert "torn" in capfd.readouterr().err
