"""The judge finds servers that were broken on purpose; the same steps on the real one pass."""

import pytest

from tests.model.explaining import ViolationError
from tests.model.game import Game
from tests.model.machine import play
from tests.model.mutants import (
    Break,
    answers_before_the_commit,
    forgets_the_others,
    ignores_the_clock,
    outlives_its_session,
    reads_then_writes,
    remembers_too_long,
    revives,
    rotates_twice,
)
from tests.model.plans import Ask, Begin, Manage, Operate, Plan, Renew

Steps = tuple[Plan | tuple[Plan, Plan] | int, ...]  # two at once, or seconds that pass


APP = Begin("grant", client=1)  # the public client with its window
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
