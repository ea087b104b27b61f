"""Says when the clock steps, and when it differs from the database's: lifetimes depend on it.

What follows from a step is decided elsewhere (SystemClock in runtime.py); here it is told, in the
log, in the metrics and as a check, without anybody having to ask first.
"""

from token_server.logs import get_logger
from token_server.runtime import Runtime
from token_server.services.checks import Check, Level
from token_server.storage.inspection import read_clock

_log = get_logger(__name__)

# With CLOCK_SKEW=0: the way to the database and back takes its time, and we count whole seconds.
LEAST_DIFFERENCE_S = 2


class ClockWatch:
    """Of one process; `look` every few seconds."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._is_stepped_back = False
        self._seen_at = runtime.clock.now(), runtime.clock.monotonic()

    def look(self) -> None:
        """Set the gauge, and log each step once."""
        clock = self._runtime.clock
        behind_s = clock.behind_s()
        self._runtime.metrics.clock_behind(behind_s)
        is_stepped_back = clock.is_stepped_back()
        if is_stepped_back and not self._is_stepped_back:
            _log.error("clock_stepped_back", by_s=round(behind_s), issuing="paused")
        elif self._is_stepped_back and not is_stepped_back:
            _log.warning("clock_caught_up", issuing="resumed")
        self._is_stepped_back = is_stepped_back
        self._note_jump(clock.now(), clock.monotonic())

    def _note_jump(self, now: int, monotonic: float) -> None:
        seen_at, seen_monotonic = self._seen_at
        self._seen_at = now, monotonic
        jump_s = (now - seen_at) - (monotonic - seen_monotonic)
        if jump_s > self._runtime.settings.clock_skew_s + LEAST_DIFFERENCE_S:
            _log.warning("clock_jumped_ahead", by_s=round(jump_s))


async def database_clock(runtime: Runtime) -> tuple[Check, ...]:
    """How far our clock is from that of the database, which all instances share; nothing to say
    of a file. It warns only: this clock may be the one that is right.

    UnavailableError when the database does not answer.
    """
    async with runtime.store.read() as connection:
        database_at = await read_clock(connection)
    if database_at is None:
        return ()
    difference_s = runtime.clock.now() - database_at
    tolerated_s = max(LEAST_DIFFERENCE_S, runtime.settings.clock_skew_s)
    direction = "ahead of" if difference_s > 0 else "behind"
    detail = f"{abs(difference_s):.0f} s {direction} the database's"
    level = Level.OK if abs(difference_s) <= tolerated_s else Level.WARN
    return (Check("database_clock", level, detail),)
