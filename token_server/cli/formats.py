"""How commands read durations and write instants."""

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
