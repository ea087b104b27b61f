"""What scripts/_loop_watch.py found in a server, for `scripts/bench soak --watch-loop`."""

import json
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts._loop_watch import LATE_S

_STACKS_SHOWN = 12


@dataclass(frozen=True, slots=True)
class Watch:
    """A server that was started with `wrapper` leaves its report when it ends."""

    report: Path

    @property
    def wrapper(self) -> list[str]:
        return [sys.executable, "-m", "scripts._loop_watch", str(self.report)]

    def read(self) -> dict[str, Any]:
        figures = json.loads(self.report.read_text(encoding="utf-8"))
        if not isinstance(figures, dict):
            raise TypeError("not a report of the loop")
        return figures


def loop_watch(directory: Path) -> Watch:
    return Watch(directory / "loop.json")


def loop_text(figures: dict[str, Any], begun_at: float, ended_at: float) -> list[str]:
    """Of what happened between two instants: starts and stops have all the time that they need."""

    def between(name: str) -> list[list[Any]]:
        return [each for each in figures[name] if begun_at <= each[0] <= ended_at]

    late = [took_s for _, took_s, _ in between("late")]
    busy = [cpu_s for _, _, cpu_s in between("late") if cpu_s > LATE_S]
    full = [cpu_s for _, generation, cpu_s in between("collections") if generation == 2]
    stacks = Counter(stack for _, stack in between("busy"))
    limit = f"{LATE_S * 1000:.0f} ms"
    late_text = (
        f"event loop: {len(late)} of {figures['beats']:,} timers more than {limit} late,"
        f" {1000 * max(late, default=0):.0f} ms at most"
    )
    busy_text = (
        f"of them {len(busy)} with more than {limit} of CPU time of its own,"
        f" {1000 * max(busy, default=0):.0f} ms at most"
    )
    full_text = (
        f"{len(full)} full collections, {1000 * max(full, default=0):.0f} ms of CPU time at most;"
        f" {figures['objects']:,} objects, {figures['frozen']:,} frozen"
    )
    where = [f"{count} x busy at {stack}" for stack, count in stacks.most_common(_STACKS_SHOWN)]
    return [late_text, busy_text, full_text, *where]
