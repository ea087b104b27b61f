"""Whether this process can do its work now: database, schema, signing keys, hashing, clocks.

Liveness never asks here: a database that is away must not make an orchestrator restart every
instance. Answers are at most a second old and made once for all who ask, so that a flood of
health checks is not a load; a database that hangs holds one check and one connection.
"""

import asyncio

from token_server.errors import UnavailableError
from token_server.logs import get_logger
from token_server.runtime import Runtime
from token_server.services.checks import Check, Level, passed
from token_server.services.clock_watch import ClockWatch, database_clock
from token_server.services.key_health import key_checks, update_key_gauges
from token_server.storage.migrations import schema_status

_log = get_logger(__name__)

MAX_AGE_S = 1.0
DATABASE_TIMEOUT_S = 2.0


class Readiness:
    """The one answer to "send me requests?" of this process."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._is_draining = False
        self._checks: tuple[Check, ...] = ()
        self._checked_at = float("-inf")
        self._problem: str | None = None  # of the database, when it was checked
        self._task: asyncio.Task[tuple[Check, ...]] | None = None
        self._clock_watch = ClockWatch(runtime)

    @property
    def is_draining(self) -> bool:
        return self._is_draining

    def drain(self) -> None:
        """From now on not ready: the process finishes what it has and stops."""
        self._is_draining = True

    async def checks(self) -> tuple[Check, ...]:
        """Every check, the draining one first; the process is ready when none fails."""
        detail = "stopping" if self._is_draining else "serving"
        serving = passed("serving", detail, is_ok=not self._is_draining)
        age_s = self._runtime.clock.monotonic() - self._checked_at
        problem = self._runtime.store.problem
        # What requests hear by now must not wait until the answer is a second old.
        if not self._checks or age_s > MAX_AGE_S or problem != self._problem:
            self._problem = problem
            self._keep(await self._check_once())
        return (serving, *self._checks)

    def update_gauges(self) -> None:
        """Bring the gauges that nobody else sets up to date."""
        runtime = self._runtime
        runtime.metrics.hash_queue(runtime.hasher.queue_depth)
        update_key_gauges(runtime)
        self._clock_watch.look()

    def note_loop_lag(self, seconds: float) -> None:
        """How late a timer of the event loop came."""
        self._runtime.metrics.loop_lag(max(0.0, seconds))

    def _keep(self, checks: tuple[Check, ...]) -> None:
        state, before = _not_ok(checks), _not_ok(self._checks)
        if state != before:
            log = _log.warning if state else _log.info
            failed = [name for name, level in state if level is Level.FAIL]
            warned = [name for name, level in state if level is Level.WARN]
            log("readiness_changed", failed=failed, warned=warned)
        self._checks = checks
        self._checked_at = self._runtime.clock.monotonic()

    async def _check_once(self) -> tuple[Check, ...]:
        runtime = self._runtime
        here = (*key_checks(runtime), _hash_queue(runtime), _clock(runtime))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(_database(runtime))
        # Never cancelled: a driver that is cut off in a statement loses its connection.
        await asyncio.wait({self._task}, timeout=DATABASE_TIMEOUT_S)
        if not self._task.done():
            detail = f"no answer within {DATABASE_TIMEOUT_S:g} s"
            return (passed("database", is_ok=False, detail=detail), *here)
        return (*self._task.result(), *here)


async def _database(runtime: Runtime) -> tuple[Check, ...]:
    try:
        status = await schema_status(runtime.store)
        clock = await database_clock(runtime)
    except UnavailableError as error:
        detail = f"{error.reason}: {error.detail}" if error.detail else error.reason
        return (passed("database", is_ok=False, detail=detail),)
    except Exception as error:  # noqa: BLE001 - an unforeseen failure is "not ready", not a crash
        _log.exception("readiness_check_failed")
        return (passed("database", is_ok=False, detail=type(error).__name__),)
    if runtime.store.problem is not None:  # it can be read, and that is all
        return (passed("database", is_ok=False, detail=runtime.store.problem),)
    # A newer schema is safe to serve on: migrations never break the release before them.
    is_usable = status.is_current or status.is_newer
    return (
        passed("database", runtime.store.dialect),
        passed(
            "schema", f"{status.current or 'none'}, this release has {status.head}", is_ok=is_usable
        ),
        *clock,
    )


def _hash_queue(runtime: Runtime) -> Check:
    """A full queue warns: all but logins goes on, and taking instances away would not end it."""
    limit = runtime.settings.password_hash_queue
    depth = runtime.hasher.queue_depth
    level = Level.WARN if limit and depth >= limit else Level.OK
    return Check("password_hashing", level, f"{depth} of {limit} waiting")


def _clock(runtime: Runtime) -> Check:
    if runtime.clock.is_stepped_back():
        return passed("clock", "set back: issuing is paused", is_ok=False)
    return passed("clock", "steady")


def _not_ok(checks: tuple[Check, ...]) -> list[tuple[str, Level]]:
    return [(check.name, check.level) for check in checks if check.level is not Level.OK]
