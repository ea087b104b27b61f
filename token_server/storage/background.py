"""Writes that may follow the answer: audit rows of refusals, and when something was last used.

Rows collect in memory and go out in one transaction a moment later, so that a flood of wrong
passwords costs no transaction each. What must not be lost with the process (a revocation and
its audit row) is written in the transaction of the change itself, never here.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable, Mapping

from sqlalchemy.ext.asyncio import AsyncConnection

from token_server.core.throttle import Allowed, Budget, decide_use
from token_server.errors import UnavailableError
from token_server.logs import get_logger
from token_server.records import AuditEvent
from token_server.storage import api_keys, audit, clients
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


class _Uses:
    """When the secrets of one table were last used, as far as that is not written yet."""

    def __init__(
        self, write: Callable[[AsyncConnection, Mapping[str, int]], Awaitable[None]]
    ) -> None:
        self.write = write
        self._pending: dict[str, int] = {}
        self._written: dict[str, int] = {}

    def __bool__(self) -> bool:
        return bool(self._pending)

    def note(self, name: str, at: int) -> bool:
        """False: what is stored is near enough."""
        if at - self._written.get(name, 0) < _MIN_STAMP_STEP_S:
            return False
        self._pending[name] = at
        return True

    def take(self) -> dict[str, int]:
        taken, self._pending = self._pending, {}
        return taken

    def give_back(self, taken: dict[str, int]) -> None:
        self._pending = taken | self._pending

    def remember(self, written: dict[str, int]) -> None:
        if len(self._written) > _MAX_PENDING_EVENTS:
            self._written.clear()
        self._written.update(written)


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
        self._secret_uses = _Uses(clients.stamp_secret_use)
        self._key_uses = _Uses(api_keys.stamp_key_use)
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
        if self._secret_uses.note(secret_id, at):
            self._wake.set()

    def note_key_use(self, key_id: str, at: int) -> None:
        if self._key_uses.note(key_id, at):
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
        stamps = (self._secret_uses, self._key_uses)
        while self._events or any(stamps):
            events = [self._events[i] for i in range(min(len(self._events), _MAX_EVENTS_PER_WRITE))]
            taken = [(uses, uses.take()) for uses in stamps]
            try:
                await self._write(events, taken)
            except UnavailableError as error:
                # Kept for the next turn; the wait is what the wake-up below and the bound allow.
                for uses, used_at in taken:
                    uses.give_back(used_at)
                log = _log.debug if error.is_of_storage else _log.warning
                log("background_write_failed", reason=error.reason)
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
            for uses, used_at in taken:
                uses.remember(used_at)

    async def _write(
        self, events: list[AuditEvent], taken: list[tuple[_Uses, dict[str, int]]]
    ) -> None:
        async with self._store.write() as connection:
            if events:
                await audit.insert_events(connection, events)
            for uses, used_at in taken:
                await uses.write(connection, used_at)


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
