"""The faults of one engine, one after the other, on servers of their own."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from tests.faults.outage.cluster import running_clusters
from tests.faults.outage.drill import Fault, Plan, Report, run_fault
from tests.faults.outage.link import Link
from tests.faults.outage.load import Load, register
from tests.faults.outage.postgres_faults import PostgresFaults
from tests.faults.outage.sqlite_faults import SqliteFaults, small_disk
from tests.support.process import Installation, ServerProcess, start_server

MOMENT_S = 0.2
OVERRIDES = {
    "ARGON2_MEMORY_KIB": "7168",
    "ARGON2_TIME_COST": "5",
    "TRUSTED_PROXIES": "127.0.0.1/32",
    "LOG_LEVEL": "info",
}


@dataclass(frozen=True, slots=True)
class Choice:
    """Faults whose names contain one of `names`, or all of them."""

    names: Sequence[str] = ()
    instances: int = 1
    rate: int = 200
    plan: Plan = field(default_factory=Plan)

    def takes(self, fault: Fault) -> bool:
        return not self.names or any(name in fault.name for name in self.names)


async def run_postgres(directory: Path, choice: Choice) -> AsyncIterator[Report]:
    """A primary, a standby that takes over at last, and instances behind a link."""
    with running_clusters(2) as (primary, standby):
        async with Link(("127.0.0.1", primary.port)).serving() as link:
            url = primary.url_at(*link.address)
            installation = Installation(directory, url, OVERRIDES)
            faults = PostgresFaults(primary, standby, link)
            async with _servers(installation, choice.instances) as servers:
                load = await _load(installation, servers, choice)
                for fault in faults.momentary():
                    if choice.takes(fault):
                        moment = replace(choice.plan, outage_s=MOMENT_S)
                        yield await run_fault(fault, servers, load, installation, moment)
                for fault in faults.all():
                    if choice.takes(fault):
                        yield await run_fault(fault, servers, load, installation, choice.plan)
                load.close()


async def run_sqlite(directory: Path, choice: Choice) -> AsyncIterator[Report]:
    """One server on a small disk of its own, where that can be had."""
    with small_disk(directory / "disk", "64m") as is_small_disk:
        path = directory / "disk" / "token-server.db"
        installation = Installation(directory, f"sqlite:///{path}", OVERRIDES)
        async with _servers(installation, 1) as servers:
            load = await _load(installation, servers, choice)
            for fault in SqliteFaults(path, servers[0].pid, is_small_disk).all():
                if choice.takes(fault):
                    yield await run_fault(fault, servers, load, installation, choice.plan)
            load.close()


async def _load(
    installation: Installation, servers: Sequence[ServerProcess], choice: Choice
) -> Load:
    async with installation.runtime() as runtime:
        secret = await register(runtime)
    load = Load([server.address for server in servers], secret, choice.rate)
    await load.log_in(choice.plan.sessions)
    return load


@contextlib.asynccontextmanager
async def _servers(installation: Installation, count: int) -> AsyncIterator[list[ServerProcess]]:
    servers: list[ServerProcess] = []
    try:
        for number in range(count):
            name = f"server-{number}"
            servers.append(await asyncio.to_thread(start_server, installation, name=name))
        yield servers
    finally:
        statuses = [await asyncio.to_thread(server.stop) for server in servers]
    assert statuses == [0] * count, statuses
