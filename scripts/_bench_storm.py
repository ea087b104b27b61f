"""`scripts/bench storm`: hundreds of logins at once, and what everybody else notices of them.

Probes of JWKS and client_credentials go at a steady pace, each answer timed from the instant at
which its request was due, so that a stalled server is not excused. First without logins, then
with as many connections as are asked for that log in for the whole time, each a user and an
address of its own; whoever is told to come back later does, at that time or (--impatient) at once.
"""

import argparse
import asyncio
import contextlib
import json
import os
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import uvloop

from scripts._bench_report import quantile
from scripts._bench_targets import PLANS, Cores, Plan, durable_postgres, new_installation
from scripts._bench_targets import running_target as running
from scripts._bench_world import SERVICE, World, login_form
from tests.support.load import (
    Address,
    Connection,
    Reply,
    get_request,
    open_connections,
    token_request,
)
from token_server.logs import configure_logging
from token_server.services.metadata import JWKS_PATH

PER_S = 100  # of each probe: a p99 of 60 s rests on 60 answers
LANES = 10  # connections of each probe in turn: a late answer must not hold up the next request
SETTLE_S = 1.0


@dataclass(frozen=True, slots=True)
class Quantiles:
    """Of waiting times, in milliseconds."""

    count: int
    p50_ms: float
    p99_ms: float
    max_ms: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> "Quantiles":
        if not seconds:
            return cls(0, 0.0, 0.0, 0.0)
        p50, p99, most = (1000 * quantile(seconds, share) for share in (0.5, 0.99, 1.0))
        return cls(len(seconds), p50, p99, most)


@dataclass(slots=True)
class Logins:
    """What the storm was answered; seconds."""

    accepted: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)  # 503
    retry_after_s: Counter[str] = field(default_factory=Counter)
    others: Counter[str] = field(default_factory=Counter)

    def take(self, reply: Reply, seconds: float) -> float:
        """How long to stay away, in seconds."""
        if reply.status == 200:
            self.accepted.append(seconds)
            return 0.0
        if reply.status != 503:
            self.others[f"{reply.status} {reply.body[:80]!r}"] += 1
            return 1.0
        self.refused.append(seconds)
        told = _header(reply, b"retry-after")
        self.retry_after_s[told or "none"] += 1
        return float(told) if told.isdecimal() else 1.0


async def _probe(address: Address, request: bytes, seconds: float) -> list[float]:
    """The waiting time of each answer, from when its request was due."""
    async with open_connections([address], LANES) as connections:
        begun, count = time.perf_counter(), int(seconds * PER_S)
        waits = await asyncio.gather(
            *(
                _ask(connection, request, begun, range(lane, count, LANES))
                for lane, connection in enumerate(connections)
            )
        )
    return [wait for lane in waits for wait in lane]


async def _ask(connection: Connection, request: bytes, begun: float, numbers: range) -> list[float]:
    """RuntimeError for a failure: these must be answered in any weather."""
    waits = []
    for number in numbers:
        due = begun + number / PER_S
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        reply = await connection.request(request)
        waits.append(time.perf_counter() - due)
        if reply.status != 200:
            raise RuntimeError(f"a probe was answered {reply.status} {reply.body[:80]!r}")
    return waits


async def _log_in(address: Address, request: bytes, logins: Logins, *, is_patient: bool) -> None:
    """One user, until cancelled; a lost connection is counted and made anew."""
    while True:
        try:
            async with open_connections([address], 1) as [connection]:
                while True:
                    sent = time.perf_counter()
                    reply = await connection.request(request)
                    pause_s = logins.take(reply, time.perf_counter() - sent)
                    await asyncio.sleep(pause_s if is_patient else 0)
        except OSError as error:
            logins.others[f"connection: {type(error).__name__}"] += 1
            await asyncio.sleep(0.1)


@contextlib.asynccontextmanager
async def _storming(
    address: Address, requests: Sequence[bytes], logins: Logins, *, is_patient: bool
) -> AsyncIterator[None]:
    tasks = [
        asyncio.create_task(_log_in(address, request, logins, is_patient=is_patient))
        for request in requests
    ]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _run(address: Address, world: World, options: argparse.Namespace) -> dict[str, Any]:
    _say(f"making {options.logins} users")
    await world.register(users=options.logins)
    service = {"grant_type": "client_credentials", "client_id": SERVICE}
    probes = {
        "JWKS": get_request(JWKS_PATH),
        "client_credentials": token_request(service, secret=world.secrets[SERVICE]),
    }
    storm = [
        token_request(login_form(email), more_headers={"X-Forwarded-For": _address(number)})
        for number, email in enumerate(world.emails)
    ]
    logins = Logins()

    async def measure(seconds: float) -> dict[str, list[float]]:
        asked = (_probe(address, request, seconds) for request in probes.values())
        waits = await asyncio.gather(*asked)
        return dict(zip(probes, waits, strict=True))

    await measure(SETTLE_S)
    _say(f"{options.idle:.0f} s without logins")
    idle = await measure(options.idle)
    _say(f"{options.seconds:.0f} s with {options.logins} logins at once")
    async with _storming(address, storm, logins, is_patient=not options.impatient):
        busy = await measure(options.seconds)
    _say(f"{options.idle:.0f} s after them")
    await asyncio.sleep(SETTLE_S)
    after = await measure(options.idle)
    return _figures(options, logins, {"idle": idle, "storm": busy, "after": after})


def _figures(
    options: argparse.Namespace, logins: Logins, phases: dict[str, dict[str, list[float]]]
) -> dict[str, Any]:
    probes = {
        phase: {name: asdict(Quantiles.of(waits)) for name, waits in measured.items()}
        for phase, measured in phases.items()
    }
    return {
        "logins": options.logins,
        "seconds": options.seconds,
        "target": options.target,
        "cores": 2 if options.wide else 1,
        "is_patient": not options.impatient,
        "load_average": os.getloadavg(),
        "probes": probes,
        "p99_in_idle": {
            name: probes["storm"][name]["p99_ms"] / probes["idle"][name]["p99_ms"]
            for name in probes["idle"]
        },
        "accepted": asdict(Quantiles.of(logins.accepted)),
        "accepted_per_s": len(logins.accepted) / options.seconds,
        "refused": asdict(Quantiles.of(logins.refused)),
        "retry_after_s": dict(logins.retry_after_s),
        "others": dict(logins.others),
    }


def _table(figures: dict[str, Any]) -> str:
    head = (
        f"{figures['logins']} logins at once for {figures['seconds']:.0f} s on {figures['target']},"
        f" {figures['cores']} core(s); load average {figures['load_average'][0]:.1f}"
    )
    lines = [
        head,
        "",
        "| | count | p50 ms | p99 ms | max ms |",
        "|---|---|---|---|---|",
    ]
    rows = [
        (f"{name}, {phase}", measured)
        for phase, probes in figures["probes"].items()
        for name, measured in probes.items()
    ]
    rows += [("login, accepted", figures["accepted"]), ("login, 503", figures["refused"])]
    lines += [
        f"| {name} | {row['count']:,} | {row['p50_ms']:.1f} | {row['p99_ms']:.1f}"
        f" | {row['max_ms']:.1f} |"
        for name, row in rows
    ]
    times = [f"{name} {ratio:.1f} x" for name, ratio in figures["p99_in_idle"].items()]
    told = [f"{count:,} times {seconds} s" for seconds, count in figures["retry_after_s"].items()]
    lines += [
        "",
        "p99 in the storm against idle (aim: at most 3 x): " + ", ".join(times),
        f"{figures['accepted_per_s']:.1f} logins/s accepted; Retry-After: {', '.join(told) or '-'}",
        f"answered otherwise: {figures['others'] or 'none'}",
    ]
    return "\n".join(lines)


def _address(number: int) -> str:
    return f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"


def _header(reply: Reply, name: bytes) -> str:
    for line in reply.head.split(b"\r\n"):
        key, _, value = line.partition(b":")
        if key.lower() == name:
            return value.strip().decode("ascii")
    return ""


def _say(text: str) -> None:
    if sys.stderr.isatty():
        print(text, file=sys.stderr)


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench storm", description=__doc__)
    parser.add_argument("--logins", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--idle", type=float, default=20.0, help="seconds before and after")
    parser.add_argument("--target", choices=("sqlite", "postgresql"), default="sqlite")
    parser.add_argument("--wide", action="store_true", help="the server on two cores")
    parser.add_argument("--impatient", action="store_true", help="ignore Retry-After")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    options = parser.parse_args()
    configure_logging("console", "warning")
    cores = Cores.of_this_machine()
    os.sched_setaffinity(0, cores.load)
    plan = Plan(options.target, PLANS[options.target].kind, is_wide=options.wide)
    with contextlib.ExitStack() as stack:
        databases = None
        if plan.kind == "postgresql":
            databases = stack.enter_context(durable_postgres())
        proxies = {"TRUSTED_PROXIES": "127.0.0.1/32"}  # each login comes from its own address
        installation = stack.enter_context(new_installation(plan.kind, databases, **proxies))
        target = stack.enter_context(running(plan, installation, cores))
        world = World(installation)
        figures = uvloop.run(_run(target.address, world, options))
    print(_table(figures))
    if options.json is not None:
        options.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    return 1 if figures["others"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
