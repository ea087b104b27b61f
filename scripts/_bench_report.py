"""From samples to figures: medians and the quietest tenth of the rounds, ratios, tables.

Every ratio is formed within one round and only then summed up.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from scripts._bench_rounds import BARE, BARE_SCENARIO, Cell, Results, Sample

QUIET = 0.1
ISSUING = ("client_credentials", "refresh", "exchange", BARE_SCENARIO)


@dataclass(frozen=True, slots=True)
class Row:
    """One cell over all rounds; `quiet_` is the quietest tenth of them, all else medians."""

    target: str
    scenario: str
    connections: int
    rounds: int
    per_s: float
    quiet_per_s: float
    p50_ms: float
    p99_ms: float
    cpu_ms: float
    quiet_cpu_ms: float
    database_cpu_ms: float | None
    cores: float
    load_cores: float
    in_floors: float  # CPU per request in units of one signature, or of one hash
    quiet_in_floors: float
    of_limit: float  # requests/s in units of the floor's
    quiet_of_limit: float
    in_bare: float | None  # CPU per issued token in units of the bare handler's


@dataclass(frozen=True, slots=True)
class Comparison:
    """A server with more against one with less in one scenario: medians of ratios."""

    target: str
    scenario: str
    connections: int
    against: str
    per_s: float
    cpu_ms: float


def quantile(values: Sequence[float], share: float) -> float:
    """The nearest value: no mean of two."""
    ordered = sorted(values)
    return ordered[round((len(ordered) - 1) * share)]


def rows_of(results: Results) -> list[Row]:
    """In the order of servers, scenarios and connections."""
    return [_row(cell, results) for cell in results.cells if cell in results.samples]


def _row(cell: Cell, results: Results) -> Row:
    samples = results.samples[cell]
    bare = {
        sample.round: sample.cpu_ms
        for sample in results.samples.get(Cell(BARE, BARE_SCENARIO, cell.connections), ())
    }
    is_issuing = cell.scenario in ISSUING
    in_bare = [
        sample.cpu_ms / bare[sample.round]
        for sample in samples
        if is_issuing and sample.round in bare
    ]
    database = [ms for sample in samples if (ms := sample.database_cpu_ms) is not None]
    of_limit = [sample.per_s / sample.floor_per_s for sample in samples]
    in_floors = [sample.cpu_ms / sample.floor_cpu_ms for sample in samples]

    def middle(read: Callable[[Sample], float]) -> float:
        return quantile([read(sample) for sample in samples], 0.5)

    return Row(
        target=cell.target,
        scenario=cell.scenario,
        connections=cell.connections,
        rounds=len(samples),
        per_s=middle(lambda sample: sample.per_s),
        quiet_per_s=quantile([sample.per_s for sample in samples], 1 - QUIET),
        p50_ms=middle(lambda sample: sample.p50_ms),
        p99_ms=middle(lambda sample: sample.p99_ms),
        cpu_ms=middle(lambda sample: sample.cpu_ms),
        quiet_cpu_ms=quantile([sample.cpu_ms for sample in samples], QUIET),
        database_cpu_ms=quantile(database, 0.5) if database else None,
        cores=middle(lambda sample: sample.cores),
        load_cores=middle(lambda sample: sample.load_cores),
        in_floors=quantile(in_floors, 0.5),
        quiet_in_floors=quantile(in_floors, QUIET),
        of_limit=quantile(of_limit, 0.5),
        quiet_of_limit=quantile(of_limit, 1 - QUIET),
        in_bare=quantile(in_bare, 0.5) if in_bare else None,
    )


def floors_of(results: Results) -> dict[str, dict[str, float]]:
    """Signature and hash alone, over the whole run."""
    return {
        name: {
            "per_s": quantile([cost.per_s for cost in costs], 0.5),
            "cpu_ms": quantile([cost.cpu_ms for cost in costs], 0.5),
            "quiet_per_s": quantile([cost.per_s for cost in costs], 1 - QUIET),
            "quiet_cpu_ms": quantile([cost.cpu_ms for cost in costs], QUIET),
        }
        for name, costs in sorted(results.floors.items())
    }


def _ratio(
    results: Results, one: Cell, other: Cell, read: Callable[[Sample], float]
) -> float | None:
    """The median over the rounds of `one` / `other`; None when they have no round in common."""
    others = {sample.round: read(sample) for sample in results.samples.get(other, ())}
    ratios = [
        read(sample) / others[sample.round]
        for sample in results.samples.get(one, ())
        if sample.round in others
    ]
    return quantile(ratios, 0.5) if ratios else None


def compare(results: Results) -> list[Comparison]:
    """Two cores against one, and two processes against one, wherever both were measured."""
    against = {"sqlite-two-cores": "sqlite", "postgresql-two-processes": "postgresql"}
    found = []
    for cell in results.cells:
        if cell.target not in against:
            continue
        other = cell._replace(target=against[cell.target])
        rate = _ratio(results, cell, other, lambda sample: sample.per_s)
        cpu = _ratio(results, cell, other, lambda sample: sample.cpu_ms)
        if rate is not None and cpu is not None:
            found.append(Comparison(*cell, other.target, rate, cpu))
    return found


COLUMNS: dict[str, Callable[[Row], str]] = {
    "connections": lambda row: str(row.connections),
    "requests/s": lambda row: f"{row.per_s:,.0f}",
    "p50 ms": lambda row: f"{row.p50_ms:.2f}",
    "p99 ms": lambda row: f"{row.p99_ms:.2f}",
    "CPU-ms": lambda row: f"{row.cpu_ms:.3f}",
    "CPU-ms quiet": lambda row: f"{row.quiet_cpu_ms:.3f}",
    "in floors": lambda row: f"{row.in_floors:.2f}",
    "in floors quiet": lambda row: f"{row.quiet_in_floors:.2f}",
    "of limit": lambda row: f"{row.of_limit:.2f}",
    "in bare": lambda row: "" if row.in_bare is None else f"{row.in_bare:.2f}",
    "cores": lambda row: f"{row.cores:.2f}",
    "load": lambda row: f"{row.load_cores:.2f}",
    "DB CPU-ms": lambda row: "" if row.database_cpu_ms is None else f"{row.database_cpu_ms:.3f}",
}


def text_table(rows: Sequence[Row]) -> str:
    """For a terminal, one server."""
    widths = {name: max(len(name), 7) + 2 for name in COLUMNS}
    lines = [" " * 20 + "".join(f"{name:>{width}}" for name, width in widths.items())]
    for row in rows:
        shown = (f"{show(row):>{widths[name]}}" for name, show in COLUMNS.items())
        lines.append(f"{row.scenario:<20}" + "".join(shown))
    return "\n".join(lines)


def markdown_table(rows: Sequence[Row]) -> str:
    """For docs/benchmarks.md, one server."""
    lines = ["| | " + " | ".join(COLUMNS) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    lines += [
        f"| {row.scenario} | " + " | ".join(show(row) for show in COLUMNS.values()) + " |"
        for row in rows
    ]
    return "\n".join(lines)
