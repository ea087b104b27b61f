"""The audit trail: appended and read in order, deleted only by age.

A row goes into the transaction of the change that it tells of. Rows hold ids, never tokens,
digests, e-mails or headers; `details` is a JSON object of short texts and numbers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from sqlalchemy import Row, bindparam, delete, select
from sqlalchemy.ext.asyncio import AsyncConnection

from token_server.records import AuditEvent, AuditEventType
from token_server.storage.schema import audit_events
from token_server.storage.steps import Bound, Dialect, Entries, dialect_of

_C = audit_events.c
_COLUMNS = (
    _C.id,
    _C.at,
    _C.event,
    _C.actor,
    _C.subject,
    _C.client_id,
    _C.reason,
    _C.ip_address,
    _C.request_id,
    _C.details,
)
_ENTRIES = Entries(
    at="bigint",
    event="text",
    actor="text",
    subject="text",
    client_id="text",
    reason="text",
    ip_address="text",
    request_id="text",
    details="text",
)
_NAMES = ", ".join(_ENTRIES.names)
_INSERT = f"WITH {{e}} INSERT INTO audit_events ({_NAMES}) SELECT {_NAMES} FROM e"  # noqa: S608 - constants
_LIST = (
    select(*_COLUMNS).where(_C.id > bindparam("after")).order_by(_C.id).limit(bindparam("limit"))
)
_LATEST = select(*_COLUMNS).order_by(_C.id.desc()).limit(bindparam("limit"))
_PRUNE = delete(audit_events).where(
    _C.id.in_(
        select(_C.id).where(_C.at < bindparam("before")).order_by(_C.at).limit(bindparam("limit"))
    )
)
_details = msgspec.json.Decoder(dict[str, str | int])


@dataclass(frozen=True, slots=True)
class StoredEvent:
    id: int  # grows; PostgreSQL may show a lower one later, when its transaction committed later
    event: AuditEvent


def insertion(dialect: Dialect, events: Sequence[AuditEvent]) -> Bound:
    """The statement that appends these, of which there is at least one."""
    return _ENTRIES.bind(dialect, _INSERT, [_values_of(event) for event in events])


async def insert_events(conn: AsyncConnection, events: Sequence[AuditEvent]) -> None:
    if events:
        statement, values = insertion(dialect_of(conn), events)
        await conn.exec_driver_sql(statement, tuple(values))


async def list_events(conn: AsyncConnection, after: int, limit: int) -> list[StoredEvent]:
    """Oldest first, beginning behind the id `after` (0 for the beginning)."""
    rows = await conn.execute(_LIST, {"after": after, "limit": limit})
    return [_event_of(row) for row in rows]


async def latest_events(conn: AsyncConnection, limit: int) -> list[StoredEvent]:
    """The newest `limit` events, oldest of them first."""
    rows = (await conn.execute(_LATEST, {"limit": limit})).all()
    return [_event_of(row) for row in reversed(rows)]


async def prune_events(conn: AsyncConnection, before: int, limit: int) -> int:
    """Deletes at most `limit` events from before the instant `before`; returns how many."""
    return (await conn.execute(_PRUNE, {"before": before, "limit": limit})).rowcount


def _values_of(event: AuditEvent) -> tuple[object, ...]:
    return (
        event.at,
        event.event.value,
        event.actor,
        event.subject,
        event.client_id,
        event.reason,
        event.ip_address,
        event.request_id,
        msgspec.json.encode(dict(event.details)).decode() if event.details else "{}",
    )


def _event_of(row: Row[*tuple[Any, ...]]) -> StoredEvent:
    values = row._asdict()
    event_id = values.pop("id")
    return StoredEvent(
        event_id,
        AuditEvent(
            **{
                **values,
                "event": AuditEventType(values["event"]),
                "details": _details.decode(values["details"]),
            }
        ),
    )
