"""The states of guessing budgets, shared by all processes and kept over restarts.

The steps of a batch are decided one after the other by core/throttle.py, in one transaction
that holds their groups: SQLite has one writer anyway, PostgreSQL takes an advisory lock for each
group. So two processes never read the same state, and a refused step writes nothing. A state
that lies in the past says no more than its absence: such rows go as new ones come.
"""

import hashlib
from collections.abc import Mapping, Sequence
from functools import partial
from typing import assert_never

from sqlalchemy import bindparam, delete, select
from sqlalchemy.ext.asyncio import AsyncConnection

from token_server.core.throttle import Done, GiveBack, Refused, Take, decide_take, give_back
from token_server.storage.batch import Batcher, Work
from token_server.storage.engine import Store
from token_server.storage.query import Query
from token_server.storage.schema import throttles
from token_server.storage.steps import Dialect, Entries, Steps

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

_LOCK = f"SELECT pg_advisory_xact_lock({_LOCK_CLASS}, id) FROM unnest($1::int[]) AS e (id)"  # noqa: S608 - a constant
_NAMES = Entries(bucket="text")
_READ = "WITH {e} SELECT bucket, full_at FROM throttles WHERE bucket IN (SELECT bucket FROM e)"
_STATES = Entries(bucket="text", full_at="bigint")
_WRITE = (
    "WITH {e} INSERT INTO throttles (bucket, full_at) SELECT bucket, full_at FROM e WHERE true"
    " ON CONFLICT (bucket) DO UPDATE SET full_at = excluded.full_at"
)
_PRUNE = Query(
    delete(throttles).where(
        _C.bucket.in_(
            select(_C.bucket)
            .where(_C.full_at < bindparam("before"))
            .order_by(_C.full_at)
            .limit(bindparam("limit"))
            .with_for_update(skip_locked=True)  # waits for nobody, so it cannot deadlock
        )
    )
)


def step_batcher(store: Store) -> Batcher[Step, Decision]:
    """Group commit of steps. Steps of one bucket may share a batch, so each is its own key."""

    async def run(steps: Sequence[Step]) -> Sequence[Decision]:
        return await store.write_steps(partial(apply_steps, steps))

    return Batcher(Work(run, key=id))


def apply_steps(steps: Sequence[Step], dialect: Dialect) -> Steps[list[Decision]]:
    """Decides each step on what the steps before it left, and stores what changed."""
    if dialect == "postgresql":
        # In one order, so that two processes cannot wait for each other.
        yield _LOCK, [sorted({_lock_id(step.group) for step in steps})]
    names = sorted({name for step in steps for name in _names(step)})
    rows = yield _NAMES.bind(dialect, _READ, [(name,) for name in names])
    states = {bucket: full_at / _MS for bucket, full_at in rows}
    changed: dict[str, float] = {}
    decisions: list[Decision] = []
    for step in steps:
        decision = _decide(states, step)
        if isinstance(decision, Done):
            changed.update(decision.states)
            states.update(decision.states)
        decisions.append(decision)
    if changed:
        rounded = [(name, round(full_at * _MS)) for name, full_at in sorted(changed.items())]
        yield _STATES.bind(dialect, _WRITE, rounded)
        before = min(step.now for step in steps) - PRUNE_MARGIN_S
        yield _PRUNE.bind(dialect, _pruned(before, _PRUNED_PER_ROW * len(changed)))
    return decisions


async def prune_throttles(conn: AsyncConnection, before: float, limit: int) -> int:
    """Deletes at most `limit` states that were past at the instant `before`; returns how many."""
    return (await conn.execute(_PRUNE.statement, _pruned(before, limit))).rowcount


def _pruned(before: float, limit: int) -> dict[str, int]:
    return {"before": round(before * _MS), "limit": limit}


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


def _lock_id(group: str) -> int:
    """Groups that happen to share a number only wait for each other."""
    return int.from_bytes(hashlib.sha256(group.encode()).digest()[:8], "big") % _LOCKS
