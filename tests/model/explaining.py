"""Is there an order in which these calls, made at the same time, give these answers?

Linearisability (Herlihy and Wing) of one or two calls at a time: several states may explain what
was seen so far, and all of them go on until an answer tells them apart.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import permutations

from tests.model.answers import Answer, MismatchError, learn
from tests.model.calls import Call, Moment
from tests.model.state import State

MAX_STATES = 64


class ViolationError(AssertionError):
    """What the server did cannot be explained by the model."""


@dataclass(frozen=True, slots=True)
class Made:
    """One call that was made: when and where, and what came back."""

    call: Call
    moment: Moment
    answer: Answer

    def among(self, before: State) -> "Made":
        """As one of several at the same time, that began in this state."""
        return replace(self, moment=replace(self.moment, before=before))

    def __str__(self) -> str:
        return f"{self.call} at {self.moment.now} ({self.moment.name}) -> {self.answer}"


def explain(states: Sequence[State], made: Sequence[Made]) -> list[State]:
    """Every state in which things may stand after it. ViolationError, with why each order is
    impossible, when there is none."""
    found: list[State] = []
    reasons: list[str] = []
    for state in states:
        racing = made if len(made) == 1 else [each.among(state) for each in made]
        for order in permutations(racing):
            for after in _follow(state, order, reasons):
                if after not in found:
                    found.append(after)
    if not found:
        calls = "\n".join(f"  {each}" for each in made)
        why = "\n".join(f"  {reason}" for reason in dict.fromkeys(reasons))
        raise ViolationError(f"no order explains\n{calls}\nbecause\n{why}")
    if len(found) > MAX_STATES:
        raise AssertionError("the model lost track: far too many states explain what was seen")
    return found


def _follow(state: State, made: Sequence[Made], reasons: list[str]) -> Iterator[State]:
    if not made:
        yield state
        return
    first, rest = made[0], made[1:]
    for expected, after in first.call.outcomes(state, first.moment, first.answer):
        try:
            learned = learn(expected, first.answer, after)
        except MismatchError as error:
            reasons.append(f"{first.moment.name}: {error}")
        else:
            yield from _follow(learned, rest, reasons)
