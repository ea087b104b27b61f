"""What can happen to a PostgreSQL database and to the way there."""

import asyncio
import contextlib
import os
import signal
from dataclasses import dataclass, field

import asyncpg

from tests.faults.outage.cluster import Cluster
from tests.faults.outage.drill import Fault
from tests.faults.outage.link import Link


@dataclass
class PostgresFaults:
    """All faults of a primary with one standby behind a link."""

    primary: Cluster
    standby: Cluster
    link: Link
    _strangers: list["asyncpg.Connection"] = field(default_factory=list)

    def all(self) -> list[Fault]:
        """The one that is left for last ends with the standby as the primary."""
        return [
            Fault("stopped (-m immediate)", self._stop, self._start),
            Fault("frozen (SIGSTOP)", self._freeze, self._thaw),
            Fault("link cut in silence", self._cut, self._mend),
            Fault("read-only", self._make_read_only, self._make_writable, is_total=False),
            # Connections that are open go on: some requests are answered.
            Fault("no connection free", self._exhaust, self._release, False, False),
            Fault("failed over, promoted late", self._switch, self._promote, is_total=False),
        ]

    def named(self, name: str) -> Fault:
        return next(fault for fault in self.all() if name in fault.name)

    def momentary(self) -> list[Fault]:
        """Over as soon as they happen."""
        return [
            Fault("restarted (-m fast)", self._restart, _nothing, False, False),
            Fault("a backend killed (SIGKILL)", self._kill_backend, _nothing, False, False),
            Fault("all backends terminated", self._terminate, _nothing, False, False),
        ]

    async def _stop(self) -> None:
        await asyncio.to_thread(self.primary.stop, "immediate")

    async def _start(self) -> None:
        await asyncio.to_thread(self.primary.start)

    async def _restart(self) -> None:
        await asyncio.to_thread(self.primary.stop, "fast")
        await asyncio.to_thread(self.primary.start)

    async def _freeze(self) -> None:
        self.primary.freeze()

    async def _thaw(self) -> None:
        self.primary.thaw()

    async def _cut(self) -> None:
        self.link.cut()

    async def _mend(self) -> None:
        self.link.mend()

    async def _make_read_only(self) -> None:
        await self.execute("ALTER SYSTEM SET default_transaction_read_only = on")
        await self.execute("SELECT pg_reload_conf()")

    async def _make_writable(self) -> None:
        await self.execute(
            "SET default_transaction_read_only = off",
            "ALTER SYSTEM RESET default_transaction_read_only",
        )
        await self.execute("SELECT pg_reload_conf()")

    async def _exhaust(self) -> None:
        """Strangers take every connection; some of the server's are ended to make it need one."""
        with contextlib.suppress(asyncpg.TooManyConnectionsError):
            while True:
                self._strangers.append(await asyncpg.connect(self.primary.url))
        await self._strangers[0].execute(_TERMINATE + " ORDER BY random() LIMIT 5")
        with contextlib.suppress(asyncpg.TooManyConnectionsError):
            while True:
                self._strangers.append(await asyncpg.connect(self.primary.url))

    async def _release(self) -> None:
        for stranger in self._strangers:
            await stranger.close()
        self._strangers.clear()

    async def _switch(self) -> None:
        await self._stop()
        self.link.target = ("127.0.0.1", self.standby.port)

    async def _promote(self) -> None:
        await asyncio.to_thread(self.standby.promote)

    async def _kill_backend(self) -> None:
        """PostgreSQL ends all other backends as well, and recovers."""
        connection = await asyncpg.connect(self.primary.url)
        try:
            found = "application_name = 'token-server' AND backend_type = 'client backend'"
            pid = await connection.fetchval(
                f"SELECT pid FROM pg_stat_activity WHERE {found} LIMIT 1"  # noqa: S608
            )
        finally:
            await connection.close()
        os.kill(pid, signal.SIGKILL)

    async def _terminate(self) -> None:
        await self.execute(_TERMINATE)

    async def execute(self, *statements: str) -> None:
        connection = await asyncpg.connect(self.primary.url)
        try:
            for statement in statements:
                await connection.execute(statement)
        finally:
            await connection.close()


_TERMINATE = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'token-server'"
)


async def _nothing() -> None:
    pass
