"""The aims of issue 7 beside what one run measured, by ratios within the run where there are any.

Decides only whether a figure meets its aim; nothing is asserted, since neighbours move rates.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from scripts._bench_report import Comparison, Row
from scripts._bench_start import Start


@dataclass(frozen=True, slots=True)
class Aim:
    figure: str
    aim: str
    measured: str
    is_met: bool


def aims_of(
    rows: Sequence[Row], comparisons: Sequence[Comparison], starts: Sequence[Start]
) -> list[Aim]:
    """Those for which there is a figure."""
    by_cell = {(row.target, row.scenario, row.connections): row for row in rows}
    aims = []
    for target, scenario, least in (
        ("sqlite", "client_credentials", 0.75),
        ("sqlite", "refresh", 0.65),
        ("postgresql", "refresh", 0.65),
    ):
        row = by_cell.get((target, scenario, 16))
        if row is not None:
            aims.append(_of_limit(row, least))
    row = by_cell.get(("sqlite", "password", 4))
    if row is not None:
        measured = f"{row.cpu_ms:.1f} CPU-ms ({row.in_floors:.2f} hashes)"
        aims.append(Aim("password, sqlite", "≤ 17 CPU-ms", measured, row.cpu_ms <= 17))
    for scenario, least in (("introspect", 6000), ("jwks-200", 20000)):
        row = by_cell.get(("sqlite", scenario, 16))
        if row is not None:
            per_core = 1000 / row.cpu_ms
            measured = f"{per_core:,.0f} (of a quiet round {1000 / row.quiet_cpu_ms:,.0f})"
            figure = f"{scenario}, sqlite, requests per s of CPU"
            aims.append(Aim(figure, f"≥ {least:,}", measured, per_core >= least))
    return [*aims, *_compared(comparisons), *_started(starts)]


def _of_limit(row: Row, least: float) -> Aim:
    most = 1 / least
    measured = (
        f"{row.in_floors:.2f} signatures of CPU (quiet {row.quiet_in_floors:.2f}),"
        f" {row.of_limit:.2f} of the limit's rate (quiet {row.quiet_of_limit:.2f})"
    )
    figure = f"{row.scenario}, {row.target}, 16 connections, of the signature limit"
    aim = f"≥ {least} (CPU ≤ {most:.2f} signatures)"
    return Aim(figure, aim, measured, row.in_floors <= most)


def _compared(comparisons: Sequence[Comparison]) -> list[Aim]:
    found = []
    for one in comparisons:
        if one.scenario != "client_credentials" or one.connections != 16:
            continue
        if one.target == "sqlite-two-cores":
            figure = "one process on two cores against one, client_credentials"
            found.append(Aim(figure, "≥ 1.2 times the rate", f"{one.per_s:.2f}", one.per_s >= 1.2))
        else:
            figure = "two processes against one, CPU-ms of client_credentials"
            found.append(Aim(figure, "≤ 1.1 times the CPU", f"{one.cpu_ms:.2f}", one.cpu_ms <= 1.1))
    return found


def _started(starts: Sequence[Start]) -> list[Aim]:
    return [
        Aim(
            f"cold start to first token, {start.target}",
            "< 1.2 s",
            f"{start.later_s:.2f} s (quickest {start.quickest_s:.2f} s)",
            start.later_s < 1.2,
        )
        for start in starts
        if start.target in ("sqlite", "postgresql")
    ]


def markdown_table(aims: Sequence[Aim]) -> str:
    lines = ["| figure | aim | measured | met |", "|---|---|---|---|"]
    lines += [
        f"| {aim.figure} | {aim.aim} | {aim.measured} | {'yes' if aim.is_met else '**no**'} |"
        for aim in aims
    ]
    return "\n".join(lines)
