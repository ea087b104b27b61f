"""Two instances and PostgreSQL, each in a network namespace of its own; the link of one is cut.

Both ends of a cut link hear nothing: no RST, no FIN, no error of a route. The load comes over
links of their own, which stay. Needs root and iproute2.
"""

import asyncio
import contextlib
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.faults.key_servers import installation_of
from tests.faults.outage.cluster import Cluster, running_clusters
from tests.faults.outage.drill import Fault, Report, run_fault
from tests.faults.outage.load import Load, register
from tests.faults.outage.run import OVERRIDES, Choice
from tests.support.process import Installation, ServerProcess, start_server

MISSING = "network namespaces need root and iproute2"
_LENGTH = 24
ANYWHERE = "0.0.0.0"
KEY_LEAD = "12s"
# Sites by number: the database is 0, the instances are 1 and 2.
# Two runs at once do not meet.
_NETWORK = 64 + os.getpid() % 128
_TO_DATABASE = f"10.{_NETWORK}.{{}}."
_OUTSIDE = f"10.{_NETWORK}.1{{}}."


def are_possible() -> bool:
    if os.geteuid() != 0 or shutil.which("ip") is None:
        return False
    name = f"ts{os.getpid()}-try"
    if subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False).returncode:
        return False
    _ip("netns", "del", name)
    return True


@dataclass(frozen=True, slots=True)
class Network:
    """Namespaces `PREFIX-0` to `PREFIX-2` and the links between them."""

    prefix: str

    def name(self, site: int) -> str:
        return f"{self.prefix}-{site}"

    def within(self, site: int) -> tuple[str, ...]:
        """The beginning of a command that runs there."""
        return ("ip", "netns", "exec", self.name(site))

    def cut(self, site: int) -> None:
        _ip("-n", self.name(0), "link", "set", f"site{site}", "down")

    def mend(self, site: int) -> None:
        _ip("-n", self.name(0), "link", "set", f"site{site}", "up")


@contextlib.contextmanager
def network() -> Iterator[Network]:
    made = Network(f"ts{os.getpid()}")
    try:
        for site in range(3):
            _ip("netns", "add", made.name(site))
            _ip("-n", made.name(site), "link", "set", "lo", "up")
            outside = (None, f"{made.prefix}-{site}", _OUTSIDE.format(site) + "1")
            _link(made.prefix, outside, (made.name(site), "outside", _OUTSIDE.format(site) + "2"))
        for site in (1, 2):
            database = (made.name(0), f"site{site}", _TO_DATABASE.format(site) + "1")
            _link(
                made.prefix,
                database,
                (made.name(site), "database", _TO_DATABASE.format(site) + "2"),
            )
        yield made
    finally:
        for site in range(3):
            command = ["ip", "netns", "del", made.name(site)]
            subprocess.run(command, capture_output=True, check=False)


async def run_cut_link(directory: Path, choice: Choice) -> tuple[Report, list[str]]:
    """What the load at the instance with the cut link saw, and what failed at the other one."""
    with network() as net, running_clusters(1, ANYWHERE, net.within(0)) as (cluster,):
        url = cluster.url_at(_OUTSIDE.format(0) + "2", cluster.port)
        # The keys are in the database, too: signing must not go on with stale ones (I3).
        overrides = {**OVERRIDES, "KEY_LEAD": KEY_LEAD, "TRUSTED_PROXIES": "10.0.0.0/8"}
        installation = installation_of(directory, url, "database", **overrides)
        async with installation.runtime() as runtime:
            secret = await register(runtime)
        async with _servers(installation, cluster, net) as servers:
            loads = [Load([server.address], secret, choice.rate) for server in servers]
            for load in loads:
                await load.log_in(choice.plan.sessions)

            async def cut() -> None:
                net.cut(1)

            async def mend() -> None:
                net.mend(1)

            loads[1].start()
            fault = Fault("link of one instance cut", cut, mend)
            report = await run_fault(fault, servers[:1], loads[0], installation, choice.plan)
            await loads[1].stop()
            unharmed = [
                f"{one.kind}: {one.status} {one.text}"
                for one in loads[1].answers
                if one.status != 200
            ]
            for load in loads:
                load.close()
            return report, unharmed


@contextlib.asynccontextmanager
async def _servers(
    installation: Installation, cluster: Cluster, net: Network
) -> AsyncIterator[list[ServerProcess]]:
    servers: list[ServerProcess] = []
    try:
        for site in (1, 2):
            address = _OUTSIDE.format(site) + "2"
            overrides = {
                "DATABASE_URL": cluster.url_at(_TO_DATABASE.format(site) + "1", cluster.port),
                "BIND": f"{address}:0",
                "MANAGEMENT_BIND": f"{address}:0",
            }
            start = partial(start_server, name=f"site-{site}", overrides=overrides)
            servers.append(await asyncio.to_thread(start, installation, wrapper=net.within(site)))
        yield servers
    finally:
        statuses = [await asyncio.to_thread(server.stop) for server in servers]
    assert statuses == [0, 0], statuses


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


def _link(prefix: str, *ends: tuple[str | None, str, str]) -> None:
    """Each end with its namespace (None: where we are), its name there and its address."""
    made = [f"{prefix}x0", f"{prefix}x1"]
    _ip("link", "add", made[0], "type", "veth", "peer", "name", made[1])
    for temporary, (namespace, name, address) in zip(made, ends, strict=True):
        if namespace is None:
            _ip("link", "set", temporary, "name", name)
            there: tuple[str, ...] = ()
        else:
            _ip("link", "set", temporary, "netns", namespace, "name", name)
            there = ("-n", namespace)
        _ip(*there, "address", "add", f"{address}/{_LENGTH}", "dev", name)
        _ip(*there, "link", "set", name, "up")
