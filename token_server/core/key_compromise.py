"""Deciding what happens to a key that others may have.

A compromised key neither signs nor is published from that second on, whatever the clock says
later, and its private half is erased. Compromises are never refused: the time that verifiers need
to learn a new key is reported, not waited for (NIST SP 800-57 part 1, 8.3.5).
"""

from collections.abc import Iterable
from dataclasses import replace

from token_server.core.key_changes import (
    Change,
    Decision,
    NewKey,
    Refused,
    Situation,
    Step,
    StepKind,
    Unchanged,
    Violation,
)
from token_server.core.key_rotation import make_way, take_over
from token_server.records import KeyState, SigningKey

_DROPPED = "out of the JWKS, never signs again, private half erased"


def compromise_key(situation: Situation, kid: str) -> Decision:
    """Drop one key. If it signs, the next key signs from now on, or a new one if none is left."""
    bad = situation.find(kid)
    if bad is None:
        why = f"no key is called {kid}: `keys list` names them"
        return Refused((Violation("", why),), can_be_forced=False)
    if situation.state(bad) is KeyState.COMPROMISED:
        return Unchanged(f"{kid} was marked as compromised before")
    keys = _marked(situation, {kid})
    steps = [Step(StepKind.COMPROMISED, kid, situation.now, _DROPPED)]
    waiting = [key for key in situation.waiting if key.kid != kid]
    new_keys: list[NewKey] = []
    if _would_sign(situation, bad):
        if waiting:
            successor = waiting.pop(0)
            keys = take_over(situation, keys, successor)
            steps.append(Step(StepKind.ACTIVATED, successor.kid, situation.now, f"replaces {kid}"))
        else:
            at, keys = make_way(situation, keys, "")
            new_keys.append(NewKey(activate_at=at))
            steps.append(Step(StepKind.MADE, None, situation.now, f"replaces {kid}, signs at once"))
    elif situation.dated == bad:
        why = "the rotation under way ended with it: rotate again"
        steps.append(Step(StepKind.CANCELLED, kid, None, why))
    if all(key.activate_at is not None for key in waiting):
        new_keys.append(NewKey())
        steps.append(Step(StepKind.MADE, None, None, "there is always a next key (I1)"))
    return Change(keys=keys, steps=tuple(steps), new_keys=tuple(new_keys), erased=frozenset({kid}))


def compromise_all(situation: Situation) -> Decision:
    """Drop every key, the next one too: whoever read the host has them all. A key that was never
    published signs at once. Retired keys are named as well: caches may still hold them."""
    bad = [key for key in situation.keys if situation.state(key) is not KeyState.COMPROMISED]
    at, keys = make_way(situation, _marked(situation, {key.kid for key in bad}), "")
    return Change(
        keys=keys,
        steps=(
            *(Step(StepKind.COMPROMISED, key.kid, situation.now, _DROPPED) for key in bad),
            Step(StepKind.MADE, None, situation.now, "signs at once"),
            Step(StepKind.MADE, None, None, "there is always a next key (I1)"),
        ),
        new_keys=(NewKey(activate_at=at), NewKey()),
        erased=frozenset(key.kid for key in situation.keys),
    )


def _marked(situation: Situation, kids: Iterable[str]) -> tuple[SigningKey, ...]:
    return tuple(
        replace(key, compromised_at=situation.now) if key.kid in kids else key
        for key in situation.keys
    )


def _would_sign(situation: Situation, bad: SigningKey) -> bool:
    """Whether somebody must take over: it signs, or will on a clock that is not behind."""
    signing = situation.signing
    if signing is None:
        return bad.activate_at is not None
    return signing.kid == bad.kid
