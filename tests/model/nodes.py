"""The servers that the model is held against: the product's own hosting on real ports, a real
database, and clocks that stand still (clock.py).

All of it runs in one event loop in a thread of its own; the steps of a test come from another
thread, one at a time (`World.run`).
"""

import asyncio
import base64
import contextlib
import gc
import os
import threading
from collections.abc import Coroutine, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest

from tests.model.clock import ExpectedClock, MachineTime
from tests.model.state import ABSOLUTE_TTL_S, ACCESS_TTL_S, IDLE_TTL_S, SKEW_S
from tests.support.load import Connection, Reply, get_request
from tests.support.server import make_settings
from token_server import runtime as runtime_module
from token_server.app import create_app
from token_server.config import Settings
from token_server.runtime import Runtime, SystemClock, open_runtime
from token_server.services.health import Readiness
from token_server.services.key_upkeep import KeyUpkeep
from token_server.web.draining import Drain
from token_server.web.health import create_management_app, health_handlers
from token_server.web.server import Hosting, StopSignal, open_listeners, serve_app, traffic_of

T = TypeVar("T")
ACTORS = 2
APART_S = 4  # the second server's machine is ahead, by less than CLOCK_SKEW
STEP_TIMEOUT_S = 60


class ClockApart(SystemClock):
    """The product's clock, on a machine that is ahead of the other one."""

    def __init__(self, apart_s: int) -> None:
        super().__init__(SKEW_S)
        self._apart_s = apart_s

    def now(self) -> int:
        return super().now() + self._apart_s


@dataclass(slots=True)
class Node:
    """One server: its runtime, for what operators do, and a connection for each actor."""

    settings: Settings
    clock: ExpectedClock
    runtime: Runtime = field(init=False)
    keeper: KeyUpkeep = field(init=False)
    connections: list[Connection] = field(default_factory=list)
    _stop: StopSignal = field(init=False)
    _task: "asyncio.Task[None]" = field(init=False)

    async def start(self) -> None:
        self.clock.furthest_ms = self.clock.machine.offset_ms
        self._stop = StopSignal()
        ready: asyncio.Future[tuple[str, int]] = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._serve(ready))
        waiting: set[asyncio.Future[Any]] = {self._task, ready}
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        if self._task.done():
            self._task.result()
        address = ready.result()
        self.connections = [await Connection.open(address) for _ in range(ACTORS)]

    async def stop(self) -> None:
        """As SIGTERM does it: what runs is finished, nothing is lost."""
        for connection in self.connections:
            connection.close()
        self._stop.ask("restart")
        await self._task

    async def tick(self) -> None:
        """What a serving process does for its keys every half a second."""
        await self.keeper.tick()

    async def request(self, actor: int, request: bytes) -> Reply:
        return await self.connections[actor].request(request)

    async def get(self, path: str) -> Reply:
        return await self.request(0, get_request(path))

    async def _serve(self, ready: "asyncio.Future[tuple[str, int]]") -> None:
        listeners = open_listeners(self.settings)
        clock = ClockApart(self.clock.apart_s)
        async with open_runtime(self.settings, clock=clock) as runtime:
            self.runtime, self.keeper = runtime, KeyUpkeep(runtime)
            await self.keeper.start()
            readiness = Readiness(runtime)
            hosting = Hosting(
                public_app=create_app(runtime, health_handlers(readiness)),
                management_app=create_management_app(runtime, readiness),
                readiness=readiness,
                listeners=listeners,
                drain=Drain(0, 5, idle_s=0),
                traffic=traffic_of(runtime),
            )
            host, _, port = listeners.public_address.rpartition(":")
            await serve_app(
                hosting, self._stop, on_listening=lambda: ready.set_result((host, int(port)))
            )


@dataclass(slots=True)
class World:
    """The machine's time, and the servers on one database."""

    machine: MachineTime
    nodes: list[Node]
    _loop: asyncio.AbstractEventLoop

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Do one step in the servers' loop; called from another thread."""
        future: Future[T] = asyncio.run_coroutine_threadsafe(work, self._loop)
        return future.result(STEP_TIMEOUT_S)

    async def restart(self, which: int) -> None:
        await self.nodes[which].stop()
        await self.nodes[which].start()

    def set_clock(self, *, forward_ms: int = 0, offset_ms: int | None = None) -> None:
        """Let time pass, or set the wall clock; every server looks at once."""
        self.machine.uptime_ms += forward_ms
        if offset_ms is not None:
            self.machine.offset_ms = offset_ms
        for node in self.nodes:
            node.runtime.clock.now()
            node.clock.notice()


@contextlib.contextmanager
def running_world(database_url: str, directory: Path) -> Iterator[World]:
    """One server on SQLite; two on PostgreSQL, with their keys in the database as well."""
    machine, loop = MachineTime(), asyncio.new_event_loop()
    count = 1 if database_url.startswith("sqlite") else 2
    settings = make_settings(
        database_url,
        directory,
        bind="127.0.0.1:0",
        management_bind="127.0.0.1:0",
        key_store="directory" if count == 1 else "database",
        access_token_ttl_s=ACCESS_TTL_S,
        refresh_idle_ttl_s=IDLE_TTL_S,
        refresh_absolute_ttl_s=ABSOLUTE_TTL_S,
        clock_skew_s=SKEW_S,
        key_rotate_every_s=3650 * 86400,  # only when a step says so: a new key takes 0.1 s
        log_level="error",
    )
    nodes = [Node(settings, ExpectedClock(machine, APART_S * number)) for number in range(count)]
    world = World(machine, nodes, loop)
    thread = threading.Thread(target=loop.run_forever)
    if count > 1:  # the database never makes it by itself
        _write_master_key(settings.master_key_file)
    with pytest.MonkeyPatch.context() as patch, contextlib.closing(loop):
        patch.setattr(runtime_module, "time", machine)
        thread.start()
        try:
            world.run(_start(nodes))
            yield world
            world.run(_stop(nodes))
        finally:
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            gc.unfreeze()  # a server process has only one life; here others follow


def _write_master_key(path: Path) -> None:
    path.parent.mkdir(mode=0o700, exist_ok=True)
    path.write_bytes(base64.b64encode(os.urandom(32)) + b"\n")
    path.chmod(0o600)


async def _start(nodes: list[Node]) -> None:
    for node in nodes:  # one after the other: the first makes the keys
        await node.start()


async def _stop(nodes: list[Node]) -> None:
    for node in nodes:
        await node.stop()
