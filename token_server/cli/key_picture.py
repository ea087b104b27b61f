"""The lives of signing keys as a picture along a time axis, for a terminal.

One row per key, one stroke per state. The axis is not to scale: between two things that happen
there is a little more room the longer it takes, so that seconds and months fit on one line; the
instants stand below. Plain text in, plain text out: nothing here asks the terminal.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import click

from token_server.core.key_forecast import Life
from token_server.records import KeyState

_LABEL_WIDTH = 12
_LEAST_WIDTH = 40
_LEAST_STEP = 3
_TAIL = 4  # strokes that go on beyond what is foreseen
_LABEL_ROWS = 3
_WIDE_LEGEND = 72
_COLOURS = {KeyState.NEXT: "cyan", KeyState.ACTIVE: "green", KeyState.RETIRING: "yellow"}


@dataclass(frozen=True, slots=True)
class Strokes:
    """The characters of a picture."""

    next: str
    active: str
    retiring: str
    begin: str
    end: str
    goes_on: str
    now: str
    now_active: str
    now_other: str
    axis: str
    tick: str
    now_tick: str

    def of(self, state: KeyState) -> str:
        match state:
            case KeyState.NEXT:
                return self.next
            case KeyState.ACTIVE:
                return self.active
            case _:
                return self.retiring


UNICODE = Strokes("┄", "━", "─", "╶", "╴", "→", "│", "┿", "┼", "─", "┴", "▲")
ASCII = Strokes(".", "=", "-", "|", "|", ">", ":", ":", ":", "-", "+", "^")


@dataclass(frozen=True, slots=True)
class Canvas:
    """What the terminal can show."""

    width: int
    strokes: Strokes
    is_coloured: bool


def draw(lives: Sequence[Life], now: int, canvas: Canvas) -> list[str]:
    """The picture as lines; none when there is no room or nothing to show."""
    room = canvas.width - _LABEL_WIDTH - 2 - _TAIL
    instants = _instants(lives, now)
    if canvas.width < _LEAST_WIDTH or not lives:
        return []
    while len(instants) > 2 and (len(instants) - 1) * _LEAST_STEP > room:
        instants.pop()  # what is furthest off is cut
    columns = _columns(instants, room)
    shown = [life for life in lives if life.phases[0].begins_at <= instants[-1]]
    lines = [_now_line(columns[now])]
    lines += [_row(life, columns, now, canvas) for life in shown]
    lines.append(_axis(columns, now, canvas))
    lines += _labels(columns, now, canvas)
    lines += _legend(canvas)
    return lines


def short_kid(kid: str) -> str:
    """Enough of a kid to tell keys apart by eye; keys that are still to be made have short ones."""
    return kid[:8]


def _instants(lives: Sequence[Life], now: int) -> list[int]:
    found = {now}
    for life in lives:
        for phase in life.phases:
            found.add(phase.begins_at)
            if phase.ends_at is not None:
                found.add(phase.ends_at)
    return sorted(found)


def _columns(instants: Sequence[int], room: int) -> dict[int, int]:
    """A column for each instant: a least step, and the rest by the logarithm of the time."""
    gaps = [later - earlier for earlier, later in itertools.pairwise(instants)]
    weights = [math.log1p(gap) for gap in gaps]
    spare = room - _LEAST_STEP * len(gaps)
    columns, column = {instants[0]: 0}, 0.0
    for instant, weight in zip(instants[1:], weights, strict=True):
        column += _LEAST_STEP + spare * weight / sum(weights)
        columns[instant] = int(column)
    return columns


def _row(life: Life, columns: dict[int, int], now: int, canvas: Canvas) -> str:
    strokes, last = canvas.strokes, max(columns.values())
    cells: list[tuple[str, KeyState | None]] = [(" ", None)] * (last + 1 + _TAIL)
    cells[columns[now]] = (strokes.now, None)
    for index, phase in enumerate(life.phases):
        if phase.begins_at not in columns:
            break
        begin = columns[phase.begins_at]
        goes_on = phase.ends_at is None or phase.ends_at not in columns
        end = last + _TAIL - 1 if goes_on else columns[phase.ends_at or 0]
        for column in range(begin, end):
            cells[column] = (
                _stroke(phase.state, strokes, is_now=column == columns[now]),
                phase.state,
            )
        if index == 0:
            cells[begin] = (strokes.begin, phase.state)
        if goes_on:
            cells[end] = (strokes.goes_on, phase.state)
            break
        if phase is life.phases[-1]:
            cells[end] = (strokes.end, phase.state)
    label = short_kid(life.kid) if life.is_made else f"({short_kid(life.kid)})"
    drawn = "".join(_paint(text, state, canvas) for text, state in cells)
    return f"  {label:<{_LABEL_WIDTH}}{drawn}".rstrip()


def _stroke(state: KeyState, strokes: Strokes, *, is_now: bool) -> str:
    if not is_now:
        return strokes.of(state)
    return strokes.now_active if state is KeyState.ACTIVE else strokes.now_other


def _paint(text: str, state: KeyState | None, canvas: Canvas) -> str:
    if state is None or not canvas.is_coloured:
        return text
    return click.style(text, fg=_COLOURS.get(state), bold=state is KeyState.ACTIVE)


def _now_line(column: int) -> str:
    return " " * (2 + _LABEL_WIDTH + column - 1) + "now"


def _axis(columns: dict[int, int], now: int, canvas: Canvas) -> str:
    strokes = canvas.strokes
    cells = [strokes.axis] * (max(columns.values()) + 1)
    for column in columns.values():
        cells[column] = strokes.tick
    cells[columns[now]] = strokes.now_tick
    return " " * (2 + _LABEL_WIDTH) + "".join(cells)


def _labels(columns: dict[int, int], now: int, canvas: Canvas) -> list[str]:
    """The instants below their ticks, in as many rows as keep them apart."""
    rows, day = [""] * _LABEL_ROWS, _day(now)
    for instant, column in columns.items():
        # The day once, then the time of day: so the instants of one day stay apart.
        text = _time(instant) if _day(instant) == day else _day(instant)
        day = _day(instant)
        start = 2 + _LABEL_WIDTH + column - len(text) // 2
        start = max(0, min(start, canvas.width - len(text)))
        for index, row in enumerate(rows):
            if len(row) < start:
                rows[index] = row.ljust(start) + text
                break
    return [row for row in rows if row]


def _day(instant: int) -> str:
    return datetime.fromtimestamp(instant, UTC).strftime("%Y-%m-%d")


def _time(instant: int) -> str:
    return datetime.fromtimestamp(instant, UTC).strftime("%H:%M:%S")


def _legend(canvas: Canvas) -> list[str]:
    """What the strokes mean, in as many lines as there is room for."""
    names = [
        _paint(canvas.strokes.of(state) * 3, state, canvas) + f" {state}" for state in _COLOURS
    ]
    indent, note = " " * (2 + _LABEL_WIDTH), "(UTC, not to scale)"
    if canvas.width < _WIDE_LEGEND:
        return ["  " + "   ".join(names), "  " + note]
    return [indent + "   ".join([*names, note])]
