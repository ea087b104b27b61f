"""Watches the event loop of a real server from inside its process, for `scripts/bench soak`.

`python -m scripts._loop_watch REPORT COMMAND...` becomes the server. A timer every few
milliseconds says how late it came, and how much CPU time of its own the loop's thread has used up
meanwhile: on a busy machine only the second tells of work that should be elsewhere. A thread notes
what the loop is at when it has used up too much, and the collector of garbage what it took.
The report is written at the end.
"""

import atexit
import gc
import json
import sys
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

INTERVAL_S = 0.005
LATE_S = 0.020
_FRAMES = 6


class LoopWatch:
    """One event loop, from its first beat on."""

    def __init__(self, report: Path) -> None:
        self._report = report
        self._cpu_clock = time.pthread_getcpuclockid(threading.get_ident())
        self._thread = threading.get_ident()
        self._loop: Any = None
        self._beat_at = self._cpu_at = self._collecting_cpu_s = 0.0
        self._beats = 0
        self._late: list[tuple[float, float, float]] = []  # instant, seconds, CPU seconds
        self._busy: list[tuple[float, str]] = []  # instant, stack
        self._collections: list[tuple[float, int, float]] = []  # instant, generation, CPU seconds

    def begin(self, loop: Any) -> None:
        self._loop = loop
        self._beat_at, self._cpu_at = time.perf_counter(), self._cpu_s()
        loop.call_later(INTERVAL_S, self._beat)
        threading.Thread(target=self._look, daemon=True).start()
        gc.callbacks.append(self._note_collection)
        atexit.register(self._write)

    def _beat(self) -> None:
        now, cpu = time.perf_counter(), self._cpu_s()
        took_s, cpu_s = now - self._beat_at - INTERVAL_S, cpu - self._cpu_at
        self._beats += 1
        if took_s > LATE_S:
            self._late.append((_now(), took_s, cpu_s))
        self._beat_at, self._cpu_at = now, cpu
        self._loop.call_later(INTERVAL_S, self._beat)

    def _look(self) -> None:
        seen_at = 0.0
        while True:
            time.sleep(INTERVAL_S)
            if self._cpu_at != seen_at and self._cpu_s() - self._cpu_at > LATE_S:
                seen_at = self._cpu_at
                stack = _stack(sys._current_frames().get(self._thread))
                self._busy.append((_now(), stack))

    def _cpu_s(self) -> float:
        return time.clock_gettime(self._cpu_clock)

    def _note_collection(self, phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            self._collecting_cpu_s = time.thread_time()
        else:
            took_s = time.thread_time() - self._collecting_cpu_s
            self._collections.append((_now(), info["generation"], took_s))

    def _write(self) -> None:
        figures = {
            "beats": self._beats,
            "late": self._late,
            "busy": self._busy,
            "collections": self._collections,
            "objects": len(gc.get_objects()),
            "frozen": gc.get_freeze_count(),
        }
        self._report.write_text(json.dumps(figures), encoding="utf-8")


def _now() -> float:
    return time.time()


def _stack(frame: FrameType | None) -> str:
    """The innermost frames, the last called last."""
    found: list[str] = []
    while frame is not None and len(found) < _FRAMES:
        place = "/".join(frame.f_code.co_filename.split("/")[-2:])
        found.append(f"{place}:{frame.f_lineno} {frame.f_code.co_name}")
        frame = frame.f_back
    return " < ".join(found)


def _main() -> None:
    watch = LoopWatch(Path(sys.argv[1]))
    sys.argv = ["token-server", *sys.argv[sys.argv.index("token_server") + 1 :]]
    import uvloop

    make = uvloop.new_event_loop

    def new_event_loop() -> Any:
        loop = make()
        loop.call_soon(watch.begin, loop)
        return loop

    uvloop.new_event_loop = new_event_loop
    from token_server.__main__ import main

    main()


if __name__ == "__main__":
    _main()
