"""Interleaved rounds: each runs every cell once, briefly, in random order, between two floors.

A cell is a server, a scenario and a number of connections. What neighbours on the machine take
then falls on all cells alike, and each is compared with the floor and the bare handler of its own
round. A window that fails is reported and gives no sample.
"""

import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from scripts._bench_load import LoadError, Talk, Window, run_window
from scripts._bench_proc import CpuMeter
from scripts._bench_scenarios import SCENARIOS, Ask, Floor, bare_token
from scripts._bench_targets import Cost, FloorMeter, Target

BARE = "bare"
BARE_SCENARIO = "bare token"
# What two cores change: signing runs beside the event loop, hashing anyway.
WIDE_SCENARIOS = ("client_credentials", "refresh")
MOST_PER_S = 4000  # revocations for which sessions are laid in before a first window
_HEADROOM = 1.5


class Cell(NamedTuple):
    target: str
    scenario: str
    connections: int


@dataclass(frozen=True, slots=True)
class Sample:
    """One window. Costs are CPU-ms per request of the server with all its processes."""

    round: int
    per_s: float
    p50_ms: float
    p99_ms: float
    cpu_ms: float
    database_cpu_ms: float | None
    cores: float  # that the server used
    load_cores: float  # that the load generator used: near 1 it is what limits the rate
    floor_per_s: float
    floor_cpu_ms: float


@dataclass(frozen=True, slots=True)
class Options:
    """Times in seconds. No `only` is all scenarios."""

    rounds: int
    window_s: float
    warm_up_s: float
    connections: tuple[int, ...]
    only: frozenset[str] = frozenset()


@dataclass(slots=True)
class Results:
    cells: list[Cell] = field(default_factory=list)  # in the order in which they are shown
    samples: dict[Cell, list[Sample]] = field(default_factory=dict)
    floors: dict[str, list[Cost]] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)


def cells_of(targets: Sequence[Target], options: Options) -> list[Cell]:
    """Everything that is measured in each round."""
    found = []
    for target in targets:
        name = target.plan.name
        if target.world is None:
            found += [Cell(name, BARE_SCENARIO, count) for count in options.connections]
            continue
        for scenario in SCENARIOS.values():
            is_left_out = target.plan.is_wide and (
                scenario.floor == "hash"
                or (target.plan.workers == 1 and scenario.name not in WIDE_SCENARIOS)
            )
            if is_left_out or (options.only and scenario.name not in options.only):
                continue
            counts = {min(count, scenario.most) for count in options.connections}
            found += [Cell(name, scenario.name, count) for count in sorted(counts)]
    return found


async def run_rounds(targets: Sequence[Target], meter: FloorMeter, options: Options) -> Results:
    """The samples of all cells; their order within a round is random."""
    cells = cells_of(targets, options)
    results = Results(cells)
    by_name = {target.plan.name: target for target in targets}
    progress = _progress(options.rounds * len(cells))
    for number in range(options.rounds):
        for target in targets:
            if target.world is not None:
                await target.world.look(target.address)
        order = random.sample(cells, len(cells))
        before: dict[Floor, Cost] = {}
        for cell in order:
            progress(number, cell)
            runner = _Runner(by_name[cell.target], meter, options, results)
            before = await runner.run(number, cell, before)
    progress(options.rounds, None)
    return results


@dataclass(slots=True)
class _Runner:
    """One cell in one round."""

    target: Target
    meter: FloorMeter
    options: Options
    results: Results

    async def run(self, number: int, cell: Cell, before: dict[Floor, Cost]) -> dict[Floor, Cost]:
        """`before` holds the floors that were just measured; returns those after the window."""
        scenario = SCENARIOS.get(cell.scenario)
        floor: Floor = "signature" if scenario is None else scenario.floor
        window_s = self.options.window_s * (1 if scenario is None else scenario.stretch)
        try:
            talks = await self._talks(cell, window_s)
        except LoadError as error:
            self.results.failures.append(f"round {number}, {cell}: {error}")
            return {}
        early = before.get(floor) or self._floor(floor)
        server, database = CpuMeter(self.target.pids()), CpuMeter(self.target.database_pids())
        try:
            window = await run_window(
                self.target.address,
                talks,
                (self.options.warm_up_s, window_s),
                lambda: (server.read(), database.read()),
            )
        except (LoadError, OSError) as error:
            self.results.failures.append(f"round {number}, {cell}: {error}")
            return {}
        late = self._floor(floor)
        has_database = self.target.database_pid is not None
        sample = _sample(number, window, (early, late), has_database=has_database)
        self.results.samples.setdefault(cell, []).append(sample)
        return {floor: late}

    async def _talks(self, cell: Cell, window_s: float) -> Sequence[Talk]:
        seconds = window_s + self.options.warm_up_s
        known = self.results.samples.get(cell)
        rate = MOST_PER_S if not known else _HEADROOM * max(sample.per_s for sample in known)
        ask = Ask(cell.connections, int(rate * seconds) + cell.connections)
        if self.target.world is None:
            return await bare_token(ask)
        return await SCENARIOS[cell.scenario].make(self.target.world, ask)

    def _floor(self, floor: Floor) -> Cost:
        cost = self.meter.measure(floor)
        self.results.floors.setdefault(floor, []).append(cost)
        return cost


def _sample(number: int, window: Window, floors: Sequence[Cost], *, has_database: bool) -> Sample:
    server_s, database_s = window.server
    return Sample(
        round=number,
        per_s=window.count / window.seconds,
        p50_ms=window.quantile_ms(0.5),
        p99_ms=window.quantile_ms(0.99),
        cpu_ms=1000 * server_s / window.count,
        database_cpu_ms=1000 * database_s / window.count if has_database else None,
        cores=server_s / window.seconds,
        load_cores=window.load_cpu_s / window.seconds,
        floor_per_s=sum(floor.per_s for floor in floors) / len(floors),
        floor_cpu_ms=sum(floor.cpu_ms for floor in floors) / len(floors),
    )


def _progress(total: int) -> Callable[[int, Cell | None], None]:
    done = 0

    def show(number: int, cell: Cell | None) -> None:
        nonlocal done
        if not sys.stderr.isatty():
            return
        text = (
            ""
            if cell is None
            else f"round {number + 1}, {done}/{total}: {' '.join(map(str, cell))}"
        )
        print(f"\r{text:<78}", end="" if cell else "\r", file=sys.stderr, flush=True)
        done += 1

    return show
