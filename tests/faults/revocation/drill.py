"""How long a revoked session is still accepted, measured at verifiers in other processes.

`session revoke` runs as a command of its own beside the servers. Between its commit and a
verifier's refusal lie at most one `ttl` and a second; no verification may cost a request. Then
kill -9 and a restart, and last the verifiers are cut off and do as they were configured.
"""

import asyncio
import json
import random
import socket
import sys
import time
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import jwt

from tests.faults.revocation.front import Front
from tests.faults.revocation.verifier import Place
from tests.support.load import Address, Connection, token_request
from tests.support.process import ROOT, Installation, ServerProcess, start_server
from token_server.records import Secret
from token_server.services.clients import NewClient, add_client
from token_server.services.users import NewUser, add_user
from token_server.storage import families
from token_server.storage.engine import Store

AUDIENCE = "https://orders.example"
EMAIL, PASSWORD = "drill@example.org", "correct horse battery staple"
CLIENT = "drill-app"
COMMIT_POLL_S = 0.01
SLACK_S = 1.0  # what the claim allows beyond one ttl
WITNESS = "witness"  # a session that is never revoked


@dataclass(frozen=True, slots=True)
class Plan:
    """`revocations` are measured one after the other, at random points of the verifiers' polls."""

    revocations: int
    ttl_s: int
    fail_open_for_s: int
    kinds: Sequence[str]
    servers: int


@dataclass(slots=True)
class Figures:
    """Seconds from the commit of the command to the refusal, for each kind of verifier."""

    latencies_s: dict[str, list[float]] = field(default_factory=dict)
    accepted_when_cut_s: dict[str, float] = field(default_factory=dict)
    verified: dict[str, int] = field(default_factory=dict)
    fetched: int = 0
    watched_s: float = 0.0
    problems: list[str] = field(default_factory=list)


class VerifierProcess:
    """One kind of verifier; `fates` has what it thinks of each token, and since when."""

    def __init__(self, kind: str, process: asyncio.subprocess.Process) -> None:
        self.kind = kind
        self.fates: dict[str, tuple[float, str | None]] = {}
        self.verified = 0
        self._process = process
        self._changed = asyncio.Condition()
        self._reading = asyncio.create_task(self._read())

    @classmethod
    async def start(cls, kind: str, place: Place, tokens: dict[str, str]) -> "VerifierProcess":
        command = (sys.executable, "-m", "tests.faults.revocation.verifier", kind)
        process = await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE, cwd=ROOT)
        assert process.stdin is not None
        line = {"place": asdict(place), "tokens": tokens}
        process.stdin.write(json.dumps(line).encode() + b"\n")
        await process.stdin.drain()
        started = cls(kind, process)
        for name in tokens:
            await started.wait_for(name, timeout_s=30)
        return started

    async def wait_for(
        self, name: str, *, refused: bool | None = None, timeout_s: float
    ) -> float | None:
        """When it came to think so; None when it did not within the time."""

        def is_so() -> bool:
            fate = self.fates.get(name)
            return fate is not None and refused in (None, fate[1] is not None)

        try:
            async with asyncio.timeout(timeout_s), self._changed:
                await self._changed.wait_for(is_so)
        except TimeoutError:
            return None
        return self.fates[name][0]

    async def stop(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        await self._process.wait()
        await self._reading

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            said = json.loads(line)
            async with self._changed:
                self.fates[said["token"]] = (said["at"], said["refused"])
                self.verified = said["verified"]
                self._changed.notify_all()


@dataclass(slots=True)
class World:
    """Servers behind the front, and the sessions of one user."""

    installation: Installation
    front: Front
    plan: Plan
    servers: list[ServerProcess] = field(default_factory=list)
    addresses: list[Address] = field(default_factory=list)
    tokens: dict[str, str] = field(default_factory=dict)
    store: Store | None = None

    def start_servers(self) -> None:
        """`dev`, since the issuer is not https; it says its issuer and not its port when it is
        ready, so the port is chosen here."""
        self.addresses = [("127.0.0.1", _free_port()) for _ in range(self.plan.servers)]
        for host, port in self.addresses:
            bind = {"BIND": f"{host}:{port}"}
            name = f"server-{port}"
            server = start_server(self.installation, "dev", name=name, overrides=bind)
            self.servers.append(server)
        self.front.send_to(self.addresses)

    def kill_servers(self) -> None:
        for server in self.servers:
            server.kill()
        self.servers = []

    async def log_in(self, name: str) -> None:
        form = {
            "grant_type": "password",
            "client_id": CLIENT,
            "username": EMAIL,
            "password": PASSWORD,
        }
        connection = await Connection.open(self.addresses[0])
        try:
            answer = await connection.request(token_request(form))
        finally:
            connection.close()
        self.tokens[name] = answer.json()["access_token"]

    async def revoke(self, name: str) -> float:
        """By the command line, in a process of its own; when the database had it."""
        claims = jwt.decode(self.tokens[name], options={"verify_signature": False})
        committed = asyncio.create_task(self._wait_for_commit(claims["sid"]))
        arguments = ("session", "revoke", claims["sid"], "--json")
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "token_server",
            *arguments,
            cwd=self.installation.directory,
            env=self.installation.environ(),
            stdout=PIPE,
            stderr=PIPE,
        )
        _, errors = await asyncio.wait_for(process.communicate(), 60)
        if process.returncode != 0:
            committed.cancel()
            raise RuntimeError(f"session revoke: {errors.decode()}")
        return await committed

    async def _wait_for_commit(self, sid: str) -> float:
        assert self.store is not None
        while True:
            async with self.store.read() as connection:
                family = await families.find_session(connection, sid)
            if family is not None and family.revoked_at is not None:
                return time.time()
            await asyncio.sleep(COMMIT_POLL_S)

    @property
    def place(self) -> Place:
        return Place(self.front.url, AUDIENCE, self.plan.ttl_s, self.plan.fail_open_for_s)


async def run_drill(installation: Installation, plan: Plan) -> Figures:
    """Everything in turn; `problems` is empty when all that is promised held."""
    figures = Figures()
    async with _world(installation, plan) as world, AsyncExitStack() as stack:
        verifiers = []
        for kind in plan.kinds:
            verifier = await VerifierProcess.start(kind, world.place, world.tokens)
            stack.push_async_callback(verifier.stop)
            verifiers.append(verifier)
        for verifier in verifiers:
            refused = [name for name, (_, why) in verifier.fates.items() if why is not None]
            if refused:
                figures.problems.append(f"{verifier.kind}: refused from the start: {refused}")
        await _measure(world, verifiers, figures)
        await _restart(world, figures)
        await _cut_off(world, verifiers, figures)
    return figures


@asynccontextmanager
async def _world(installation: Installation, plan: Plan) -> AsyncIterator[World]:
    async with Front().serving() as front:
        settings = {"ISSUER": front.url, "STATUS_TTL": str(plan.ttl_s), "ACCESS_TOKEN_TTL": "3600"}
        installation = replace(installation, overrides={**installation.overrides, **settings})
        world = World(installation, front, plan)
        await asyncio.to_thread(world.start_servers)
        try:
            async with installation.runtime() as runtime:
                await add_user(runtime, NewUser(EMAIL, "Drill", Secret(PASSWORD)))
                grants = ("password", "refresh_token")
                new = NewClient(CLIENT, grants, audiences=(AUDIENCE,), is_public=True)
                await add_client(runtime, new)
                world.store = runtime.store
                for name in (WITNESS, "unseen", *map(str, range(plan.revocations))):
                    await world.log_in(name)
                yield world
        finally:
            world.kill_servers()


async def _measure(world: World, verifiers: list[VerifierProcess], figures: Figures) -> None:
    """One session after the other is revoked; each verifier refuses it in time."""
    plan, began_at, fetched = world.plan, time.time(), len(world.front.paths)
    verified = {verifier.kind: verifier.verified for verifier in verifiers}
    limit_s = plan.ttl_s + SLACK_S
    for number in range(plan.revocations):
        await asyncio.sleep(random.uniform(0, plan.ttl_s))  # noqa: S311 - a phase of the polls
        committed_at = await world.revoke(str(number))
        for verifier in verifiers:
            at = await verifier.wait_for(str(number), refused=True, timeout_s=limit_s + 5)
            latency_s = float("inf") if at is None else round(max(0.0, at - committed_at), 3)
            figures.latencies_s.setdefault(verifier.kind, []).append(latency_s)
            if latency_s > limit_s:
                figures.problems.append(f"{verifier.kind}: refused {latency_s} s after")
            if verifier.fates[WITNESS][1] is not None:
                figures.problems.append(f"{verifier.kind}: the witness was refused")
    figures.watched_s = round(time.time() - began_at, 1)
    figures.fetched = len(world.front.paths) - fetched
    for verifier in verifiers:
        figures.verified[verifier.kind] = verifier.verified - verified[verifier.kind]
    # Each verifier may ask for the list (and keys, and the names of the lists) once per ttl.
    allowed = len(verifiers) * 4 * (figures.watched_s / plan.ttl_s + 2)
    if figures.fetched > allowed:
        figures.problems.append(f"{figures.fetched} requests in {figures.watched_s} s")


async def _restart(world: World, figures: Figures) -> None:
    """kill -9, and a verifier that knows nothing: what was revoked stays revoked."""
    await world.revoke("unseen")
    world.kill_servers()
    await asyncio.to_thread(world.start_servers)
    for kind in world.plan.kinds:
        fresh = await VerifierProcess.start(kind, world.place, world.tokens)
        await asyncio.sleep(world.plan.ttl_s)
        alive = sorted(name for name, (_, why) in fresh.fates.items() if why is None)
        await fresh.stop()
        if alive != [WITNESS]:
            figures.problems.append(f"{kind}: accepted after a restart: {alive}")


async def _cut_off(world: World, verifiers: list[VerifierProcess], figures: Figures) -> None:
    """Without its server a verifier accepts for as long as it was told, then refuses; afterwards
    it goes on by itself."""
    plan = world.plan
    for verifier in verifiers:
        await verifier.wait_for(WITNESS, refused=False, timeout_s=10 * plan.ttl_s)
    cut_at = time.time()
    world.front.is_cut = True
    for verifier in verifiers:
        most_s = 2 * plan.ttl_s + plan.fail_open_for_s + SLACK_S
        at = await verifier.wait_for(WITNESS, refused=True, timeout_s=most_s + 5)
        accepted_s = float("inf") if at is None else round(at - cut_at, 3)
        figures.accepted_when_cut_s[verifier.kind] = accepted_s
        # Its last list may be one ttl old when it is cut off.
        if not plan.fail_open_for_s - plan.ttl_s - SLACK_S <= accepted_s <= most_s:
            figures.problems.append(f"{verifier.kind}: accepted for {accepted_s} s when cut off")
    world.front.is_cut = False
    for verifier in verifiers:
        if await verifier.wait_for(WITNESS, refused=False, timeout_s=10 * plan.ttl_s) is None:
            figures.problems.append(f"{verifier.kind}: still refuses after the cut")


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def as_text(figures: Figures, plan: Plan) -> str:
    """The figures, a line each."""
    lines = [f"ttl {plan.ttl_s} s, {plan.servers} server(s), {plan.revocations} revocations"]
    for kind, seconds in figures.latencies_s.items():
        ordered = sorted(seconds)
        lines.append(
            f"{kind}: refused after {ordered[len(ordered) // 2]:.3f} s (median),"
            f" {ordered[-1]:.3f} s (longest), allowed {plan.ttl_s + SLACK_S:.0f} s"
        )
        lines.append(
            f"{kind}: {figures.verified[kind]} verifications;"
            f" cut off, accepted for {figures.accepted_when_cut_s[kind]:.1f} s"
            f" (fail_open_for {plan.fail_open_for_s} s)"
        )
    lines.append(f"{figures.fetched} requests of all verifiers in {figures.watched_s} s")
    return "\n".join(lines)


def as_json(figures: Figures) -> dict[str, Any]:
    return asdict(figures)
