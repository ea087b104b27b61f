"""Liveness, readiness and metrics, over HTTP on both ports' applications."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import text

from tests.support.databases import PostgresDatabases
from tests.support.server import ManualClock, copy_keys, make_settings
from token_server.app import create_app
from token_server.config import Settings
from token_server.errors import UnavailableError
from token_server.runtime import Runtime, open_runtime
from token_server.services.health import Readiness
from token_server.web.health import create_management_app, health_handlers


@dataclass
class Ports:
    """Both applications of one runtime, and what stands behind them."""

    runtime: Runtime
    clock: ManualClock
    readiness: Readiness
    public: httpx.AsyncClient
    management: httpx.AsyncClient

    async def checks(self) -> dict[str, Any]:
        """The verbose answer by the names of the checks, newly made."""
        self.clock.advance(2)
        answer = await self.management.get("/readyz?verbose")
        return {"status": answer.status_code} | {
            check["name"]: check["ok"] for check in answer.json()["checks"]
        }


@pytest.fixture
def settings(sqlite_url: str, tmp_path: Path, shared_keys: Path) -> Settings:
    copy_keys(shared_keys, tmp_path)
    return make_settings(sqlite_url, tmp_path)


@pytest.fixture
async def ports(settings: Settings) -> AsyncIterator[Ports]:
    clock = ManualClock()
    async with open_runtime(settings, clock=clock) as runtime:
        readiness = Readiness(runtime)
        public: Any = create_app(runtime, health_handlers(readiness))
        management: Any = create_management_app(runtime, readiness)
        async with (
            httpx.AsyncClient(transport=httpx.ASGITransport(public), base_url="http://p") as one,
            httpx.AsyncClient(
                transport=httpx.ASGITransport(management), base_url="http://m"
            ) as two,
        ):
            yield Ports(runtime, clock, readiness, one, two)


@pytest.mark.parametrize("path", ["/livez", "/readyz"])
async def test_both_ports_answer_health(ports: Ports, path: str) -> None:
    """The status and nothing else, never cached; `verbose` says nothing more to strangers."""
    answers = [
        await ports.public.get(path),
        await ports.public.get(f"{path}?verbose"),
        await ports.management.get(path),
    ]

    for answer in answers:
        assert answer.status_code == 200
        assert answer.json() == {"status": "ok"}
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers.get_list("x-content-type-options") == ["nosniff"]


async def test_the_management_port_lists_the_checks(ports: Ports) -> None:
    """Each check with its outcome and a word on it."""
    checks = await ports.checks()

    assert checks == {
        "status": 200,
        "serving": True,
        "database": True,
        "schema": True,
        "signing_key": True,
        "key_store": True,
        "next_key": True,
        "key_rotation": True,
        "password_hashing": True,
        "clock": True,
    }


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/metrics"])
async def test_head_is_get_without_a_body(ports: Ports, path: str) -> None:
    """RFC 9110 9.3.2: load balancers ask with HEAD."""
    answer = await ports.management.head(path)

    assert answer.status_code == 200
    assert answer.content == b""
    assert int(answer.headers["content-length"]) > 0


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
async def test_other_methods_are_405_with_allow(ports: Ports, method: str) -> None:
    """RFC 9110 15.5.6, on both ports."""
    for client in (ports.public, ports.management):
        answer = await client.request(method, "/readyz")

        assert answer.status_code == 405
        assert answer.headers["allow"] == "GET, HEAD"
        assert answer.json()["code"] == "method_not_allowed"


async def test_metrics_are_on_the_management_port_alone(ports: Ports) -> None:
    """Strangers see no figures (case 223)."""
    public, management = await ports.public.get("/metrics"), await ports.management.get("/metrics")

    assert public.status_code == 404
    assert management.status_code == 200
    assert 'token_server_signing_keys{state="active"} 1.0' in management.text
    assert management.headers["content-type"].startswith("text/plain; version=")


async def test_unknown_paths_of_the_management_port_are_404(ports: Ports) -> None:
    """In the shape of RFC 9457, with nothing of the path in it."""
    answer = await ports.management.get("/secret-path")

    assert answer.status_code == 404
    assert "secret" not in answer.text


async def test_a_draining_process_is_not_ready_but_alive(ports: Ports) -> None:
    """Load balancers must stop sending; the orchestrator must not kill before the end."""
    ports.readiness.drain()

    ready, live = await ports.public.get("/readyz"), await ports.public.get("/livez")
    assert (ready.status_code, ready.json()) == (503, {"status": "draining"})
    assert live.status_code == 200


async def test_a_database_without_our_schema_is_not_ready(ports: Ports) -> None:
    """A database that was exchanged under the process is noticed within seconds."""
    async with ports.runtime.store.write() as connection:
        await connection.execute(text("DROP TABLE alembic_version"))

    checks = await ports.checks()

    assert checks["status"] == 503
    assert checks["schema"] is False
    assert (await ports.public.get("/readyz")).json() == {"status": "unavailable"}


async def test_a_newer_schema_is_ready(ports: Ports) -> None:
    """During a rolling upgrade the old release goes on: migrations are safe for it."""
    async with ports.runtime.store.write() as connection:
        await connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))

    assert (await ports.checks())["status"] == 200


async def test_a_clock_that_was_set_back_is_not_ready(ports: Ports) -> None:
    """Issuing is paused then, so requests belong elsewhere."""
    ports.clock.stepped_back = True

    checks = await ports.checks()

    assert (checks["status"], checks["clock"]) == (503, False)


async def test_a_process_without_a_signing_key_is_not_ready(settings: Settings) -> None:
    """It could authenticate everybody and issue nothing."""
    async with open_runtime(settings, clock=ManualClock(), with_keys=False) as runtime:
        checks = await Readiness(runtime).checks()

    failed = [check for check in checks if not check.is_ok]
    assert [(check.name, check.detail) for check in failed] == [
        ("signing_key", "there are no keys")
    ]


async def test_what_only_warns_is_degraded_and_takes_requests(
    ports: Ports, settings: Settings
) -> None:
    """A load balancer goes on sending; whoever looks closer reads what to mend."""
    (settings.keys_dir / "keyring.json").chmod(0o666)
    await ports.runtime.keys.refresh()

    answers = [await ports.public.get("/readyz"), await ports.management.get("/readyz?verbose")]
    checks = {check["name"]: check for check in answers[1].json()["checks"]}

    assert [(one.status_code, one.json()["status"]) for one in answers] == [(200, "degraded")] * 2
    assert answers[0].json() == {"status": "degraded"}
    assert (checks["key_store"]["ok"], checks["key_store"]["level"]) == (True, "warn")
    assert f"chmod go-w {settings.keys_dir / 'keyring.json'}" in checks["key_store"]["detail"]
    assert (checks["signing_key"]["ok"], checks["signing_key"]["level"]) == (True, "ok")


async def test_answers_are_shared_for_a_second(ports: Ports) -> None:
    """A flood of health checks costs one look at the database a second."""
    assert (await ports.public.get("/readyz")).status_code == 200
    async with ports.runtime.store.write() as connection:
        await connection.execute(text("DROP TABLE alembic_version"))

    again = await ports.public.get("/readyz")
    ports.clock.advance(2)
    later = await ports.public.get("/readyz")

    assert (again.status_code, later.status_code) == (200, 503)


async def test_a_database_that_is_away_is_not_ready_but_alive(
    postgres_databases: PostgresDatabases, tmp_path: Path, shared_keys: Path
) -> None:
    """DB gone later: liveness stays up, readiness goes down, and nothing raises (case 254)."""
    copy_keys(shared_keys, tmp_path)
    with postgres_databases.create() as url:
        manager = open_runtime(make_settings(url, tmp_path), clock=ManualClock())
        runtime = await manager.__aenter__()
        readiness = Readiness(runtime)
        before = await readiness.checks()
    runtime.clock.advance(2)  # type: ignore[attr-defined]  # it is the manual one
    after = await readiness.checks()
    management: Any = create_management_app(runtime, readiness)
    transport = httpx.ASGITransport(management)
    async with httpx.AsyncClient(transport=transport, base_url="http://m") as client:
        live = await client.get("/livez")
    await manager.__aexit__(None, None, None)

    assert all(check.is_ok for check in before)
    assert [check.name for check in after if not check.is_ok] == ["database"]
    assert live.status_code == 200


async def test_readiness_says_at_once_what_requests_hear(
    postgres_databases: PostgresDatabases,
    tmp_path: Path,
    shared_keys: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An answer that is good for a second more would send requests to an instance that refuses
    them all (case 254)."""
    monkeypatch.setattr("token_server.services.health.MAX_AGE_S", 3600)
    copy_keys(shared_keys, tmp_path)
    with postgres_databases.create() as url:
        manager = open_runtime(make_settings(url, tmp_path), clock=ManualClock())
        runtime = await manager.__aenter__()
        readiness = Readiness(runtime)
        before = await readiness.checks()
    async with asyncio.timeout(20):
        while runtime.store.problem is None:
            with contextlib.suppress(UnavailableError):
                async with runtime.store.read() as connection:
                    await connection.execute(text("SELECT 1"))
            await asyncio.sleep(0.02)
    after = await readiness.checks()
    await manager.__aexit__(None, None, None)

    assert all(check.is_ok for check in before)
    assert [check.name for check in after if not check.is_ok] == ["database"]
