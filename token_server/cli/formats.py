"""How commands read durations, and write instants and durations for people."""

import re
from datetime import UTC, datetime

import click

from token_server.config_values import UNITS_S

_DURATION = re.compile(r"([0-9]{1,9})([smhd]?)", re.ASCII)


class Duration(click.ParamType[int]):
    """Seconds, or a number with a unit: 30s, 15m, 12h, 7d. Bounds are the service's to check."""

    name = "duration"

    def convert(
        self, value: str | int, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        if isinstance(value, int):
            return value
        match = _DURATION.fullmatch(value)
        if match is None:
            self.fail("must be seconds or a duration such as 30s, 15m, 12h, 7d", param, ctx)
        return int(match[1]) * UNITS_S.get(match[2], 1)


DURATION = Duration()


def instant_text(at: int | None) -> str:
    """An instant for people, in UTC; "never" when there was none."""
    if at is None:
        return "never"
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def duration_text(seconds: int) -> str:
    """A duration for people, in its two largest units: "89 d 23 h", "25 s"."""
    parts: list[str] = []
    for unit, unit_s in sorted(UNITS_S.items(), key=lambda item: -item[1]):
        count, seconds = divmod(seconds, unit_s)
        if count or (parts and unit == "s"):
            parts.append(f"{count} {unit}")
        if len(parts) == 2:
            break
    return " ".join(part for part in parts if not part.startswith("0 ")) or "0 s"


def relative_text(at: int, now: int) -> str:
    """An instant as seen from `now`: "in 25 s", "3 min ago", "now"."""
    if at == now:
        return "now"
    return f"in {duration_text(at - now)}" if at > now else f"{duration_text(now - at)} ago"
