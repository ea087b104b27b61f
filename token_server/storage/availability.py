"""Whether the database answers, as this process sees it: one judgement for all its requests.

A failure of the database, or two seconds in which it answers nobody who asked, makes this ask
something simple on a connection of its own. When that fails as well, the database is away: what
waits for it is given up, requests are refused at once instead of each after its own time-out, and
it is asked twice a second until it answers. That it is away is logged once, and its return.
Must not hold a query: what is asked is the engine's (`Backend.probe`).
"""

import asyncio
import contextlib
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol

from token_server.errors import UnavailableError
from token_server.logs import get_logger
from token_server.storage.backend import Backend, Operation
from token_server.storage.errors import BUSY, CONFLICT, UNAVAILABLE, translate, unavailable

_log = get_logger(__name__)

PATIENCE_S = 2.0  # in which at least one of those who wait must get an answer
PROBE_TIMEOUT_S = 1.5
PROBE_PAUSE_S = 0.5
LOG_INTERVAL_S = 30.0
_OUTAGES_KEPT = 32


class Observer(Protocol):
    """Where it is counted (metrics.py)."""

    def database_available(self, operation: str, *, is_available: bool) -> None: ...

    def database_failure(self, operation: str, reason: str) -> None: ...


@dataclass(frozen=True, slots=True)
class _Outage:
    """In epoch seconds."""

    began_at: int
    ended_at: int

    def overlap_s(self, since: int) -> int:
        return max(0, self.ended_at - max(self.began_at, since))


class Availability:
    """Of one operation. A context manager around each use of the database, entered by many at
    once; UnavailableError at once while the database is away."""

    def __init__(self, operation: Operation, backend: Backend, now: Callable[[], int]) -> None:
        self._operation = operation
        self._backend = backend
        self._now = now
        self._observer: Observer | None = None  # nobody: a command, which ends anyway
        self._in_flight = 0
        self._answers = 0
        self._failures = 0
        self._problem: str | None = None
        self._peer: Availability | None = None
        self._suspected_at = self._began_at = 0
        self._outages: deque[_Outage] = deque(maxlen=_OUTAGES_KEPT)
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._logged_at = float("-inf")

    def watch(self, observer: Observer, peer: "Availability") -> None:
        """From now on judge; for a process that serves. `peer` is asked as well when this one
        fails: that of the other operation on the same database."""
        self._observer, self._peer = observer, peer
        observer.database_available(self._operation, is_available=True)

    @property
    def problem(self) -> str | None:
        """Why the database is away; None while it answers."""
        return self._problem

    def away_s(self, since: int) -> int:
        """How many of the seconds since this instant the database was away."""
        outages = list(self._outages)
        if self._problem is not None:
            outages.append(_Outage(self._began_at, self._now()))
        return sum(outage.overlap_s(since) for outage in outages)

    def suspect(self, silent_s: float = 0) -> None:
        """Ask the database, unless that is being done; for so long nothing has been answered."""
        if self._observer is not None and self._task is None:
            self._suspected_at = self._now() - math.ceil(silent_s)
            self._task = asyncio.create_task(self._investigate(), name="database-probe")

    async def close(self) -> None:
        self._observer = None
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def __enter__(self) -> None:
        if self._problem is not None:
            self._failures += 1
            self._count(UNAVAILABLE)
            raise unavailable(UNAVAILABLE, self._problem)
        self._in_flight += 1
        if self._timer is None and self._observer is not None:
            self._set_timer()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._in_flight -= 1
        if isinstance(error, UnavailableError):
            self._note_failure(error)
        elif not isinstance(error, asyncio.CancelledError):
            self._answers += 1

    def _note_failure(self, error: UnavailableError) -> None:
        if error.reason not in (UNAVAILABLE, BUSY, CONFLICT):
            return  # of the block's own
        self._count(error.reason)
        self._log_failure(error)
        if error.reason == UNAVAILABLE:
            self.suspect()
            if self._peer is not None:
                self._peer.suspect()
        elif error.reason == CONFLICT:
            self._answers += 1

    def _log_failure(self, error: UnavailableError) -> None:
        """The first one, and a number for what comes soon after it."""
        self._failures += 1
        now = asyncio.get_running_loop().time()
        if self._observer is not None and now - self._logged_at >= LOG_INTERVAL_S:
            self._logged_at = now
            _log.warning(
                "database_failing",
                operation=self._operation,
                reason=error.reason,
                problem=error.detail,
                requests_failed=self._failures,
            )
            self._failures = 0

    def _count(self, reason: str) -> None:
        if self._observer is not None:
            self._observer.database_failure(self._operation, reason)

    def _set_timer(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(PATIENCE_S, self._look, self._answers)

    def _look(self, answers_before: int) -> None:
        self._timer = None
        if self._in_flight:
            if self._answers == answers_before:
                self.suspect(PATIENCE_S)
            self._set_timer()

    async def _investigate(self) -> None:
        answers_before = self._answers
        try:
            problem = await self._probe()
            # Slow, but somebody got an answer meanwhile: it is there.
            if problem is not None and self._answers == answers_before:
                await self._sit_out(problem)
        finally:
            self._task = None

    async def _sit_out(self, problem: str) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        self._problem, self._began_at = problem, self._suspected_at
        self._backend.give_up(self._operation)
        self._tell(is_available=False)
        _log.error("database_unavailable", operation=self._operation, problem=problem)
        if self._peer is not None:
            self._peer.suspect()
        try:
            while (found := await self._probe()) is not None:
                self._problem = found
                await asyncio.sleep(PROBE_PAUSE_S)
        finally:
            self._outages.append(_Outage(self._began_at, self._now()))
            self._problem = None
            self._backend.resume(self._operation)
        self._tell(is_available=True)
        _log.warning(
            "database_available",
            operation=self._operation,
            after_s=round(loop.time() - began, 1),
            requests_failed=self._failures,
        )
        self._failures = 0

    async def _probe(self) -> str | None:
        """What is wrong; None when it answers."""
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_S):
                await self._backend.probe(self._operation)
        except TimeoutError:
            return f"no answer within {PROBE_TIMEOUT_S:g} s"
        except Exception as error:  # noqa: BLE001 - whatever it is, it is no answer
            found = error if isinstance(error, UnavailableError) else translate(error)
            if isinstance(found, UnavailableError):
                return found.detail or found.reason
            return str(found) if found is not None else type(error).__name__
        return None

    def _tell(self, *, is_available: bool) -> None:
        if self._observer is not None:
            with contextlib.suppress(OSError):  # counters of workers are files, on a full disk too
                self._observer.database_available(self._operation, is_available=is_available)
