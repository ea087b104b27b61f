"""One condition of a running process, and how bad it is when it does not hold."""

import enum
from dataclasses import dataclass


class Level(enum.StrEnum):
    """`warn` asks for somebody's attention; only `fail` keeps requests away."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Check:
    """One condition; `detail` is for the operator and never holds an address or a secret."""

    name: str
    level: Level
    detail: str

    @property
    def is_ok(self) -> bool:
        """Whether requests may come in spite of it."""
        return self.level is not Level.FAIL


def passed(name: str, detail: str, *, is_ok: bool = True) -> Check:
    """A check that holds, or else fails."""
    return Check(name, Level.OK if is_ok else Level.FAIL, detail)
