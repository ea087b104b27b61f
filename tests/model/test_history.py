"""The history checker itself: what it takes, what it refuses, and that it agrees with a search by
brute force. A checker that cannot fail is worthless."""

import math
import random
from itertools import permutations

import pytest

from tests.model.history import (
    ACTIVE,
    DONE,
    INACTIVE,
    REFUSED,
    Family,
    Operation,
    Result,
    Verb,
    describe,
    find_order,
    follow,
    shortest_violation,
)


def operation(
    verb: Verb, generation: int, start: float, end: float, result: Result | None, actor: int = 0
) -> Operation:
    return Operation(actor, verb, generation, start, end, result)


LINEARISABLE = {
    "nothing": [],
    "one after the other": [
        operation("refresh", 0, 0, 1, 1),
        operation("refresh", 1, 2, 3, 2),
        operation("refresh", 1, 4, 5, 2),
        operation("introspect", 2, 6, 7, ACTIVE),
        operation("introspect", 1, 6, 7, INACTIVE),
        operation("refresh", 0, 8, 9, REFUSED),
        operation("introspect", 2, 10, 11, INACTIVE),
    ],
    "a refresh that overlaps a revocation may come before it": [
        operation("revoke", 0, 0, 5, DONE),
        operation("refresh", 0, 1, 4, 1),
    ],
    "a lost answer may have happened": [
        operation("refresh", 0, 0, math.inf, None),
        operation("refresh", 1, 1, 2, 2),
    ],
    "or not": [
        operation("revoke", 0, 0, math.inf, None),
        operation("refresh", 0, 1, 2, 1),
    ],
    "or later": [
        operation("revoke", 0, 0, math.inf, None),
        operation("refresh", 0, 1, 2, 1),
        operation("refresh", 1, 3, 4, REFUSED),
    ],
}
IMPOSSIBLE = {
    "a step of two generations": [
        operation("refresh", 0, 0, 1, 1),
        operation("refresh", 1, 0, 1, 3),
    ],
    "a revocation that was answered and is not in force": [
        operation("revoke", 0, 0, 1, DONE),
        operation("refresh", 0, 2, 3, 1),
    ],
    "dead, and alive again": [
        operation("revoke", 0, 0, math.inf, None),
        operation("introspect_access", 0, 1, 2, INACTIVE),
        operation("introspect_access", 0, 3, 4, ACTIVE),
    ],
    "two generations usable": [
        operation("refresh", 0, 0, 1, 1),
        operation("introspect", 1, 2, 3, ACTIVE),
        operation("introspect", 0, 4, 5, ACTIVE),
    ],
    "reuse that ends nothing": [
        operation("refresh", 0, 0, 1, 1),
        operation("refresh", 1, 2, 3, 2),
        operation("refresh", 0, 4, 5, REFUSED),
        operation("refresh", 2, 6, 7, 3),
    ],
}


@pytest.mark.parametrize("name", LINEARISABLE)
def test_history_with_an_order_is_taken(name: str) -> None:
    """Each answer follows from some order that respects who was answered before who asked."""
    history = LINEARISABLE[name]
    order = find_order(history, is_strict=False)
    assert order is not None
    assert {each for each in history if not each.is_lost} <= set(order)


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_history_without_an_order_is_refused(name: str) -> None:
    """Every promise of refresh.md that can be broken between two answers."""
    history = IMPOSSIBLE[name]
    assert find_order(history, is_strict=False) is None
    shortest = shortest_violation(history, is_strict=False)
    assert find_order(shortest, is_strict=False) is None
    assert "no order explains" in describe(shortest, is_strict=False)


def test_strict_mode_has_one_winner() -> None:
    """Without a window the second use of a token is reuse (refresh.md 4)."""
    history = [operation("refresh", 0, 0, 9, 1), operation("refresh", 0, 0, 9, 1, actor=1)]
    assert find_order(history, is_strict=False) is not None
    assert find_order(history, is_strict=True) is None


def test_violation_is_cut_down_to_what_shows_it() -> None:
    """What came later and look-ups that say nothing are left out."""
    noise = [operation("introspect_access", 0, n, n + 0.5, ACTIVE, n) for n in range(5)]
    broken = [operation("revoke", 0, 6, 7, DONE), operation("refresh", 0, 8, 9, 1)]
    later = [operation("refresh", 1, 10 + n, 11 + n, REFUSED) for n in range(5)]
    shortest = shortest_violation([*noise, *broken, *later], is_strict=False)
    assert shortest == broken


def test_search_agrees_with_trying_every_order() -> None:
    """1,000 small histories, made by chance: some can be explained, some cannot."""
    chance = random.Random(20261130)  # noqa: S311 - no secret
    found = {True: 0, False: 0}
    for _ in range(1000):
        history = [_random_operation(chance) for _ in range(chance.randint(2, 5))]
        is_strict = chance.random() < 0.5
        expected = _has_order(history, is_strict=is_strict)
        assert (find_order(history, is_strict=is_strict) is not None) == expected, history
        found[expected] += 1
    assert min(found.values()) > 100


def _random_operation(chance: random.Random) -> Operation:
    start = chance.uniform(0, 4)
    verbs: tuple[Verb, ...] = ("refresh", "refresh", "revoke", "introspect", "introspect_access")
    verb, generation = chance.choice(verbs), chance.randint(0, 2)
    results: dict[Verb, tuple[Result, ...]] = {
        "refresh": (REFUSED, generation + 1),
        "revoke": (DONE,),
        "introspect": (ACTIVE, INACTIVE),
        "introspect_access": (ACTIVE, INACTIVE),
    }
    if chance.random() < 0.2:
        return operation(verb, generation, start, math.inf, None, chance.randint(0, 2))
    end = start + chance.uniform(0.1, 3)
    return operation(verb, generation, start, end, chance.choice(results[verb]))


def _has_order(history: list[Operation], *, is_strict: bool) -> bool:
    lost = [each for each in history if each.is_lost]
    answered = [each for each in history if not each.is_lost]
    for chosen in range(1 << len(lost)):
        happened = answered + [each for n, each in enumerate(lost) if chosen >> n & 1]
        if any(_is_order(order, is_strict=is_strict) for order in permutations(happened)):
            return True
    return False


def _is_order(order: tuple[Operation, ...], *, is_strict: bool) -> bool:
    family = Family()
    for number, each in enumerate(order):
        if any(later.answered_at < each.called_at for later in order[number + 1 :]):
            return False
        result, family = follow(family, each, is_strict=is_strict)
        if not each.is_lost and each.result != result:
            return False
    return True
