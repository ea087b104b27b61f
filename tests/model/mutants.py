"""Servers that are broken on purpose, each in one place: what the judges must find."""

import asyncio
from collections.abc import Callable

import pytest

from token_server.records import AuditEvent, Family
from token_server.runtime import Runtime, SystemClock
from token_server.services import introspection, issuing, revocation, sessions, token_state
from token_server.services.token_state import DeadToken, LiveToken
from token_server.storage import families, rotation
from token_server.storage.batch import RotationEntry
from token_server.storage.engine import Store
from token_server.verify import Claims

Break = Callable[[pytest.MonkeyPatch], None]


def rotates_twice(patch: pytest.MonkeyPatch) -> None:
    """A rotation that does not look at the generation: the predecessor gets a successor, too."""
    _bend_rotation(
        patch, "families.generation = e.generation", "families.generation >= e.generation"
    )


def revives(patch: pytest.MonkeyPatch) -> None:
    """A rotation that does not look whether the family was revoked."""
    _bend_rotation(patch, " AND families.revoked_at IS NULL", "")


def _bend_rotation(patch: pytest.MonkeyPatch, right: str, wrong: str) -> None:
    statement = rotation._ROTATE["sqlite"]
    assert right in statement
    patch.setitem(rotation._ROTATE, "sqlite", statement.replace(right, wrong))


def reads_then_writes(patch: pytest.MonkeyPatch) -> None:
    """A rotation that looks first, and then writes whatever it was that it saw."""
    real = rotation.rotate_families

    async def rotate(store: Store, entries: list[RotationEntry]) -> list[Family]:
        seen = []
        for entry in entries:
            async with store.read() as connection:
                seen.append(await families.find_family(connection, entry.family_id))
        return await real(store, entries) or [each for each in seen if each is not None]

    patch.setattr(rotation, "rotate_families", rotate)


def answers_before_the_commit(patch: pytest.MonkeyPatch) -> None:
    """A revocation that is under way when its client is told that it is done."""
    real, running = sessions.end_by_id, set()

    async def end(runtime: Runtime, session: Family, event: AuditEvent) -> bool:
        async def later() -> None:
            await asyncio.sleep(0.2)
            await real(runtime, session, event)

        running.add(asyncio.create_task(later()))
        return True

    patch.setattr(revocation, "end_by_id", end)


def remembers_too_long(patch: pytest.MonkeyPatch) -> None:
    """An introspection that answers out of a cache."""
    real, cache = token_state.judge_claims, dict[str, LiveToken | DeadToken]()

    async def judge(runtime: Runtime, claims: Claims) -> LiveToken | DeadToken:
        if claims.token_id not in cache:
            cache[claims.token_id] = await real(runtime, claims)
        return cache[claims.token_id]

    patch.setattr(introspection, "judge_claims", judge)


def forgets_the_others(patch: pytest.MonkeyPatch) -> None:
    """A password change, or a disabling, that ends no session."""

    async def revoke(*_: object, **__: object) -> list[str]:
        return []

    patch.setattr(families, "revoke_families_of_user", revoke)


def ignores_the_clock(patch: pytest.MonkeyPatch) -> None:
    """A server that goes on issuing after its clock was set back."""
    patch.setattr(SystemClock, "is_stepped_back", lambda _: False)


def outlives_its_session(patch: pytest.MonkeyPatch) -> None:
    """Access tokens that do not end with their session."""
    real = issuing.Backing
    patch.setattr(issuing, "Backing", lambda **values: real(**{**values, "not_after": None}))
