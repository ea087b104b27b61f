"""The model in short: 300 sequences of 30 steps, half of them on each engine; `scripts/soak model`
is the long form."""

import pytest

from tests.model.game import Game
from tests.model.machine import play

PARTS = 3  # so that idle test workers can take one
SEQUENCES, STEPS = 150, 30  # on each engine
# A run that never met these has shown nothing.
WANTED = (
    "refresh: rotated",
    "refresh: replayed",
    "refresh: reuse",
    "refresh: refused",
    "at the same time",
    "Revoke 200",
    "Introspect 200",
    "ChangePassword 200",
    "LogOut 204",
    "PasswordGrant invalid_grant",
    "Me token_refused",
)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("part", range(PARTS))
def test_whatever_happens_the_model_explains_it(game: Game, part: int) -> None:
    """Users, clients, families, sessions, keys and clock; two actors; two servers on PostgreSQL."""
    play(game, SEQUENCES // PARTS, STEPS, start=20261130 + part)
    assert game.sequences >= SEQUENCES // PARTS
    assert [name for name in WANTED if not game.seen[name]] == []
