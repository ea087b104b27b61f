"""After a restored backup: what was handed out since the backup was made must not live on.

Refresh tokens die by the epoch, access tokens by their status lists: all lists that could have
been in use are ended as a whole, and new sessions and machine tokens begin in lists that no lost
one can have reached (refresh.md 11, revocation.md).
"""

from dataclasses import dataclass

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from token_server.core.status_list import BLOCK_SIZE, LIST_SIZE
from token_server.storage import meta

# What a lost stretch of time may have used up at most: 134 million logins, or machine tokens.
LOST_LISTS = 1024
# Who restores the same backup again, minutes later, must not come back to the same lists.
APART_S = 60
_LAST_POSTGRES = (
    "SELECT greatest((SELECT coalesce(max({column}), 0) FROM {table}), coalesce("
    "pg_sequence_last_value(pg_get_serial_sequence('{table}', '{column}')::regclass), 0))"
)
_SET_POSTGRES = "SELECT setval(pg_get_serial_sequence('{table}', '{column}'), :previous)"


async def restore_epoch(conn: AsyncConnection, now: int) -> int:
    """The next epoch, with fresh lists. Returns the epoch."""
    epoch = await meta.raise_epoch(conn)
    lists = LOST_LISTS + now // APART_S % LOST_LISTS
    seq = await _skip_to_fresh_list(conn, _Numbering("families", "seq", LIST_SIZE), lists)
    await meta.set(conn, meta.SESSIONS_FLOOR, str(seq))
    blocks = _Numbering("status_blocks", "block", LIST_SIZE // BLOCK_SIZE)
    block = await _skip_to_fresh_list(conn, blocks, lists)
    await meta.set(conn, meta.MACHINES_FLOOR, str(block * BLOCK_SIZE))
    return epoch


@dataclass(frozen=True, slots=True)
class _Numbering:
    table: str
    column: str
    size: int  # rows to a list

    def fresh(self, last: int, lists: int) -> int:
        """The first number of a list that is `lists` beyond the one after `last`."""
        return ((last + self.size) // self.size + lists) * self.size


async def _skip_to_fresh_list(conn: AsyncConnection, numbering: _Numbering, lists: int) -> int:
    """The next row begins a list that nothing lost can have reached; returns its number.

    What is stored is the number before it, as given: PostgreSQL forgets a start value that no
    row has used yet, and would go back behind rows that were pruned.
    """
    table = numbering.table
    names = {"table": table, "column": numbering.column}
    if conn.dialect.name == "postgresql":
        last = await conn.execute(text(_LAST_POSTGRES.format(**names)))
        following = numbering.fresh(int(last.scalar_one()), lists)
        await conn.execute(text(_SET_POSTGRES.format(**names)), {"previous": following - 1})
        return following
    last = await conn.execute(
        text("SELECT coalesce((SELECT seq FROM sqlite_sequence WHERE name = :table), 0)"),
        {"table": table},
    )
    following = numbering.fresh(int(last.scalar_one()), lists)
    values = {"table": table, "previous": following - 1}
    changed = await conn.execute(
        text("UPDATE sqlite_sequence SET seq = :previous WHERE name = :table"), values
    )
    if changed.rowcount == 0:  # no row was ever inserted
        await conn.execute(
            text("INSERT INTO sqlite_sequence (name, seq) VALUES (:table, :previous)"), values
        )
    return following
