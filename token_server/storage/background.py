"""Writes that may follow the answer: audit rows of refusals, and when a secret was last used.

Rows collect in memory and go out in one transaction a moment later, so that a flood of wrong
passwords costs no transaction each. What must not be lost with the process (a revocation and
its audit row) is written in the transaction of the change itself, never here.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable

from token_server.core.throttle import Allowed, Budget, decide_use
from token_server.errors import UnavailableError
from token_server.logs import get_logger
from token_server.records import AuditEvent
from token_server.storage import audit, clients
from token_server.storage.engine import Store
from token_server.storage.errors import StorageFailedError

_log = get_logger(__name__)

_FLUSH_INTERVAL_S = 0.5
_MAX_PENDING_EVENTS = 10_000
_MAX_EVENTS_PER_WRITE = 500
# What strangers can cause must not fill the disk: a burst in full, then 20 rows a second. The log
# has every event, and the metric says how many rows there would have been more.
_EVENT_BUDGET = Budget(burst=2_000, interval_s=0.05)
_MIN_STAMP_STEP_S = 60  # finer than any operator looks at


class BackgroundWriter:
    """One task per process; `close()` writes what is left."""

    def __init__(
        self, store: Store, monotonic: Callable[[], float], on_dropped: Callable[[], None]
    ) -> None:
        self._store = store
        self._monotonic = monotonic
        self._on_dropped = on_dropped
        self._budget_full_at: float | None = None
        self._events: deque[AuditEvent] = deque()
        self._secret_uses: dict[str, int] = {}
        self._written_uses: dict[str, int] = {}
        self._wake = asyncio.Event()
        self._is_closing = False
        self._task = asyncio.create_task(self._run(), name="background-writer")

    def add_event(self, event: AuditEvent) -> None:
        """Never blocks and never fails: beyond the bounds the row is dropped and counted (the log
        line is written all the same)."""
        use = decide_use(self._budget_full_at, self._monotonic(), _EVENT_BUDGET)
        if not isinstance(use, Allowed) or len(self._events) >= _MAX_PENDING_EVENTS:
            self._on_dropped()
            return
        self._budget_full_at = use.full_at
        self._events.append(event)
        self._wake.set()

    def note_secret_use(self, secret_id: str, at: int) -> None:
        if at - self._written_uses.get(secret_id, 0) >= _MIN_STAMP_STEP_S:
            self._secret_uses[secret_id] = at
            self._wake.set()

    async def close(self) -> None:
        self._is_closing = True
        self._wake.set()
        await self._task

    async def _run(self) -> None:
        while not self._is_closing:
            await self._wake.wait()
            self._wake.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_FLUSH_INTERVAL_S):
                    while not self._is_closing:  # let rows collect, but not at shutdown
                        await self._wake.wait()
                        self._wake.clear()
            await self._flush()
        await self._flush()  # what came before the first turn, or during the last

    async def _flush(self) -> None:
        while self._events or self._secret_uses:
            events = [self._events[i] for i in range(min(len(self._events), _MAX_EVENTS_PER_WRITE))]
            uses, self._secret_uses = self._secret_uses, {}
            try:
                async with self._store.write() as connection:
                    if events:
                        await audit.insert_events(connection, events)
                    if uses:
                        await clients.stamp_secret_use(connection, uses)
            except UnavailableError as error:
                # Kept for the next turn; the wait is what the wake-up below and the bound allow.
                self._secret_uses = uses | self._secret_uses
                _log.warning("background_write_failed", reason=error.reason)
                if not self._is_closing:
                    await asyncio.sleep(error.retry_after_s)
                    continue
                for _ in self._events:
                    self._on_dropped()
                return
            except StorageFailedError:
                # A row that the database refuses is refused again: one loss, not a standstill.
                _log.exception("background_write_lost", events=len(events))
                self._on_dropped()
            for _ in events:
                self._events.popleft()
            if len(self._written_uses) > _MAX_PENDING_EVENTS:
                self._written_uses.clear()
            self._written_uses.update(uses)


class AuditTrail:
    """Every audit event is a log line; `record` makes it a row too, a moment later."""

    def __init__(self, writer: BackgroundWriter) -> None:
        self._writer = writer

    def record(self, event: AuditEvent) -> None:
        self._writer.add_event(event)
        self.log(event)

    def log(self, event: AuditEvent) -> None:
        """For events whose row was written in the transaction of what they report."""
        _log.info(
            event.event.value.replace(".", "_"),
            audit=True,
            actor=event.actor,
            subject=event.subject,
            client_id=event.client_id,
            reason=event.reason,
            ip_address=event.ip_address,
            request_id=event.request_id,
            **event.details,
        )
