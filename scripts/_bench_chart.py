"""`scripts/bench chart results.json > docs/benchmarks.svg`: two bar charts of one run.

The medians of a `--json` file: what issuing costs in units of the work that cannot be saved, and
how many of the cheap requests fit into a second of one core's CPU. One self-contained SVG without
scripts or fonts of its own, readable on light and on dark ground.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

WIDTH, LABEL_WIDTH, VALUE_WIDTH = 760, 250, 90
BAR_HEIGHT, ROW_HEIGHT, HEAD_HEIGHT = 16, 24, 58
STYLE = """
text { font: 13px system-ui, sans-serif; fill: #1f2328 }
.label { text-anchor: end }
.head { font-weight: 600; font-size: 15px }
.note { fill: #59636e; font-size: 12px }
.sqlite { fill: #2f81c4 } .postgresql { fill: #2e8b57 } .bare { fill: #8b949e }
.limit { stroke: #cf222e; stroke-width: 1.5; stroke-dasharray: 4 3 }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 } .note { fill: #9198a1 } .limit { stroke: #ff7b72 }
}
"""
ISSUING = ("bare token", "client_credentials", "refresh", "exchange", "password")
READING = ("introspect", "revoke", "me", "status-list", "jwks-200", "jwks-304")
SERVERS = ("bare", "sqlite", "postgresql")


@dataclass(frozen=True, slots=True)
class Bar:
    label: str
    kind: str  # the server, and the class of its colour
    value: float
    text: str


@dataclass(frozen=True, slots=True)
class Panel:
    """`limit` is where a dashed line stands."""

    title: str
    note: str
    bars: Sequence[Bar]
    limit: float | None = None

    @property
    def height(self) -> int:
        return HEAD_HEIGHT + ROW_HEIGHT * len(self.bars) + 14


def draw(figures: dict[str, Any]) -> str:
    """The SVG of a run's figures. ValueError when it measured none of what is shown."""
    rows = [row for row in figures["rows"] if row["target"] in SERVERS]
    issuing = Panel(
        "CPU per issued token, in units of the work that cannot be saved",
        "1.00 is one RSA-2048 signature alone, for password one Argon2id hash; shorter is better",
        _bars(rows, ISSUING, lambda row: float(row["in_floors"]), "{:.2f}"),
        limit=1.0,
    )
    reading = Panel(
        "Requests that fit into one second of one core's CPU",
        "1000 / CPU-ms per request, all of the server's threads; longer is better",
        _bars(rows, READING, lambda row: 1000 / float(row["cpu_ms"]), "{:,.0f}"),
    )
    panels = [panel for panel in (issuing, reading) if panel.bars]
    if not panels:
        raise ValueError("this run measured nothing that the chart shows")
    parts, top = [], 8
    for panel in panels:
        parts.append(_draw_panel(panel, top))
        top += panel.height
    machine = figures["machine"]
    foot = (
        f"{machine['cpu']}, Python {machine['python']}, {figures['options']['rounds']} rounds;"
        " medians"
    )
    parts.append(_text(16, top + 10, foot, "note"))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {top + 24}" role="img"'
        f' aria-label="Cost per request"><style>{STYLE}</style>\n' + "\n".join(parts) + "\n</svg>"
    )


def _bars(
    rows: Sequence[dict[str, Any]],
    names: Sequence[str],
    read: Callable[[dict[str, Any]], float],
    form: str,
) -> list[Bar]:
    """A bar for each scenario and server, at the number of connections that is nearest to 16."""
    found = []
    for name in names:
        for server in SERVERS:
            matching = [row for row in rows if (row["scenario"], row["target"]) == (name, server)]
            if matching:
                row = min(matching, key=lambda row: abs(row["connections"] - 16))
                value = read(row)
                found.append(Bar(_label(name, server), server, value, form.format(value)))
    return found


def _label(scenario: str, server: str) -> str:
    return "bare handler" if server == "bare" else f"{scenario}, {server}"


def _draw_panel(panel: Panel, top: int) -> str:
    room = WIDTH - LABEL_WIDTH - VALUE_WIDTH
    longest = max([bar.value for bar in panel.bars] + [panel.limit or 0.0])
    parts = [
        _text(16, top + 20, panel.title, "head"),
        _text(16, top + 40, panel.note, "note"),
    ]
    for number, bar in enumerate(panel.bars):
        y = top + HEAD_HEIGHT + ROW_HEIGHT * number
        width = max(1.0, room * bar.value / longest)
        parts += [
            _text(LABEL_WIDTH - 10, y + 13, bar.label, "label"),
            _rectangle(y, width, bar.kind),
            _text(LABEL_WIDTH + width + 8, y + 13, bar.text),
        ]
    if panel.limit is not None:
        x = LABEL_WIDTH + room * panel.limit / longest
        first, last = top + HEAD_HEIGHT - 6, top + panel.height - 14
        parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{first}" y2="{last}" class="limit"/>')
    return "\n".join(parts)


def _rectangle(y: int, width: float, kind: str) -> str:
    place = f'x="{LABEL_WIDTH}" y="{y}" width="{width:.1f}" height="{BAR_HEIGHT}" rx="2"'
    return f'<rect {place} class="{escape(kind)}"/>'


def _text(x: float, y: float, text: str, kind: str = "") -> str:
    attribute = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y}"{attribute}>{escape(text)}</text>'


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench chart", description=__doc__)
    parser.add_argument("results", type=Path, help="what `scripts/bench --json FILE` wrote")
    options = parser.parse_args()
    try:
        print(draw(json.loads(options.results.read_text("utf-8"))))
    except (OSError, ValueError, KeyError) as error:
        print(f"{options.results} holds no figures to draw: {error!r}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
