"""The states of guessing budgets, shared by all processes and kept over restarts.

The steps of a batch are decided one after the other by core/throttle.py, in one transaction
that holds their groups: SQLite has one writer anyway, PostgreSQL takes an advisory lock for each
group. So two processes never read the same state, and a refused step writes nothing. A state
that lies in the past says no more than its absence: such rows go as new ones come.
"""

import functools
import hashlib
from collections.abc import Mapping, Sequence
from typing import assert_never

from sqlalchemy import bindparam, delete, select
from sqlalchemy.ext.asyncio import AsyncConnection

from token_server.core.throttle import Done, GiveBack, Refused, Take, decide_take, give_back
from token_server.storage.batch import Batcher, Work
from token_server.storage.engine import Store
from token_server.storage.schema import throttles

Step = Take | GiveBack
Decision = Done | Refused

_C = throttles.c
_MS = 1000
# Another process's clock may be behind this one's, and the row still count there.
PRUNE_MARGIN_S = 60
_PRUNED_PER_ROW = 2  # more than one: the table shrinks back after a flood

# PostgreSQL has room for some thousands of locks in all: a flood from everywhere must not fill it.
_LOCKS = 1024
_LOCK_CLASS = 0x6775  # "gu"; migrations lock by one long number, which never meets a pair

# As in families.py: hot, and different on each engine, so plain texts for the driver.
_LOCK = f"SELECT pg_advisory_xact_lock({_LOCK_CLASS}, id) FROM unnest($1::int[]) AS e (id)"  # noqa: S608 - a constant
_READ_POSTGRES = "SELECT bucket, full_at FROM throttles WHERE bucket = ANY($1::text[])"
_WRITE_POSTGRES = (
    "INSERT INTO throttles (bucket, full_at)"
    " SELECT e.bucket, e.full_at FROM unnest($1::text[], $2::bigint[]) AS e (bucket, full_at)"
    " ON CONFLICT (bucket) DO UPDATE SET full_at = excluded.full_at"
)
_WRITE_SQLITE = (
    "INSERT INTO throttles (bucket, full_at) VALUES (?, ?)"
    " ON CONFLICT (bucket) DO UPDATE SET full_at = excluded.full_at"
)
_PRUNE = delete(throttles).where(
    _C.bucket.in_(
        select(_C.bucket)
        .where(_C.full_at < bindparam("before"))
        .order_by(_C.full_at)
        .limit(bindparam("limit"))
        .with_for_update(skip_locked=True)  # waits for nobody, so it cannot deadlock
    )
)


@functools.cache  # one text for each number of buckets in a batch
def _read_sqlite(size: int) -> str:
    marks = ", ".join(["?"] * size)
    return f"SELECT bucket, full_at FROM throttles WHERE bucket IN ({marks})"  # noqa: S608 - marks


def step_batcher(store: Store) -> Batcher[Step, Decision]:
    """Group commit of steps. Steps of one bucket may share a batch, so each is its own key."""
    return Batcher(store, Work(_apply, key=id))


async def _apply(store: Store, steps: Sequence[Step]) -> list[Decision]:
    async with store.write() as conn:
        return await apply_steps(conn, steps)


async def apply_steps(conn: AsyncConnection, steps: Sequence[Step]) -> list[Decision]:
    """Decides each step on what the steps before it left, and stores what changed."""
    await _hold_groups(conn, {step.group for step in steps})
    states = await _read(conn, sorted({name for step in steps for name in _names(step)}))
    changed: dict[str, float] = {}
    decisions: list[Decision] = []
    for step in steps:
        decision = _decide(states, step)
        if isinstance(decision, Done):
            changed.update(decision.states)
            states.update(decision.states)
        decisions.append(decision)
    if changed:
        await _write(conn, changed)
        before = min(step.now for step in steps) - PRUNE_MARGIN_S
        await prune_throttles(conn, before, _PRUNED_PER_ROW * len(changed))
    return decisions


async def prune_throttles(conn: AsyncConnection, before: float, limit: int) -> int:
    """Deletes at most `limit` states that were past at the instant `before`; returns how many."""
    values = {"before": round(before * _MS), "limit": limit}
    return (await conn.execute(_PRUNE, values)).rowcount


def _decide(states: Mapping[str, float], step: Step) -> Decision:
    match step:
        case Take():
            return decide_take(states, step)
        case GiveBack():
            return give_back(states, step)
        case _:
            assert_never(step)


def _names(step: Step) -> list[str]:
    buckets = step.buckets if isinstance(step, Take) else (*step.returned, *step.forgiven)
    return [name for bucket in buckets for name in (bucket.name, bucket.name_beside)]


async def _hold_groups(conn: AsyncConnection, groups: set[str]) -> None:
    if conn.dialect.name == "postgresql":
        # In one order, so that two processes cannot wait for each other.
        await conn.exec_driver_sql(_LOCK, (sorted({_lock_id(group) for group in groups}),))


def _lock_id(group: str) -> int:
    """Groups that happen to share a number only wait for each other."""
    return int.from_bytes(hashlib.sha256(group.encode()).digest()[:8], "big") % _LOCKS


async def _read(conn: AsyncConnection, names: Sequence[str]) -> dict[str, float]:
    if conn.dialect.name == "postgresql":
        rows = await conn.exec_driver_sql(_READ_POSTGRES, (names,))
    else:
        rows = await conn.exec_driver_sql(_read_sqlite(len(names)), tuple(names))
    return {row.bucket: row.full_at / _MS for row in rows}


async def _write(conn: AsyncConnection, states: Mapping[str, float]) -> None:
    rows = [(name, round(full_at * _MS)) for name, full_at in sorted(states.items())]
    if conn.dialect.name == "postgresql":
        columns = tuple(map(list, zip(*rows, strict=True)))
        await conn.exec_driver_sql(_WRITE_POSTGRES, columns)
    else:
        await conn.exec_driver_sql(_WRITE_SQLITE, rows)
