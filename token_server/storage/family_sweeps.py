"""Ending many sessions without keeping others waiting: in batches, each a transaction of its own.

One statement for a million sessions would hold SQLite's only writer for some 15 s. A batch goes by
`seq`, the primary key, and takes only sessions that were there when the sweep began: whoever logs
in meanwhile stays.
"""

from dataclasses import dataclass, replace
from typing import Literal

from sqlalchemy import bindparam, func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from token_server.storage.schema import families

_C = families.c
_IS_UNREVOKED = _C.revoked_at.is_(None)
_NEWEST = select(func.max(_C.seq))

Owner = Literal["client", "user", "everybody"]


@dataclass(frozen=True, slots=True)
class Sweep:
    """Whose sessions to end, and what to write into them."""

    owner: Owner
    owner_id: str  # "" for everybody
    reason: str
    now: int


@dataclass(frozen=True, slots=True)
class Progress:
    """A sweep on its way: sessions up to `last_seq` are its business, those up to `reached` are
    dealt with, `ended` by the last batch. None left to do: `is_complete`."""

    sweep: Sweep
    last_seq: int
    reached: int
    ended: int
    is_complete: bool


async def begin_sweep(conn: AsyncConnection, sweep: Sweep, limit: int) -> Progress:
    """The first batch, in the transaction of the change that calls for it."""
    last_seq = int((await conn.execute(_NEWEST)).scalar_one() or 0)
    return await continue_sweep(conn, Progress(sweep, last_seq, 0, 0, is_complete=False), limit)


async def continue_sweep(conn: AsyncConnection, progress: Progress, limit: int) -> Progress:
    """The next batch: at most `limit` sessions."""
    sweep = progress.sweep
    conditions = [_C.seq > bindparam("after"), _C.seq <= bindparam("last_seq"), _IS_UNREVOKED]
    if sweep.owner != "everybody":
        column = _C.client_id if sweep.owner == "client" else _C.user_id
        conditions.append(column == bindparam("owner_id"))
    # Locked in the order of `seq`, as rotations are: the two cannot deadlock.
    batch = (
        select(_C.seq)
        .where(*conditions)
        .order_by(_C.seq)
        .limit(bindparam("limit"))
        .with_for_update()
    )
    revoke = (
        update(families)
        .where(_C.seq.in_(batch))
        .values(revoked_at=bindparam("now"), revoked_reason=bindparam("reason"))
        .returning(_C.seq)
    )
    values = {
        "after": progress.reached,
        "last_seq": progress.last_seq,
        "owner_id": sweep.owner_id,
        "limit": limit,
        "now": sweep.now,
        "reason": sweep.reason,
    }
    ended = list((await conn.execute(revoke, values)).scalars())
    return replace(
        progress,
        reached=max(ended, default=progress.reached),
        ended=len(ended),
        is_complete=len(ended) < limit,
    )
