"""What can happen to a SQLite database under a running server."""

import asyncio
import contextlib
import fcntl
import os
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.faults.outage.drill import Fault

STRACE = shutil.which("strace")


@dataclass
class SqliteFaults:
    """All faults of the database at `path`, which the process `pid` serves from."""

    path: Path
    pid: int
    is_small_disk: bool  # a file system of its own, which may be filled
    _stranger: sqlite3.Connection | None = None
    _tracer: asyncio.subprocess.Process | None = None
    _refilling: "asyncio.Task[None] | None" = None

    def all(self) -> list[Fault]:
        """Reads go on in all but the last one: nothing but writes may fail."""
        faults = [Fault("locked by another program", self._lock, self._unlock, is_total=False)]
        if self.is_small_disk:
            faults.append(Fault("disk full", self._fill, self._make_room, is_total=False))
        if STRACE is not None and os.geteuid() == 0:
            faults.append(Fault("fsync fails (EIO)", self._break_sync, self._detach, False))
            faults.append(Fault("write fails (EIO)", self._break_write, self._detach, False))
        faults.append(Fault("file moved away", self._move_away, self._move_back))
        return faults

    async def _lock(self) -> None:
        self._stranger = sqlite3.connect(self.path, isolation_level=None)
        self._stranger.execute("BEGIN IMMEDIATE")

    async def _unlock(self) -> None:
        assert self._stranger is not None
        self._stranger.execute("ROLLBACK")
        self._stranger.close()

    async def _fill(self) -> None:
        """Nothing is left, however little is asked for."""
        await asyncio.to_thread(self._empty_wal)
        await asyncio.to_thread(fill_disk, self._filler)
        self._refilling = asyncio.create_task(self._keep_full())

    def _empty_wal(self) -> None:
        """A WAL that has been longer has room for itself. In a write turn, as ours do it."""
        with (
            self.path.with_name(self.path.name + ".lock").open("ab") as turn,
            contextlib.closing(sqlite3.connect(self.path, isolation_level=None)) as connection,
        ):
            fcntl.flock(turn, fcntl.LOCK_EX)
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    async def _keep_full(self) -> None:
        while True:  # a checkpoint may give some of it back
            await asyncio.sleep(0.2)
            await asyncio.to_thread(fill_disk, self._filler)

    async def _make_room(self) -> None:
        assert self._refilling is not None
        self._refilling.cancel()
        await asyncio.gather(self._refilling, return_exceptions=True)
        self._filler.unlink()

    @property
    def _filler(self) -> Path:
        return self.path.with_name("filler")

    async def _break_sync(self) -> None:
        await self._inject("fdatasync,fsync")

    async def _break_write(self) -> None:
        await self._inject("pwrite64")

    async def _inject(self, calls: str) -> None:
        assert STRACE is not None
        paths = [f"--trace-path={self.path}{end}" for end in ("", "-wal")]
        what = ("-e", f"trace={calls}", "-e", f"inject={calls}:error=EIO", *paths)
        self._tracer = await asyncio.create_subprocess_exec(
            *(STRACE, "-f", "-qq", "-p", str(self.pid), "-o", "/dev/null", *what),
            stderr=asyncio.subprocess.DEVNULL,
        )
        status = Path(f"/proc/{self.pid}/status")
        deadline = time.monotonic() + 20
        while f"TracerPid:\t{self._tracer.pid}" not in status.read_text():
            assert time.monotonic() < deadline, "strace did not attach"
            await asyncio.sleep(0.05)

    async def _detach(self) -> None:
        assert self._tracer is not None
        self._tracer.terminate()
        await self._tracer.wait()

    async def _move_away(self) -> None:
        self.path.rename(self.path.with_name("elsewhere"))

    async def _move_back(self) -> None:
        self.path.with_name("elsewhere").rename(self.path)


def fill_disk(filler: Path) -> None:
    with contextlib.suppress(OSError), filler.open("ab", 0) as file:
        while True:
            file.write(b"x" * 4096)


@contextlib.contextmanager
def small_disk(directory: Path, size: str = "8m") -> Iterator[bool]:
    """A file system of its own in the new `directory`; False: not possible here."""
    directory.mkdir(mode=0o700)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=0700", "none", str(directory)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        yield False
        return
    try:
        yield True
    finally:
        subprocess.run(["umount", "--lazy", str(directory)], check=True)
