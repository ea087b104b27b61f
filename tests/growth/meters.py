"""What a server, its database and the disk have spent, read from the kernel (proc(5), Linux).

Differences of two readings around a piece of work are its cost; whoever reads must see to it that
nothing else works on the same server meanwhile.
"""

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

from tests.growth.loading import postgres, sqlite_path
from tests.support.process import ServerProcess


@dataclass(frozen=True, slots=True)
class Reading:
    """`written_bytes`: on SQLite what the server handed to the disk, on PostgreSQL its WAL."""

    main_cpu_s: float  # of the server's main thread, where the event loop runs
    workers_cpu_s: dict[int, float]  # of its other threads
    database_cpu_s: float  # of all processes of PostgreSQL; 0 for SQLite, which has none
    written_bytes: int

    @property
    def server_cpu_s(self) -> float:
        return self.main_cpu_s + sum(self.workers_cpu_s.values())

    @property
    def busiest_worker_s(self) -> float:
        """Of the thread that hashes, where passwords are hashed: nothing costs nearly as much."""
        return max(self.workers_cpu_s.values(), default=0.0)

    def since(self, before: "Reading") -> "Reading":
        """A thread that is new has spent all of its time since."""
        workers = {
            thread: spent_s - before.workers_cpu_s.get(thread, 0.0)
            for thread, spent_s in self.workers_cpu_s.items()
        }
        return Reading(
            self.main_cpu_s - before.main_cpu_s,
            workers,
            self.database_cpu_s - before.database_cpu_s,
            self.written_bytes - before.written_bytes,
        )


class Meter:
    """Reads one server process and its database."""

    def __init__(self, server: ServerProcess, database_url: str) -> None:
        self._pid = server.pid
        self._url = database_url

    async def read(self) -> Reading:
        """Opens a connection of its own for PostgreSQL: no part of what is measured."""
        if sqlite_path(self._url) is not None:
            return self._reading(0.0, _written_bytes(self._pid))
        async with postgres(self._url) as connection:
            written = await connection.fetchval("SELECT pg_current_wal_lsn() - '0/0'::pg_lsn")
            backend = await connection.fetchval("SELECT pg_backend_pid()")
        return self._reading(sum(map(cpu_s, _siblings(backend))), int(written))

    def _reading(self, database_cpu_s: float, written_bytes: int) -> Reading:
        workers = _threads(self._pid)
        return Reading(workers.pop(self._pid), workers, database_cpu_s, written_bytes)


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


def _siblings(backend: int) -> list[int]:
    """All processes of the PostgreSQL server, by one of its backends; none when it runs elsewhere.
    A backend that has just ended has taken its share with it: its parent's pid is not known."""
    postmaster = _parent(backend)
    if postmaster is None:
        return []
    pids = [int(name) for name in os.listdir("/proc") if name.isdecimal()]  # noqa: PTH208 - names
    return [pid for pid in pids if _parent(pid) == postmaster]


def _parent(pid: int) -> int | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text("ascii", "replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    return int(stat.rpartition(")")[2].split()[1])
