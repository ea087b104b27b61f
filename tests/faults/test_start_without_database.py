"""The database is away when a server starts (254): it answers what it can, waits, and needs nobody
when the database comes."""

import asyncio
import time
from pathlib import Path

from tests.faults.outage.link import Link, link_target
from tests.faults.outage.load import JWKS_PATH, MACHINE, METADATA_PATH, register
from tests.support.load import Address, Connection, Reply, get_request, token_request
from tests.support.process import START_TIMEOUT_S, Installation, log_records, start_server

NOWHERE: Address = ("127.0.0.1", 1)


async def ask(address: Address, request: bytes) -> Reply:
    connection = await Connection.open(address)
    try:
        return await connection.request(request)
    finally:
        connection.close()


async def addresses_of_waiting(log_path: Path) -> list[Address]:
    """Both ports, once the server has said that it waits."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        for record in log_records(log_path) if log_path.exists() else ():
            if record["event"] == "database_unavailable":
                assert record["operation"] == "start"
                places = (record["bind"], record["management_bind"])
                return [(place.split(":")[0], int(place.split(":")[1])) for place in places]
        await asyncio.sleep(0.05)
    raise TimeoutError("the server does not say that it waits")


async def test_server_that_starts_without_its_database_waits_for_it(
    postgres_url: str, tmp_path: Path
) -> None:
    """254: the same key set as before and the metadata, 503 with Retry-After for all that needs
    the database, alive and not ready; then everything, on the same ports."""
    target, through = link_target(postgres_url)
    async with Link(target).serving() as link:
        installation = Installation(tmp_path, through(link.address))
        async with installation.runtime() as runtime:
            secret = await register(runtime)
        server = await asyncio.to_thread(start_server, installation, name="first")
        before = await ask(server.address, get_request(JWKS_PATH))
        assert await asyncio.to_thread(server.stop) == 0

        link.target = NOWHERE
        starting = asyncio.create_task(asyncio.to_thread(start_server, installation, name="second"))
        public, management = await addresses_of_waiting(tmp_path / "second.log")
        jwks = await ask(public, get_request(JWKS_PATH))
        assert (jwks.status, jwks.body) == (200, before.body)
        assert (await ask(public, get_request(METADATA_PATH))).status == 200
        form = {"grant_type": "client_credentials", "client_id": MACHINE}
        for request in (token_request(form, secret), get_request("/api/auth/me")):
            refused = await ask(public, request)
            assert refused.status == 503
            assert b"\r\nretry-after:" in refused.head.lower()
        for address in (public, management):
            assert (await ask(address, get_request("/livez"))).status == 200
            assert (await ask(address, get_request("/readyz?verbose"))).status == 503
        metrics = await ask(management, get_request("/metrics"))
        assert b'token_server_database_available{operation="write"} 0.0' in metrics.body

        link.target = target
        server = await starting
        assert server.address == public
        assert (await ask(public, token_request(form, secret))).status == 200
        assert (await ask(management, get_request("/readyz"))).status == 200
        assert await asyncio.to_thread(server.stop) == 0
