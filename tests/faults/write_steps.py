"""What a process writes, as the kernel is asked for it: one step for each system call.

A step changes what outlives the process: a write to a database's file, its log or its socket, and
an answer on its way to a client. Writes that leave nothing behind are none: to the log of the
server, and to the pipes and eventfds by which threads wake each other.
"""

import os
import platform
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

_CALLS = {
    "x86_64": {
        1: "write",
        18: "pwrite64",
        20: "writev",
        44: "sendto",
        46: "sendmsg",
        74: "fsync",
        75: "fdatasync",
        76: "truncate",
        77: "ftruncate",
        82: "rename",
        87: "unlink",
        257: "openat",
        263: "unlinkat",
        264: "renameat",
        277: "sync_file_range",
        285: "fallocate",
        296: "pwritev",
        307: "sendmmsg",
        316: "renameat2",
        328: "pwritev2",
    },
    "aarch64": {
        35: "unlinkat",
        38: "renameat",
        45: "truncate",
        46: "ftruncate",
        47: "fallocate",
        56: "openat",
        64: "write",
        66: "writev",
        68: "pwrite64",
        70: "pwritev",
        82: "fsync",
        83: "fdatasync",
        84: "sync_file_range",
        206: "sendto",
        211: "sendmsg",
        269: "sendmmsg",
        276: "renameat2",
        287: "pwritev2",
    },
}
CALLS = _CALLS.get(platform.machine(), {})
_AT_PATH = {"openat": 1, "unlinkat": 1, "renameat": 3, "renameat2": 3}  # which argument it is
_PATH = {"unlink": 0, "rename": 1, "truncate": 0}
_SENDING = ("write", "sendto")  # whose third argument is a number of bytes
_STDOUT = 1
_PAGE = 4096


@dataclass(frozen=True, slots=True)
class Call:
    """One system call of one process, about to begin."""

    pid: int
    number: int
    arguments: tuple[int, ...]


def step_of(call: Call, ports: Collection[int] = ()) -> str | None:
    """The name of the step that this call is, or None. `ports` are those on which the process
    listens: what goes out by one of them is an answer. Raises PermissionError where that is not
    ours to see."""
    name = CALLS.get(call.number)
    if name is None:
        return None
    if name in _PATH or name in _AT_PATH:
        return _step_at_path(call, name)
    target = _target(call, name, ports)
    return None if target is None else f"{name} {target}"


def _target(call: Call, name: str, ports: Collection[int]) -> str | None:
    """What the call's descriptor leads to; None for what leaves nothing behind."""
    descriptor = call.arguments[0]
    try:
        target = os.readlink(f"/proc/{call.pid}/fd/{descriptor}")  # noqa: PTH115 - no real path
    except FileNotFoundError:  # a bad descriptor: the call will fail
        return None
    if target.startswith("socket:"):
        # asyncio wakes its loop by a byte through a pair of sockets.
        is_wake_up = name in _SENDING and call.arguments[2] == 1
        return None if is_wake_up else _peer(target[8:-1], ports)
    if target.startswith("pipe:"):
        return "answer" if descriptor == _STDOUT else None
    if not target.startswith("/") or target.startswith("/dev/") or target.endswith(".log"):
        return None
    return _short(target)


def _step_at_path(call: Call, name: str) -> str | None:
    position = _PATH[name] if name in _PATH else _AT_PATH[name]
    path = _read_path(call.pid, call.arguments[position])
    if path.startswith(("/dev/", "/proc/")) or "__pycache__" in path:
        return None
    if name == "openat" and (not call.arguments[2] & os.O_CREAT or Path(path).exists()):
        return None
    return f"{name} {_short(path)}"


def _read_path(pid: int, address: int) -> str:
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:  # noqa: PTH123 - no file
        memory.seek(address)
        page_end = _PAGE - address % _PAGE  # the next page may not be there
        text = memory.read(page_end)
        if b"\0" not in text:
            text += memory.read(_PAGE)
        return os.fsdecode(text.partition(b"\0")[0])


def _short(path: str) -> str:
    """The same name for the same file of every run."""
    if "/pg_wal/" in path:
        return "pg_wal"
    name = "directory" if Path(path).is_dir() else Path(path).name
    return "table" if "/base/" in path else name


def _peer(inode: str, ports: Collection[int]) -> str:
    # Our own table: we share the network, and the thread that is looked at may be gone.
    for table in (Path("/proc/self/net/tcp"), Path("/proc/self/net/tcp6")):
        for line in table.read_text("ascii").splitlines() if table.exists() else ():
            fields = line.split()
            if fields[9] == inode:
                port = int(fields[1].rpartition(":")[2], 16)
                return "answer" if port in ports else "database"
    return "database"  # over a Unix socket
