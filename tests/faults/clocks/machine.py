"""The clocks of one server process, in a file that the process and the test both map.

`python -m tests.faults.clocks.machine FILE COMMAND...` becomes the server: it replaces what
Python says the time is, and then runs the real `token-server`, which has no hook for it. uvloop's
timers go on in real time.
"""

import mmap
import os
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

_STATE = struct.Struct("ddd")
_REAL_WALL, _REAL_MONOTONIC = time.time, time.monotonic


class MachineClock:
    """Both clocks as offsets from the real ones; a wall clock may also stand still."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            path.write_bytes(bytes(_STATE.size))
        self.path = path
        descriptor = os.open(path, os.O_RDWR)
        self._shared = mmap.mmap(descriptor, _STATE.size)
        os.close(descriptor)

    def wall(self) -> float:
        offset, frozen_at, _ = self._read()
        return frozen_at or _REAL_WALL() + offset

    def monotonic(self) -> float:
        return _REAL_MONOTONIC() + self._read()[2]

    def step(self, wall_s: float, monotonic_s: float = 0.0) -> Self:
        """Set the wall clock, and with `monotonic_s` let time go by."""
        offset, frozen_at, monotonic = self._read()
        frozen_at = frozen_at + wall_s if frozen_at else 0.0
        self._write(offset + wall_s, frozen_at, monotonic + monotonic_s)
        return self

    def pass_time(self, seconds: float) -> None:
        """Both clocks, as if nothing had happened meanwhile."""
        self.step(seconds, seconds)

    def freeze(self) -> None:
        offset, _, monotonic = self._read()
        self._write(offset, _REAL_WALL() + offset, monotonic)

    def thaw(self) -> None:
        """Right again: as if it had never stood still."""
        offset, _, monotonic = self._read()
        self._write(offset, 0.0, monotonic)

    def set_to(self, instant: float) -> Self:
        return self.step(instant - self.wall())

    def wrapper(self) -> list[str]:
        """The beginning of a command that runs with these clocks (support/process.py)."""
        return [sys.executable, "-m", __name__, str(self.path)]

    def _read(self) -> tuple[float, float, float]:
        wall, frozen_at, monotonic = _STATE.unpack_from(self._shared)
        return wall, frozen_at, monotonic

    def _write(self, wall: float, frozen_at: float, monotonic: float) -> None:
        _STATE.pack_into(self._shared, 0, wall, frozen_at, monotonic)


def _replace(name: str, value: Callable[[], float]) -> None:
    setattr(time, name, value)


def _main() -> None:
    clock = MachineClock(Path(sys.argv[1]))
    _replace("time", clock.wall)
    _replace("monotonic", clock.monotonic)
    sys.argv = ["token-server", *sys.argv[sys.argv.index("token_server") + 1 :]]
    from token_server.__main__ import main  # only now: nothing may have read a clock before

    main()


if __name__ == "__main__":
    _main()
