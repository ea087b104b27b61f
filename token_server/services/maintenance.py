"""What an operator does to the database as a whole: upgrade, inspect, back up, prune, restore.

Opens the store itself where a whole runtime would already have changed something (opening one
upgrades the schema). Pruning goes in batches that are bounded by time, with pauses between, so that
a busy server never waits long for its turn to write (core/batch_pace.py).
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal, assert_never

from token_server.config import Settings
from token_server.config_values import hide_password
from token_server.core.batch_pace import BatchPace
from token_server.errors import OperatorError
from token_server.records import AuditEvent, AuditEventType
from token_server.runtime import Clock, Runtime
from token_server.services.session_sweeps import BATCH as SWEEP_BATCH
from token_server.services.session_sweeps import finish_sweep
from token_server.storage import (
    api_keys,
    audit,
    backup,
    families,
    meta,
    migrations,
    restoring,
    status,
    throttle,
)
from token_server.storage.database_url import SqliteAddress, parse_database_url
from token_server.storage.engine import Store, open_store
from token_server.storage.family_sweeps import Sweep, begin_sweep
from token_server.storage.inspection import describe_database

PrunedKind = Literal[
    "sessions", "audit_events", "throttles", "machine_blocks", "denied_tokens", "api_keys"
]

# Expired sessions stay this long: tokens of theirs may live for a day, and people ask questions.
FAMILY_MARGIN_S = 7 * 86400
DENIED_MARGIN_S = 3600  # beyond any clock's difference
FOLLOW_INTERVAL_S = 1.0
FOLLOW_OVERLAP = 200  # on PostgreSQL a lower id may become visible after a higher one


@dataclass(frozen=True, slots=True)
class DatabaseStatus:
    """`revision` is None for a database without our tables."""

    database: str
    exists: bool
    version: str | None
    revision: str | None
    head: str
    is_current: bool
    upgraded_at: int | None
    size_bytes: int | None
    epoch: int | None


@dataclass(frozen=True, slots=True)
class AuditRow:
    """One stored event; ids grow."""

    id: int
    event: AuditEvent


@dataclass(frozen=True, slots=True)
class Pruned:
    sessions: int
    audit_events: int
    throttles: int  # guessing budgets that are full again, so that their rows say nothing
    machine_blocks: int  # of positions in status lists whose tokens have all expired
    denied_tokens: int  # revoked tokens without a position that have expired
    api_keys: int  # revoked or expired ones


async def database_status(settings: Settings, clock: Clock) -> DatabaseStatus:
    """Looks without changing anything; a SQLite file that is not there is not made."""
    shown = hide_password(settings.database_url.reveal())
    if missing_file(settings) is not None:
        return DatabaseStatus(shown, False, None, None, migrations.HEAD, False, None, None, None)
    async with _opened(settings, clock) as store:
        status = await migrations.schema_status(store)
        async with store.read() as connection:
            facts = await describe_database(connection)
            epoch = (
                None if status.current is None else int(await meta.get(connection, meta.EPOCH) or 0)
            )
    return DatabaseStatus(
        database=shown,
        exists=True,
        version=facts.version,
        revision=status.current,
        head=status.head,
        is_current=status.is_current,
        upgraded_at=status.upgraded_at,
        size_bytes=facts.size_bytes,
        epoch=epoch,
    )


async def upgrade_database(settings: Settings, clock: Clock) -> bool:
    """Bring the schema to this release's; True when there was something to do."""
    async with _opened(settings, clock) as store:
        if not await migrations.upgrade(store):
            return False
        event = _event(AuditEventType.DATABASE_UPGRADED, clock.now(), revision=migrations.HEAD)
        async with store.write() as connection:
            await audit.insert_events(connection, [event])
    return True


async def back_up_database(settings: Settings, clock: Clock, target: Path) -> None:
    """A consistent copy of a SQLite database while it is in use; PostgreSQL has pg_dump."""
    path = missing_file(settings)
    if path is not None:
        raise OperatorError(f"There is no database at {path}.", exit_code=3)
    async with _opened(settings, clock) as store:
        await backup.backup(store, target)


async def mark_restored(runtime: Runtime) -> int:
    """Ends every session after a restored backup, whose old refresh tokens would be current
    again; the new epoch. Servers that run must be restarted to know it."""
    now = runtime.clock.now()
    async with runtime.store.write() as connection:
        epoch = await restoring.restore_epoch(connection, now)
        progress = await begin_sweep(
            connection, Sweep("everybody", "", "backup_restored", now), SWEEP_BATCH
        )
        event = _event(
            AuditEventType.DATABASE_RESTORED, now, epoch=epoch, sessions_ended=progress.ended
        )
        await audit.insert_events(connection, [event])
    runtime.audit.log(event)
    rest = _event(AuditEventType.SESSION_REVOKED, now)
    await finish_sweep(runtime, progress, replace(rest, reason="backup_restored"))
    return epoch


async def prune_database(runtime: Runtime, audit_older_than_s: int | None) -> Pruned:
    """Delete sessions and API keys that ended long ago, audit events if an age is given, what a
    flood of guesses left behind, and what was known of machine tokens that have expired."""
    now = runtime.clock.now()
    sessions = await _prune(runtime, "sessions", now - FAMILY_MARGIN_S)
    events = 0
    if audit_older_than_s is not None:
        events = await _prune(runtime, "audit_events", now - audit_older_than_s)
    throttles = await _prune(runtime, "throttles", now - throttle.PRUNE_MARGIN_S)
    # A number is taken for a day, an API key's is used for a day more, and a token lives for a day
    # at most.
    blocks = await _prune(runtime, "machine_blocks", now - FAMILY_MARGIN_S)
    denied = await _prune(runtime, "denied_tokens", now - DENIED_MARGIN_S)
    keys = await _prune(runtime, "api_keys", now - FAMILY_MARGIN_S)
    pruned = Pruned(sessions, events, throttles, blocks, denied, keys)
    event = _event(AuditEventType.DATABASE_PRUNED, now, **asdict(pruned))
    async with runtime.store.write() as connection:
        await audit.insert_events(connection, [event])
    runtime.audit.log(event)
    return pruned


async def latest_audit_events(runtime: Runtime, limit: int) -> list[AuditRow]:
    """The newest `limit` events, the oldest of them first."""
    async with runtime.store.read() as connection:
        found = await audit.latest_events(connection, limit)
    return [AuditRow(stored.id, stored.event) for stored in found]


async def follow_audit_events(runtime: Runtime, seen: list[AuditRow]) -> AsyncIterator[AuditRow]:
    """Every event beyond `seen` (the newest FOLLOW_OVERLAP or more), as it comes; never ends."""
    known = {stored.id for stored in seen}
    newest = max(known, default=0)
    while True:
        after = max(0, newest - FOLLOW_OVERLAP)
        async with runtime.store.read() as connection:
            found = await audit.list_events(connection, after, 2 * FOLLOW_OVERLAP)
        fresh = [stored for stored in found if stored.id not in known]
        for stored in fresh:
            yield AuditRow(stored.id, stored.event)
        known = {stored.id for stored in found}
        newest = max(known, default=newest)
        if len(fresh) < FOLLOW_OVERLAP:
            await asyncio.sleep(FOLLOW_INTERVAL_S)


def missing_file(settings: Settings) -> Path | None:
    """The path of a SQLite database that does not exist yet."""
    address = parse_database_url(settings.database_url.reveal())
    if isinstance(address, SqliteAddress) and not address.path.exists():
        return address.path
    return None


async def _prune(runtime: Runtime, kind: PrunedKind, before: int) -> int:
    total, pace = 0, BatchPace()
    while True:
        limit = pace.limit
        async with runtime.store.write() as connection:
            begun_at = runtime.clock.monotonic()  # not while waiting for the turn
            match kind:
                case "sessions":
                    count = await families.prune_families(connection, before, limit)
                case "audit_events":
                    count = await audit.prune_events(connection, before, limit)
                case "throttles":
                    count = await throttle.prune_throttles(connection, before, limit)
                case "machine_blocks":
                    count = await status.prune_blocks(connection, before, limit)
                case "denied_tokens":
                    count = await status.prune_denied(connection, before, limit)
                case "api_keys":
                    count = await api_keys.prune_keys(connection, before, limit)
                case _:
                    assert_never(kind)
        total += count
        if count < limit:
            return total
        pause_s = pace.pause_after(runtime.clock.monotonic() - begun_at)
        await asyncio.sleep(pause_s)
        await runtime.store.checkpoint()
        await asyncio.sleep(pause_s)


@asynccontextmanager
async def _opened(settings: Settings, clock: Clock) -> AsyncIterator[Store]:
    store = await open_store(settings.database_url.reveal(), now=clock.now)
    try:
        yield store
    finally:
        await store.close()


def _event(event: AuditEventType, at: int, **details: str | int) -> AuditEvent:
    return AuditEvent(event=event, at=at, actor="operator", details=details)
