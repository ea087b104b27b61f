"""The judge finds servers that were broken on purpose; the same steps on the real one pass."""

import asyncio
from collections.abc import Callable

import pytest

from tests.model.explaining import ViolationError
from tests.model.game import Game
from tests.model.machine import play
from tests.model.plans import Ask, Begin, Join, Manage, Operate, Plan, Renew
from token_server.records import AuditEvent, Family
from token_server.runtime import Runtime, SystemClock
from token_server.services import introspection, issuing, revocation, sessions, token_state
from token_server.services.token_state import DeadToken, LiveToken
from token_server.storage import families, rotation
from token_server.storage.batch import RotationEntry
from token_server.storage.engine import Store
from token_server.verify import Claims

Break = Callable[[pytest.MonkeyPatch], None]
Steps = tuple[Plan | tuple[Plan, Plan] | int, ...]  # two at once, or seconds that pass


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


ADA, APP = Join(), Begin("grant", client=1)  # the public client with its window
SHOP = Begin("grant", client=0)  # the confidential one, which is strict here
SCRIPTS: dict[str, tuple[Break, Steps]] = {
    "a replay gets a successor of its own": (
        rotates_twice,
        (APP, Renew(), Renew(which="previous")),
    ),
    "a revoked token refreshes": (revives, (APP, Ask("revoke", "refresh"), Renew())),
    "two uses of one token in strict mode": (
        reads_then_writes,
        (SHOP, (Renew(), Renew())),
    ),
    "a revocation is answered and not in force": (
        answers_before_the_commit,
        (SHOP, Ask("revoke", "refresh")),
    ),
    "a revoked token is called active": (
        remembers_too_long,
        (SHOP, Ask(by="service"), Ask("revoke"), Ask(by="service")),
    ),
    "other sessions survive a password change": (
        forgets_the_others,
        (APP, Begin("account"), Manage("change"), Renew(session=1)),
    ),
    "sessions survive the disabling of their user": (
        forgets_the_others,
        (APP, Operate("disable_user"), Renew()),
    ),
    "tokens are issued by a clock that was set back": (ignores_the_clock, (APP, -600, Renew())),
    "a token lives longer than its session": (outlives_its_session, (APP, 3590, Renew())),
}


def run_script(game: Game, steps: Steps) -> None:
    game.begin((30, 0), None, 3600)
    for step in steps:
        match step:
            case int():
                (game.pass_time if step > 0 else game.set_clock)(step)
            case (first, second):
                game.step((first, second), (0, 0))
            case plan:
                game.step((plan,), (0,))
    game.look(0)
    game.finish()


def test_real_server_passes_every_script(game: Game) -> None:
    """What the mutants are caught at is no fault of the real one."""
    for _, steps in SCRIPTS.values():
        run_script(game, steps)


@pytest.mark.parametrize("name", SCRIPTS)
def test_broken_server_is_found_out(
    sqlite_game: Game, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """A checker that cannot fail is worthless."""
    break_it, steps = SCRIPTS[name]
    break_it(monkeypatch)
    with pytest.raises(ViolationError):
        run_script(sqlite_game, steps)


def test_hypothesis_finds_a_second_successor(
    sqlite_game: Game, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By itself, among whatever else it draws, and says which steps lead there."""
    rotates_twice(monkeypatch)
    with pytest.raises(ViolationError) as caught:
        play(sqlite_game, 50, 30, start=1, shrink=False)
    assert "state.begin(" in "".join(getattr(caught.value, "__notes__", ()))
