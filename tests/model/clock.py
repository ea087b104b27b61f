"""The machine's clocks, faked, and what a server's clock must say (docs/reliability.md).

The servers run the real `SystemClock` over these; `expected_now` is worked out independently of
it. Milliseconds inside, and half a second off the full one, so that no rounding decides anything.
"""

from dataclasses import dataclass, field

from tests.support.databases import TEST_EPOCH

TOLERANCE_MS = 10_000  # CLOCK_SKEW: so far back a wall clock is followed
_START_MS = TEST_EPOCH * 1000 + 500


@dataclass(slots=True)
class MachineTime:
    """Stands in for the module `time` of token_server.runtime: still, until it is moved."""

    uptime_ms: int = 0
    offset_ms: int = 0  # by how much the wall clock was set

    def time(self) -> float:
        return self.wall_ms / 1000

    def monotonic(self) -> float:
        return 1000.0 + self.uptime_ms / 1000

    @property
    def wall_ms(self) -> int:
        return _START_MS + self.uptime_ms + self.offset_ms


@dataclass(slots=True)
class ExpectedClock:
    """What one server's clock says: the wall clock, but never clearly behind where it has been."""

    machine: MachineTime
    apart_s: int = 0  # of this server's machine against the other's
    furthest_ms: int = field(init=False)

    def __post_init__(self) -> None:
        self.furthest_ms = self.machine.offset_ms

    def notice(self) -> None:
        """The server has looked at its clock."""
        self.furthest_ms = max(self.furthest_ms, self.machine.offset_ms)

    @property
    def is_stepped_back(self) -> bool:
        return self.machine.offset_ms < self.furthest_ms - TOLERANCE_MS

    @property
    def now(self) -> int:
        offset_ms = self.furthest_ms if self.is_stepped_back else self.machine.offset_ms
        return (_START_MS + self.machine.uptime_ms + offset_ms) // 1000 + self.apart_s
