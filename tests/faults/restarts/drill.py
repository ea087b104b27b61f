"""Restarts one server after the other behind a real nginx, and counts what clients notice.

The front is docs/deploy/nginx-balancer.conf itself. A round is a SIGTERM to one instance, its end
with status 0, and a start of the same instance on the same port. No request may fail.
"""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from tests.faults.restarts.load import Account, Load, Mix, register
from tests.support.nginx import Nginx, running_nginx
from tests.support.process import ROOT, Installation, ServerProcess, start_server

SITE = ROOT / "docs" / "deploy" / "nginx-balancer.conf"
INSTANCES = 2
BETWEEN_S = 0.5


@dataclass(frozen=True, slots=True)
class Plan:
    rounds: int = 20
    workers: int = 1
    mix: Mix = field(default_factory=Mix)


@dataclass(slots=True)
class Report:
    """`stops_s` and `starts_s` are one for each round; `moved` counts requests that nginx took
    to the other instance because one refused the connection."""

    account: Account
    stops_s: list[float] = field(default_factory=list)
    starts_s: list[float] = field(default_factory=list)
    load_s: float = 0.0
    moved: int = 0
    front_errors: Counter[str] = field(default_factory=Counter)  # what nginx logged

    def text(self) -> str:
        answered = ", ".join(f"{n:,} x {kind}" for kind, n in sorted(self.account.answered.items()))
        return (
            f"{len(self.stops_s)} restarts in {self.load_s:.0f} s of load: {answered}\n"
            f"failed requests: {len(self.account.failures)}\n"
            f"taken to the other instance by nginx: {self.moved}\n"
            f"errors that nginx logged: {dict(self.front_errors) or 'none'}\n"
            f"slowest answer: {self.account.slowest_s * 1000:.0f} ms\n"
            f"a stop took {_range(self.stops_s)}, a start {_range(self.starts_s)}"
        )


@dataclass(slots=True)
class Instance:
    """A server that comes back at the same address."""

    name: str
    installation: Installation
    process: ServerProcess

    def restart(self) -> tuple[float, float]:
        """Seconds of the stop and of the start; the stop must end with status 0."""
        host, port = self.process.address
        begun = time.monotonic()
        status = self.process.stop()
        stopped = time.monotonic()
        assert status == 0, f"{self.name} ended with status {status}"
        bind = {"BIND": f"{host}:{port}"}
        self.process = start_server(self.installation, name=self.name, overrides=bind)
        return stopped - begun, time.monotonic() - stopped


async def run_drill(program: str, installation: Installation, plan: Plan) -> Report:
    """`program` is nginx; `installation` is on an empty PostgreSQL database."""
    overrides = {
        **installation.overrides,
        "WORKERS": str(plan.workers),
        "TRUSTED_PROXIES": "127.0.0.1/32",
        "LOG_LEVEL": "info",
    }
    installation = replace(installation, overrides=overrides)
    with (
        _instances(installation) as instances,
        _front(program, installation.directory / "nginx", instances) as nginx,
    ):
        async with installation.runtime() as runtime:
            secret = await register(runtime)
        load = Load(nginx.address, secret, plan.mix)
        report = Report(load.account)
        await load.log_in()
        await _run_rounds(load, instances, plan, report)
    report.moved = sum("," in line.partition(" up=")[2] for line in nginx.access_lines())
    report.front_errors = nginx.count_errors()
    return report


async def _run_rounds(load: Load, instances: list[Instance], plan: Plan, report: Report) -> None:
    begun = time.monotonic()
    running = asyncio.create_task(load.run())
    try:
        for number in range(plan.rounds):
            await asyncio.sleep(BETWEEN_S)
            restart = asyncio.to_thread(instances[number % INSTANCES].restart)
            stop_s, start_s = await restart
            report.stops_s.append(stop_s)
            report.starts_s.append(start_s)
        await asyncio.sleep(BETWEEN_S)
    finally:
        load.stop()
        await running
    report.load_s = time.monotonic() - begun


@contextlib.contextmanager
def _instances(installation: Installation) -> Iterator[list[Instance]]:
    instances: list[Instance] = []
    try:
        for number in range(INSTANCES):
            name = f"instance-{number}"
            instances.append(Instance(name, installation, start_server(installation, name=name)))
        yield instances
    finally:
        for instance in instances:
            if instance.process.process.poll() is None:
                instance.process.stop()


@contextlib.contextmanager
def _front(program: str, directory: Path, instances: list[Instance]) -> Iterator[Nginx]:
    names = {
        f"token-server-{number}:8080": "{}:{}".format(*instance.process.address)
        for number, instance in enumerate(instances, 1)
    }
    with running_nginx(program, directory, SITE, names) as nginx:
        yield nginx


def _range(seconds: list[float]) -> str:
    ordered = sorted(seconds)
    middle = ordered[len(ordered) // 2]
    return f"{ordered[0]:.2f} to {ordered[-1]:.2f} s (median {middle:.2f})"
