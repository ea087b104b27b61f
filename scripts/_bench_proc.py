"""What a process costs, its threads and children with it: CPU time and memory, from proc(5).

CPU time is read in nanoseconds from `schedstat` where the kernel has it, else in ticks of 10 ms.
A thread that ended takes its time along, so readings belong around spans in which none does.
"""

import contextlib
import os
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_KIB_PER_MIB = 1024
_GONE = (FileNotFoundError, ProcessLookupError)


def tree_of(pid: int) -> list[int]:
    """The process and all that descends from it, as it is now."""
    found, index = [pid], 0
    while index < len(found):
        found += _children(found[index])
        index += 1
    return found


class CpuMeter:
    """User and system time of these processes, all their threads."""

    def __init__(self, pids: list[int]) -> None:
        self._seconds = dict.fromkeys(pids, 0.0)

    def read(self) -> float:
        """Seconds so far. Of a process that has ended, what was read last: PostgreSQL's helpers
        come and go."""
        for pid in self._seconds:
            with contextlib.suppress(*_GONE):
                self._seconds[pid] = _cpu_s(pid)
        return sum(self._seconds.values())


def thread_cpu_s(pids: list[int]) -> dict[int, float]:
    """User and system time of each thread of these processes, by its id."""
    times = {}
    for pid in pids:
        for task in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(*_GONE):  # it has just ended
                fields = (task / "schedstat").read_text("ascii").split()
                times[int(task.name)] = int(fields[0]) / 1e9
    return times


def rss_mib(pids: list[int]) -> float:
    """Resident memory, added up; what processes share counts once for each."""
    return sum(_status_kib(pid, "VmRSS") for pid in pids) / _KIB_PER_MIB


def parent_of(pid: int) -> int:
    return int(_stat(pid)[1])


def command_of(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_text("utf-8").strip()


def _children(pid: int) -> list[int]:
    children: list[int] = []
    with contextlib.suppress(*_GONE):
        for task in Path(f"/proc/{pid}/task").iterdir():
            children += map(int, (task / "children").read_text("ascii").split())
    return children


def _cpu_s(pid: int) -> float:
    total = 0
    for task in os.listdir(f"/proc/{pid}/task"):  # noqa: PTH208 - a path for each costs more
        try:
            with open(f"/proc/{pid}/task/{task}/schedstat", "rb") as file:  # noqa: PTH123
                total += int(file.read().split()[0])
        except _GONE:  # an old kernel, or the thread has just ended
            return _ticks_s(pid)
    return total / 1e9


def _ticks_s(pid: int) -> float:
    fields = _stat(pid)
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


def _stat(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()


def _status_kib(pid: int, name: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text("utf-8").splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1])
    return 0
