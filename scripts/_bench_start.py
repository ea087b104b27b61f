"""Cold start: from the start of the process to the first token that it gave.

The first start of an installation makes keys and tables; the later ones find them. Each is on
the server's core, with nothing else running there.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from scripts import _bench_proc as proc
from scripts._bench_load import LoadError
from scripts._bench_report import quantile
from scripts._bench_targets import Cores, Plan, new_installation
from scripts._bench_world import SERVICE, World
from tests.support.databases import PostgresDatabases
from tests.support.load import open_connections, token_request
from tests.support.process import Installation, start_server


@dataclass(frozen=True, slots=True)
class Start:
    """Seconds; `later` are medians over all starts but the first, `rss_mib` after one token."""

    target: str
    starts: int
    first_s: float  # until it listens: there is no client yet that could be given a token
    later_s: float  # to the first token
    quickest_s: float
    rss_mib: float


def measure_starts(
    plan: Plan, databases: PostgresDatabases | None, cores: Cores, starts: int
) -> Start:
    """Blocks. RuntimeError when a server does not end well, LoadError when it gives no token."""
    with new_installation(plan.kind, databases) as installation:
        started = _start(plan, installation, cores, lambda _address: None)
        world = World(installation)
        asyncio.run(world.register(users=1))
        form = {"grant_type": "client_credentials", "client_id": SERVICE}
        request = token_request(form, secret=world.secrets[SERVICE])
        later = [
            _start(plan, installation, cores, lambda address: asyncio.run(_ask(address, request)))
            for _ in range(starts)
        ]
    seconds = [took_s for took_s, _ in later]
    return Start(
        target=plan.name,
        starts=starts,
        first_s=started[0],
        later_s=quantile(seconds, 0.5),
        quickest_s=min(seconds),
        rss_mib=quantile([mib for _, mib in later], 0.5),
    )


def _start(
    plan: Plan,
    installation: Installation,
    cores: Cores,
    use: Callable[[tuple[str, int]], None],
) -> tuple[float, float]:
    """Seconds until `use` was done, and MiB then."""
    cpus = cores.two if plan.is_wide else cores.one
    begun = time.perf_counter()
    server = start_server(installation, cpus=cpus, overrides={"WORKERS": str(plan.workers)})
    try:
        use(server.address)
        took_s = time.perf_counter() - begun
        mib = proc.rss_mib(proc.tree_of(server.pid))
    finally:
        status = server.stop()
    if status != 0:
        raise RuntimeError(f"{plan.name} ended with status {status}: {server.log_path}")
    return took_s, mib


async def _ask(address: tuple[str, int], request: bytes) -> None:
    async with open_connections([address], 1) as [connection]:
        reply = await connection.request(request)
    if reply.status != 200:
        raise LoadError(f"the first token: {reply.status} {reply.body!r}")
