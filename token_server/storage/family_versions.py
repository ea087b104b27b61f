"""Refresh-token families by the version of the master key under which they were born.

Operators ask here, requests never do: which sessions still rest on an old master key, and to end
all that do. Batches go by `seq`, the primary key; each is a transaction of its own.
"""

from dataclasses import asdict, dataclass

from sqlalchemy import bindparam, func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from token_server.storage.schema import families

# For `store.read`: counting millions of sessions takes longer than any request may.
QUESTION_WAIT_S = 10.0

_C = families.c
_IS_OTHER = _C.mac_version != bindparam("version")
_IS_UNREVOKED = _C.revoked_at.is_(None)
# Locked in the order of `seq`, as rotations are: the two cannot deadlock.
_BATCH = (
    select(_C.seq)
    .where(_C.seq > bindparam("after"), _IS_OTHER, _IS_UNREVOKED)
    .order_by(_C.seq)
    .limit(bindparam("limit"))
    .with_for_update()
)
_REVOKE = (
    update(families)
    .where(_C.seq.in_(_BATCH))
    .values(revoked_at=bindparam("now"), revoked_reason=bindparam("reason"))
    .returning(_C.seq)
)
_IS_LIVE_AT = (
    _IS_UNREVOKED,
    _C.absolute_expires_at > bindparam("now"),
    _C.idle_expires_at > bindparam("now"),
)
_COUNT = select(func.count()).select_from(families).where(*_IS_LIVE_AT)
_LATEST = (
    select(_C.absolute_expires_at)
    .where(*_IS_LIVE_AT, _IS_OTHER)
    .order_by(_C.absolute_expires_at.desc())
    .limit(1)
)


@dataclass(frozen=True, slots=True)
class Sweep:
    """Which sessions to end (those not born under `version`), and what to write into them."""

    version: int
    reason: str
    now: int


async def revoke_families(conn: AsyncConnection, sweep: Sweep, after: int, limit: int) -> list[int]:
    """Revoke at most `limit` of them whose `seq` is above `after`; the `seq` of each, in no
    order. Fewer than `limit`: there are no more."""
    values = {**asdict(sweep), "after": after, "limit": limit}
    return list((await conn.execute(_REVOKE, values)).scalars())


async def needed_until(conn: AsyncConnection, version: int, now: int) -> int | None:
    """When the last live session ends that was born under another version; None if none lives."""
    found = (await conn.execute(_LATEST, {"version": version, "now": now})).scalar_one_or_none()
    return None if found is None else int(found)


async def count_live_families(conn: AsyncConnection, now: int) -> int:
    """How many sessions live, whatever they were born under."""
    return int((await conn.execute(_COUNT, {"now": now})).scalar_one())
