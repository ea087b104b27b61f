"""`scripts/bench profile SCENARIO`: where the CPU time of one request goes, by function.

py-spy samples the stacks of a real server under load from outside (cProfile inside would measure
mostly itself, and sees nothing of the loop's C code). What a request costs is measured before,
undisturbed; the kernel says which thread used how much of that, and the samples divide it: py-spy
takes some sleeping threads for working ones, and costs them time by looking. Native work (a
signature, a system call) counts to the Python function that called it. Needs root: the server
keeps its memory closed to others.
"""

import argparse
import asyncio
import json
import os
import subprocess
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import uvloop

from scripts import _bench_proc as proc
from scripts._bench_load import Window, run_window
from scripts._bench_scenarios import SCENARIOS, Ask
from scripts._bench_targets import PLANS, Cores, Target, running_targets
from token_server.logs import configure_logging

PY_SPY = Path(".venv/profile/bin/py-spy")
WARM_UP_S = 0.5
_ATTACH_S = 1.0  # that py-spy takes to find its way into the process
_MOST_PER_S = 4000
LEAST_SESSIONS = 16  # so that questions are about different ones
NO_FRAME = "no Python frame"
UNSEEN = "a thread that was never seen at work"


@dataclass(frozen=True, slots=True)
class Line:
    """Of one function, or of one part of the program: µs of CPU per request."""

    name: str
    own_us: float
    total_us: float  # with all that it called


@dataclass(frozen=True, slots=True)
class Profile:
    scenario: str
    target: str
    connections: int
    cpu_us: float  # of one request, undisturbed
    samples: int
    functions: list[Line]
    parts: list[Line]


Stacks = Sequence[tuple[list[str], float]]  # frames from the outermost on, and µs per request


def read_stacks(folded: str) -> dict[int, list[tuple[list[str], int]]]:
    """py-spy's raw form by thread id: `thread (ID): NAME;FRAME;FRAME COUNT`."""
    stacks: dict[int, list[tuple[list[str], int]]] = {}
    for line in folded.splitlines():
        text, _, count = line.rpartition(" ")
        thread, *frames = [frame for frame in text.split(";") if not frame.startswith("process ")]
        number = int(thread.partition("(")[2].partition(")")[0])
        stacks.setdefault(number, []).append((frames or [NO_FRAME], int(count)))
    return stacks


def weigh(
    stacks: dict[int, list[tuple[list[str], int]]], used: dict[int, float], cpu_us: float
) -> Stacks:
    """Divide `cpu_us` among the threads as they `used` CPU, and within each by its samples."""
    total = sum(used.values())
    weighed: list[tuple[list[str], float]] = []
    for thread, seconds in used.items():
        own = stacks.get(thread) or [([UNSEEN], 1)]
        samples = sum(count for _, count in own)
        thread_us = cpu_us * seconds / total
        weighed += [(frames, thread_us * count / samples) for frames, count in own]
    return weighed


def sum_up(stacks: Stacks) -> list[Line]:
    """A line for each frame, the dearest by their own time first."""
    own: defaultdict[str, float] = defaultdict(float)
    total: defaultdict[str, float] = defaultdict(float)
    for frames, us in stacks:
        own[frames[-1]] += us
        for frame in set(frames):
            total[frame] += us
    lines = [Line(name, own[name], total[name]) for name in total]
    return sorted(lines, key=lambda line: (line.own_us, line.total_us), reverse=True)


def part_of(frame: str) -> str:
    """The library a frame `name (path:line)` is from, or the layer of our own package."""
    if frame in (NO_FRAME, UNSEEN):
        return frame
    path = frame.rpartition("(")[2].rstrip(")").rpartition(":")[0] or frame.rpartition("(")[2]
    names = path.split("/")
    if "token_server" in names:
        return "/".join(names[names.index("token_server") :][:2])
    return names[0] if len(names) > 1 else f"Python ({names[0]})"


async def _profile(target: Target, options: argparse.Namespace) -> Profile:
    world = target.world
    if world is None:
        raise RuntimeError("the bare handler has no profile")
    await world.register(sessions=max(LEAST_SESSIONS, options.connections))
    await world.look(target.address)
    before = proc.thread_cpu_s(target.pids())
    undisturbed = await _window(target, options, options.seconds)
    after = proc.thread_cpu_s(target.pids())
    used = {thread: cpu_s - before.get(thread, 0.0) for thread, cpu_s in after.items()}
    with tempfile.TemporaryDirectory() as directory:
        output = Path(directory) / "stacks"
        window = _window(target, options, options.seconds + _ATTACH_S)
        _, folded = await asyncio.gather(window, _record(target, options, output))
    sampled = read_stacks(folded)
    cpu_us = 1e6 * undisturbed.server[0] / undisturbed.count
    stacks = weigh(sampled, {thread: cpu_s for thread, cpu_s in used.items() if cpu_s}, cpu_us)
    return Profile(
        options.scenario,
        target.plan.name,
        options.connections,
        cpu_us,
        sum(count for own in sampled.values() for _, count in own),
        sum_up(stacks),
        sum_up([([part_of(frame) for frame in frames], us) for frames, us in stacks]),
    )


async def _window(target: Target, options: argparse.Namespace, seconds: float) -> Window:
    if target.world is None:
        raise RuntimeError("the bare handler has no profile")
    ask = Ask(options.connections, int(_MOST_PER_S * (seconds + WARM_UP_S)))
    talks = await SCENARIOS[options.scenario].make(target.world, ask)
    server = proc.CpuMeter(target.pids())
    return await run_window(target.address, talks, (WARM_UP_S, seconds), lambda: (server.read(),))


async def _record(target: Target, options: argparse.Namespace, output: Path) -> str:
    """What py-spy wrote."""
    await asyncio.sleep(WARM_UP_S)
    command = [
        *(str(PY_SPY), "record", "--pid", str(target.pid), "--subprocesses", "--function"),
        *(
            "--threads",
            "--format",
            "raw",
            "--rate",
            str(options.rate),
            "--duration",
            str(int(options.seconds)),
        ),
        *("--output", str(output)),
    ]
    process = await asyncio.create_subprocess_exec(
        *command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    said, _ = await process.communicate()
    if process.returncode != 0:
        raise RuntimeError(f"py-spy could not look into the server: {said.decode()[-500:]}")
    return await asyncio.to_thread(output.read_text, "utf-8")


def _table(profile: Profile, top: int) -> str:
    head = (
        f"{profile.scenario}, {profile.target}, {profile.connections} connections:"
        f" {profile.cpu_us:.0f} µs of CPU per request; {profile.samples} samples"
    )
    lines = [head]
    for title, found in (("function", profile.functions), ("part", profile.parts)):
        lines += ["", f"| {title} | own µs | share | with callees µs |", "|---|---|---|---|"]
        lines += [
            f"| `{line.name}` | {line.own_us:.1f} | {line.own_us / profile.cpu_us:.1%}"
            f" | {line.total_us:.1f} |"
            for line in found[:top]
        ]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench profile", description=__doc__)
    parser.add_argument("scenario", choices=SCENARIOS)
    names = [name for name, plan in PLANS.items() if plan.kind != "bare" and not plan.is_wide]
    parser.add_argument("--target", choices=names, default="sqlite")
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rate", type=int, default=400, help="samples per second")
    parser.add_argument("--top", type=int, default=25, help="lines of each table")
    parser.add_argument("--json", type=Path, metavar="FILE", help="all lines")
    options = parser.parse_args()
    configure_logging("console", "warning")
    cores = Cores.of_this_machine()
    os.sched_setaffinity(0, cores.load)
    with running_targets([PLANS[options.target]], cores) as [target]:
        profile = uvloop.run(_profile(target, options))
    print(_table(profile, options.top))
    if options.json is not None:
        options.json.write_text(json.dumps(asdict(profile), indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
