"""What a server, its database and the disk have spent, read from the kernel (proc(5), Linux).

Differences of two readings around a piece of work are its cost; whoever reads must see to it that
nothing else works on the same server meanwhile.
"""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.growth.loading import postgres, sqlite_path
from tests.support.process import ServerProcess


@dataclass(frozen=True, slots=True)
class Reading:
    """`written_bytes`: on SQLite what the server handed to the disk, on PostgreSQL its WAL."""

    main_cpu_s: float  # of the server's main thread, where the event loop runs
    workers_cpu_s: dict[int, float]  # of its other threads
    backends_cpu_s: dict[int, float]  # of PostgreSQL's processes; SQLite has none
    written_bytes: int

    @property
    def server_cpu_s(self) -> float:
        return self.main_cpu_s + sum(self.workers_cpu_s.values())

    @property
    def database_cpu_s(self) -> float:
        return sum(self.backends_cpu_s.values())

    @property
    def busiest_worker_s(self) -> float:
        """Of the thread that hashes, where passwords are hashed: nothing costs nearly as much."""
        return max(self.workers_cpu_s.values(), default=0.0)

    def since(self, before: "Reading") -> "Reading":
        """A thread or backend that is new has spent all of its time since."""
        return Reading(
            self.main_cpu_s - before.main_cpu_s,
            _differences(self.workers_cpu_s, before.workers_cpu_s),
            _differences(self.backends_cpu_s, before.backends_cpu_s),
            self.written_bytes - before.written_bytes,
        )


def _differences(now: Mapping[int, float], before: Mapping[int, float]) -> dict[int, float]:
    return {number: spent_s - before.get(number, 0.0) for number, spent_s in now.items()}


class Meter:
    """Reads one server process and its database."""

    def __init__(self, server: ServerProcess, database_url: str) -> None:
        self._pid = server.pid
        self._url = database_url

    async def read(self) -> Reading:
        """Opens a connection of its own for PostgreSQL: no part of what is measured."""
        if sqlite_path(self._url) is not None:
            return self._reading({}, _written_bytes(self._pid))
        async with postgres(self._url) as connection:
            written = await connection.fetchval("SELECT pg_current_wal_lsn() - '0/0'::pg_lsn")
            own = "SELECT pid FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
            backends = [row["pid"] for row in await connection.fetch(own)]
        return self._reading({pid: cpu_s(pid) for pid in backends}, int(written))

    def _reading(self, database: dict[int, float], written_bytes: int) -> Reading:
        workers = _threads(self._pid)
        return Reading(workers.pop(self._pid), workers, database, written_bytes)


def cpu_s(pid: int) -> float:
    """What all living threads of the process have spent on a CPU; 0 when there is none."""
    return sum(_threads(pid).values())


def _threads(pid: int) -> dict[int, float]:
    spent: dict[int, float] = {}
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # ended meanwhile
        for thread in Path(f"/proc/{pid}/task").iterdir():
            spent_ns = int((thread / "schedstat").read_text("ascii").split()[0])
            spent[int(thread.name)] = spent_ns / 1e9
    return spent


def resident_kib(pid: int) -> int:
    """VmRSS of the process."""
    for line in Path(f"/proc/{pid}/status").read_text("ascii").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise ValueError("no VmRSS")


def _written_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/io").read_text("ascii").splitlines():
        if line.startswith("write_bytes:"):
            return int(line.split()[1])
    raise ValueError("no write_bytes")
