"""Deciding what happens to a key that others may have.

A compromised key neither signs nor is published from that second on, whatever the clock says
later, and its private half is erased. Compromises are never refused: the time that verifiers need
to learn a new key is reported, not waited for (NIST SP 800-57 part 1, 8.3.5).
"""

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
from token_server.core.key_rotation import activated_now
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
    was_signing = situation.signing is not None and situation.signing.kid == kid
    changed = {kid: replace(bad, compromised_at=situation.now)}
    steps = [Step(StepKind.COMPROMISED, kid, situation.now, _DROPPED)]
    waiting = [key for key in situation.waiting if key.kid != kid]
    new_keys: list[NewKey] = []
    if was_signing:
        if waiting:
            successor = waiting.pop(0)
            changed[successor.kid] = activated_now(situation, successor)
            steps.append(Step(StepKind.ACTIVATED, successor.kid, situation.now, f"replaces {kid}"))
        else:
            new_keys.append(NewKey(activate_at=situation.now))
            steps.append(Step(StepKind.MADE, None, situation.now, f"replaces {kid}, signs at once"))
    if not waiting:
        new_keys.append(NewKey())
        steps.append(Step(StepKind.MADE, None, None, "there is always a next key (I1)"))
    return Change(
        keys=tuple(changed.get(key.kid, key) for key in situation.keys),
        steps=tuple(steps),
        new_keys=tuple(new_keys),
        erased=frozenset({kid}),
    )


def compromise_all(situation: Situation) -> Decision:
    """Drop every key, the next one too: whoever read the host has them all. A key that was never
    published signs at once."""
    bad = [key for key in situation.keys if not _is_over(situation, key)]
    return Change(
        keys=tuple(
            replace(key, compromised_at=situation.now) if key in bad else key
            for key in situation.keys
        ),
        steps=(
            *(Step(StepKind.COMPROMISED, key.kid, situation.now, _DROPPED) for key in bad),
            Step(StepKind.MADE, None, situation.now, "signs at once"),
            Step(StepKind.MADE, None, None, "there is always a next key (I1)"),
        ),
        new_keys=(NewKey(activate_at=situation.now), NewKey()),
        erased=frozenset(key.kid for key in situation.keys),
    )


def _is_over(situation: Situation, key: SigningKey) -> bool:
    # A retired key is in no JWKS any more; but caches may still hold it, so it is named as well.
    return situation.state(key) is KeyState.COMPROMISED
