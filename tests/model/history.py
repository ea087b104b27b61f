"""The history checker: is there an order in which these concurrent operations could have happened
one after the other? (Wing and Gong 1993, with Lowe's memory of what was tried.)

For each family of refresh tokens apart, since they have nothing in common (linearizability is
local: Herlihy and Wing 1990). The sequential specification is refresh.md's: the current token is
rotated, its predecessor gets the same successor while the window is open, anything older ends the
family; revoked is for ever; introspection says so, at once and everywhere.
"""

import math
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

Verb = Literal["refresh", "revoke", "introspect", "introspect_access"]
REFUSED, DONE, ACTIVE, INACTIVE = "refused", "done", "active", "inactive"
Result = int | str  # an int is the generation of the successor that was handed out


@dataclass(frozen=True, slots=True)
class Operation:
    """One request as its client saw it; instants in seconds of one clock. `generation` is that of
    the refresh token in it. An answer that nobody read is None, and was given at some time or
    never: such an operation happened at any time after its call, or not at all."""

    actor: int
    verb: Verb
    generation: int
    called_at: float
    answered_at: float
    result: Result | None

    @property
    def is_lost(self) -> bool:
        return self.result is None

    def __str__(self) -> str:
        until = "lost" if self.is_lost else f"{self.answered_at * 1000:9.2f} ms"
        what = "" if self.verb == "introspect_access" else f"({self.generation})"
        return (
            f"{self.called_at * 1000:9.2f} to {until}  actor {self.actor}: "
            f"{self.verb}{what} -> {'?' if self.is_lost else self.result}"
        )


class Family(NamedTuple):
    """All that the specification needs to know of one."""

    generation: int = 0
    is_revoked: bool = False


def follow(  # noqa: PLR0911 - a table: one return per row
    family: Family, operation: Operation, *, is_strict: bool
) -> tuple[Result, Family]:
    """The sequential specification: what it answers, and the family after it."""
    generation = operation.generation
    match operation.verb:
        case "revoke":
            return DONE, family._replace(is_revoked=True)
        case "introspect":
            is_current = generation == family.generation and not family.is_revoked
            return ACTIVE if is_current else INACTIVE, family
        case "introspect_access":
            return INACTIVE if family.is_revoked else ACTIVE, family
        case "refresh":
            if family.is_revoked or generation > family.generation:
                return REFUSED, family
            if generation == family.generation:
                return generation + 1, Family(generation + 1)
            if generation == family.generation - 1 and not is_strict:
                return family.generation, family
            return REFUSED, family._replace(is_revoked=True)


def find_order(history: Sequence[Operation], *, is_strict: bool) -> list[Operation] | None:
    """An order that explains every answer, or None when there is none."""
    operations = sorted(history, key=lambda each: each.called_at)
    answered = sum(1 << n for n, each in enumerate(operations) if not each.is_lost)
    seen: set[tuple[int, Family]] = set()
    path: list[tuple[int, Family, Iterator[tuple[int, Family]]]] = []
    done, family = 0, Family()
    steps = _steps(operations, done, family, is_strict=is_strict)
    order: list[int] = []
    while done & answered != answered:
        for number, after in steps:
            key = (done | 1 << number, after)
            if key not in seen:
                seen.add(key)
                path.append((done, family, steps))
                order.append(number)
                done, family = key
                steps = _steps(operations, done, family, is_strict=is_strict)
                break
        else:
            if not path:
                return None
            done, family, steps = path.pop()
            order.pop()
    return [operations[number] for number in order]


def _steps(
    operations: Sequence[Operation], done: int, family: Family, *, is_strict: bool
) -> Iterator[tuple[int, Family]]:
    """What may have happened next: anything that began before the first answer that is still to be
    explained, and whose own answer fits."""
    deadline = math.inf
    for number, each in enumerate(operations):
        if each.called_at > deadline:
            break
        if not done >> number & 1:
            deadline = min(deadline, each.answered_at)
    for number, each in enumerate(operations):
        if each.called_at > deadline:
            return
        if done >> number & 1:
            continue
        result, after = follow(family, each, is_strict=is_strict)
        if each.is_lost or each.result == result:
            yield number, after


def shortest_violation(history: Sequence[Operation], *, is_strict: bool) -> list[Operation]:
    """The beginning of a history that has no order, up to the answer that cannot be explained, and
    without the look-ups that have nothing to do with it."""
    instants = sorted(each.answered_at for each in history if not each.is_lost)

    def is_broken(number: int) -> bool:
        return find_order(_until(history, instants[number]), is_strict=is_strict) is None

    first = bisect_left(range(len(instants)), True, key=is_broken)
    kept = _until(history, instants[first])
    for each in [each for each in kept if each.verb.startswith("introspect")]:
        fewer = [other for other in kept if other is not each]
        if find_order(fewer, is_strict=is_strict) is None:
            kept = fewer
    return kept


def _until(history: Sequence[Operation], instant: float) -> list[Operation]:
    """As it was known at that instant: what was not answered yet was under way."""
    return [
        each if each.answered_at <= instant else replace(each, answered_at=math.inf, result=None)
        for each in sorted(history, key=lambda each: each.called_at)
        if each.called_at < instant
    ]


def describe(history: Sequence[Operation], *, is_strict: bool) -> str:
    """For people: the history, and how far an order can be found."""
    lines = [f"no order explains these answers ({'strict' if is_strict else 'replay window'}):"]
    last = max(history, key=lambda each: 0 if each.is_lost else each.answered_at)
    order = find_order([each for each in history if each is not last], is_strict=is_strict)
    lines += [f"  {each}" for each in history]
    if order is not None:
        happened = ", ".join(
            f"{each.verb}({each.generation}) of actor {each.actor}" for each in order
        )
        lines.append(f"without the last answer ({last}) it could have been: {happened}")
    return "\n".join(lines)
