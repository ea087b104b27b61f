"""The one statement that spends refresh tokens, a batch of them at a time (refresh.md).

It steps the generation of rows that are current, of the same client, not revoked and not expired,
and nobody can be its second winner. It is the hottest of all statements, so it goes to the driver
as it is, as a transaction of its own. RFC 6749 §6.
"""

from collections.abc import Sequence

from token_server.records import Family
from token_server.storage.batch import Batcher, RotationEntry, Work
from token_server.storage.engine import Store
from token_server.storage.families import COLUMN_NAMES, ROLES, family_of
from token_server.storage.steps import Bound, Dialect, Entries

_ENTRIES = Entries(
    family_id="bytea", generation="bigint", client_id="text", now="bigint", idle_ttl_s="bigint"
)
_IS_CURRENT = (
    "{f}.generation = e.generation AND {f}.client_id = e.client_id AND {f}.revoked_at IS NULL"
    " AND {f}.idle_expires_at > e.now AND {f}.absolute_expires_at > e.now"
)
_ROTATE = {
    "sqlite": f"""
WITH {{e}}
UPDATE families
SET generation = families.generation + 1,
    rotated_at = e.now,
    idle_expires_at = min(e.now + e.idle_ttl_s, families.absolute_expires_at)
FROM e
WHERE families.family_id = e.family_id AND {_IS_CURRENT.format(f="families")}
RETURNING {", ".join(COLUMN_NAMES)}, {ROLES.format(f="families")} AS roles
""",  # noqa: S608 - constants
    "postgresql": f"""
WITH {{e}}, l AS (
    SELECT f.seq, e.*
    FROM e JOIN families AS f ON f.family_id = e.family_id
    WHERE {_IS_CURRENT.format(f="f")}
    ORDER BY f.seq
    FOR UPDATE OF f
)
UPDATE families AS f
SET generation = f.generation + 1,
    rotated_at = e.now,
    idle_expires_at = least(e.now + e.idle_ttl_s, f.absolute_expires_at)
FROM l AS e
WHERE f.seq = e.seq AND {_IS_CURRENT.format(f="f")}
RETURNING {", ".join("f." + name for name in COLUMN_NAMES)}, {ROLES.format(f="f")} AS roles
""",  # noqa: S608 - constants
}


def rotation_statement(dialect: Dialect, entries: Sequence[RotationEntry]) -> Bound:
    """The statement for these entries, of which there is at least one, and its values."""
    rows = [
        (entry.family_id, entry.generation, entry.client_id, entry.now, entry.idle_ttl_s)
        for entry in entries
    ]
    return _ENTRIES.bind(dialect, _ROTATE[dialect], rows)


async def rotate_families(store: Store, entries: Sequence[RotationEntry]) -> list[Family]:
    """Spends the entries' refresh tokens, durably; returns the families that were stepped, in no
    order.

    At most one entry for each family. A family that is missing from the result was not current,
    not the client's, revoked or expired at its entry's `now`: read it, then decide.
    """
    rows = await store.write_alone(*rotation_statement(store.dialect, entries))
    return [family_of(row) for row in rows]


def rotation_batcher(store: Store) -> Batcher[RotationEntry, Family | None]:
    """Group commit of rotations; None means that the entry stepped nothing."""

    async def run(entries: Sequence[RotationEntry]) -> Sequence[Family | None]:
        stepped = {family.family_id: family for family in await rotate_families(store, entries)}
        return [stepped.get(entry.family_id) for entry in entries]

    return Batcher(Work(run, key=lambda entry: entry.family_id))
