"""What status lists are made of: revoked sessions and machine tokens, and the blocks of numbers.

Followed from (revoked_at, number) on, in pages; the partial index of `families` holds the revoked
rows alone, so that following costs what was revoked and not what lives. Nothing is ever
un-revoked. Decides no positions: core/status_list.py does.
"""

import itertools
from dataclasses import dataclass
from typing import NamedTuple

from sqlalchemy import BigInteger, bindparam, delete, func, insert, select, text, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from token_server.core.status_list import BLOCK_SIZE, Kind
from token_server.storage.schema import denied_tokens, families, revoked_positions, status_blocks

_F = families.c
_P = revoked_positions.c
_D = denied_tokens.c


class Revoked(NamedTuple):
    """One revoked session (`number` is its seq) or machine token; ordered as it is followed."""

    revoked_at: int
    number: int


@dataclass(frozen=True, slots=True)
class Numbers:
    """The lowest and highest number in use; None when there is none."""

    lowest: int | None
    highest: int | None


_AFTER = tuple_(bindparam("revoked_at", type_=BigInteger), bindparam("number", type_=BigInteger))
_REVOKED_AFTER = {
    "s": select(_F.revoked_at, _F.seq)
    .where(_F.revoked_at.is_not(None), tuple_(_F.revoked_at, _F.seq) > _AFTER)
    .order_by(_F.revoked_at, _F.seq)
    .limit(bindparam("limit")),
    "m": select(_P.revoked_at, _P.number)
    .where(tuple_(_P.revoked_at, _P.number) > _AFTER)
    .order_by(_P.revoked_at, _P.number)
    .limit(bindparam("limit")),
}
_REVOKED_SINCE = {
    "s": select(func.count(), func.coalesce(func.sum(_F.seq), 0)).where(
        _F.revoked_at.is_not(None), _F.revoked_at >= bindparam("since")
    ),
    "m": select(func.count(), func.coalesce(func.sum(_P.number), 0)).where(
        _P.revoked_at >= bindparam("since")
    ),
}
_SESSION_NUMBERS = select(
    select(func.min(_F.seq)).scalar_subquery(), select(func.max(_F.seq)).scalar_subquery()
)
_BLOCK_NUMBERS = select(
    select(func.min(status_blocks.c.block)).scalar_subquery(),
    select(func.max(status_blocks.c.block)).scalar_subquery(),
)
_RESERVE = (
    insert(status_blocks)
    .values(reserved_at=bindparam("reserved_at"))
    .returning(status_blocks.c.block)
)
_REVOKE_POSITION = text(
    "INSERT INTO revoked_positions (number, revoked_at) VALUES (:number, :revoked_at)"
    " ON CONFLICT (number) DO NOTHING"
)
_OLDEST_BLOCKS = (
    select(status_blocks.c.block, status_blocks.c.reserved_at)
    .order_by(status_blocks.c.block)
    .limit(bindparam("limit"))
)


async def revoked_after(
    conn: AsyncConnection, kind: Kind, after: Revoked, limit: int
) -> list[Revoked]:
    """The next revoked sessions (`s`) or machine tokens (`m`) behind `after`, in their order."""
    values = {"revoked_at": after.revoked_at, "number": after.number, "limit": limit}
    return [Revoked(*row) for row in await conn.execute(_REVOKED_AFTER[kind], values)]


async def revoked_since(conn: AsyncConnection, kind: Kind, since: int) -> tuple[int, int]:
    """How many were revoked at the instant `since` or later, and the sum of their numbers: enough
    to tell whether all of them are known, and much cheaper than to read them."""
    row = (await conn.execute(_REVOKED_SINCE[kind], {"since": since})).one()
    return int(row[0]), int(row[1])


async def session_numbers(conn: AsyncConnection) -> Numbers:
    """Of the sessions whose rows exist: pruned ones have no live tokens."""
    row = (await conn.execute(_SESSION_NUMBERS)).one()
    return Numbers(row[0], row[1])


async def block_numbers(conn: AsyncConnection) -> Numbers:
    """Of the blocks of machine tokens that may live."""
    row = (await conn.execute(_BLOCK_NUMBERS)).one()
    return Numbers(row[0], row[1])


async def reserve_block(conn: AsyncConnection, now: int) -> int:
    """A block of machine-token numbers that nobody else has or will have."""
    return int((await conn.execute(_RESERVE, {"reserved_at": now})).scalar_one())


async def revoke_machine_token(conn: AsyncConnection, number: int, now: int) -> bool:
    """False: it was revoked before."""
    done = await conn.execute(_REVOKE_POSITION, {"number": number, "revoked_at": now})
    return done.rowcount == 1


async def prune_denied(conn: AsyncConnection, before: int, limit: int) -> int:
    """Forget up to `limit` denied tokens that expired before `before`; how many."""
    old = select(_D.jti).where(_D.expires_at < before).limit(limit)
    return (await conn.execute(delete(denied_tokens).where(_D.jti.in_(old)))).rowcount


async def prune_blocks(conn: AsyncConnection, before: int, limit: int) -> int:
    """Forget up to `limit` blocks that were reserved before `before`, when no token of theirs can
    live any more, and what was revoked in them; how many. Always the oldest ones, without gaps,
    so that everything below the lowest block is past. The newest stays: lists go on from it."""
    newest = (await block_numbers(conn)).highest
    oldest = await conn.execute(_OLDEST_BLOCKS, {"limit": limit})
    past = itertools.takewhile(lambda row: row[1] < before and row[0] != newest, oldest.all())
    gone = [int(row[0]) for row in past]
    if gone:
        await conn.execute(delete(status_blocks).where(status_blocks.c.block.in_(gone)))
        await conn.execute(
            delete(revoked_positions).where(_P.number < (max(gone) + 1) * BLOCK_SIZE)
        )
    return len(gone)
