"""The alarm over all failed guesses: one audit event when an episode begins, one when it ends.

Each process counts what fails in memory and adds it every few seconds to one row that all share
(core/guess_alarm.py decides), so no request waits for it or costs a query more. The report is in
the transaction of the count: of several processes exactly one tells. Counts only, no accounts
and no addresses; a process that is killed loses a few seconds of them.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import msgspec

from token_server.core.guess_alarm import (
    AlarmState,
    Counts,
    Raised,
    Report,
    count_failures,
    is_over,
)
from token_server.errors import UnavailableError
from token_server.logs import get_logger
from token_server.records import AuditEvent, AuditEventType
from token_server.runtime import Runtime
from token_server.storage import audit, meta

_log = get_logger(__name__)

LOOK_S = 5.0
STOP_S = 5.0  # for what is under way at a stop
_ACTOR = "server"
_decode = msgspec.json.Decoder(AlarmState).decode


@contextlib.asynccontextmanager
async def guesses_watched(runtime: Runtime) -> AsyncIterator[None]:
    """Watch for as long as the block runs; what is counted by then is added at its end."""
    watch = GuessWatch(runtime)
    task = asyncio.create_task(watch.run())
    try:
        yield
    finally:
        watch.stop()
        await asyncio.wait({task}, timeout=STOP_S)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


class GuessWatch:
    """One per process that serves."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._stopped = asyncio.Event()
        self._problem: str | None = None

    async def run(self) -> None:
        """Until `stop`, and once more then."""
        is_last = False
        while not is_last:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopped.wait(), LOOK_S)
            is_last = self._stopped.is_set()
            await self._try_look()

    def stop(self) -> None:
        """End `run` once what is under way is done."""
        self._stopped.set()

    async def look(self) -> None:
        """Add what failed here since the last look, and see what all have counted.

        Raises UnavailableError when the database does not answer: then it counts next time.
        """
        runtime = self._runtime
        now = runtime.clock.now()
        state = await self._read()
        if runtime.failed_guesses or is_over(state, now):
            state = await self._add(now)
        runtime.metrics.guess_alarm(state.episode is not None)

    async def _read(self) -> AlarmState:
        async with self._runtime.store.read() as connection:
            return _state_of(await meta.get(connection, meta.GUESS_ALARM))

    async def _add(self, now: int) -> AlarmState:
        runtime = self._runtime
        failed = runtime.failed_guesses.take()
        try:
            async with runtime.store.write() as connection:
                before = _state_of(await meta.hold(connection, meta.GUESS_ALARM, "{}"))
                state, reports = count_failures(
                    before, failed, now, runtime.settings.guess_alarm_per_minute
                )
                events = [_event(report, now) for report in reports]
                await meta.set(connection, meta.GUESS_ALARM, msgspec.json.encode(state).decode())
                await audit.insert_events(connection, events)
        except BaseException:  # a commit whose answer was lost counts twice, which warns too soon
            for door, count in failed.items():
                runtime.failed_guesses.add(door, count)
            raise
        for event in events:
            runtime.audit.log(event)
        return state

    async def _try_look(self) -> None:
        try:
            await self.look()
        except UnavailableError as error:
            self._note(error.reason)
        except Exception as error:  # noqa: BLE001 - one look fails, the next is tried
            if self._problem != repr(error):
                self._problem = repr(error)
                _log.exception("guess_watch_failed")
        else:
            self._note(None)

    def _note(self, problem: str | None) -> None:
        if problem is not None and problem != self._problem:
            _log.warning("guess_watch_failed", reason=problem)
        self._problem = problem


def _state_of(stored: str | None) -> AlarmState:
    return _decode(stored or "{}")


def _event(report: Report, now: int) -> AuditEvent:
    if isinstance(report, Raised):
        details = _details(report.failed)
        return AuditEvent(AuditEventType.GUESS_ALARM_RAISED, now, _ACTOR, details=details)
    episode = report.episode
    more = {"peak_per_minute": episode.peak, "lasted_s": report.lasted_s}
    details = {**_details(episode.failed), **more}
    return AuditEvent(AuditEventType.GUESS_ALARM_ENDED, now, _ACTOR, details=details)


def _details(failed: Counts) -> dict[str, int]:
    """How many, and at which doors."""
    return {"failed": sum(failed.values()), **failed}
