"""What a serving process does to its keyring by itself, decided as one change.

`upkeep` is asked often and mostly answers that nothing is due. Every instance asks; whoever's
change comes first wins, and the others find it done.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from token_server.core.key_changes import (
    Change,
    Decision,
    Situation,
    Step,
    StepKind,
    Unchanged,
)
from token_server.core.key_lifecycle import signing_key, superseded_at
from token_server.core.key_policy import KEEP_RETIRED_S, LONGEST_TOKEN_S
from token_server.core.key_rotation import add_next, rotation_due_at, schedule, stays
from token_server.records import KeyState, SigningKey

NOTHING_DUE = Unchanged("nothing is due")


def resume(situation: Situation) -> Decision:
    """At the start of a server: what a key that waits has been served for is counted anew (I2).

    Time in which no server ran does not count, nothing counts when no server has left word, and
    a date that is too early for a longer KEY_LEAD is put off.
    """
    waiting = {key.kid for key in situation.keys if _waits(situation, key)}
    waiting |= _activated_in_gap(situation)
    change = _each_key(
        situation,
        lambda key: _discount(situation, key) if key.kid in waiting else _Advanced(key),
    )
    if not isinstance(change, Change):
        return change
    return replace(change, keys=stays(change.keys, situation.now))


def upkeep(situation: Situation) -> Decision:
    """All that is due now, in a process that serves these keys."""
    change = _each_key(situation, lambda key: _advance(situation, key))
    advanced = change if isinstance(change, Change) else Change(situation.keys, ())
    due = _due_rotation(replace(situation, keys=advanced.keys))
    if isinstance(due, Change):
        return replace(
            due, steps=(*advanced.steps, *due.steps), erased=advanced.erased | due.erased
        )
    return advanced if advanced.steps else NOTHING_DUE


def retirement_of(situation: Situation, key: SigningKey, replaced_at: int) -> int:
    """When a key that was replaced at `replaced_at` may leave the JWKS: no token that it signed
    lives, no cache needs it (I4), and every instance knows whether it was rolled back to (I6)."""
    policy = situation.policy
    tokens_end_at = key.exp_high_water
    if tokens_end_at is None:  # signed before marks were kept
        tokens_end_at = replaced_at + LONGEST_TOKEN_S
    return max(
        tokens_end_at + policy.clock_skew_s + policy.jwks_max_age_s,
        replaced_at + policy.rollback_window_s + policy.settle_s,
    )


@dataclass(frozen=True, slots=True)
class _Advanced:
    """One key afterwards; `key` is None when its record is dropped."""

    key: SigningKey | None
    steps: tuple[Step, ...] = ()
    is_erased: bool = False


def _each_key(situation: Situation, advance: Callable[[SigningKey], _Advanced]) -> Decision:
    advanced = [(key.kid, advance(key)) for key in situation.keys]
    steps = tuple(step for _, one in advanced for step in one.steps)
    if not steps:
        return NOTHING_DUE
    return Change(
        keys=tuple(one.key for _, one in advanced if one.key is not None),
        steps=steps,
        erased=frozenset(kid for kid, one in advanced if one.is_erased),
    )


def _discount(situation: Situation, key: SigningKey) -> _Advanced:
    served_from = situation.served_from(key)
    if served_from is None:
        return _Advanced(key)
    if situation.serving is None:
        served_from, why = situation.now, "no server has left word that it served it (I2)"
    elif served_from != key.published_at:
        lost_s = situation.now - situation.served_until
        why = f"no server ran for {lost_s} s, which does not count (I2)"
    else:
        why = "KEY_LEAD is longer than it was (I2)"
    activate_at = key.activate_at
    if activate_at is not None:
        activate_at = max(activate_at, served_from + situation.policy.lead_s)
    if (served_from, activate_at) == (key.published_at, key.activate_at):
        return _Advanced(key)
    step = Step(StepKind.POSTPONED, key.kid, activate_at, why)
    return _Advanced(replace(key, published_at=served_from, activate_at=activate_at), (step,))


def _waits(situation: Situation, key: SigningKey) -> bool:
    if situation.state(key) is not KeyState.NEXT:
        return False
    if key.activate_at is None or not _is_forced(situation, key):
        return True
    # "Now" on a clock that is ahead; a date further off was right for a shorter KEY_LEAD.
    return key.activate_at > situation.now + situation.policy.settle_s


def _activated_in_gap(situation: Situation) -> set[str]:
    """The keys whose date came while no server ran, if another key can go on signing."""
    came = {
        key.kid
        for key in situation.keys
        if situation.state(key) in (KeyState.ACTIVE, KeyState.RETIRING)
        and (key.activate_at or 0) > situation.served_until
        and not _is_forced(situation, key)
    }
    others = tuple(key for key in situation.keys if key.kid not in came)
    heir = signing_key(others, situation.now)
    return came if heir is not None and heir.kid in situation.usable else set()


def _is_forced(situation: Situation, key: SigningKey) -> bool:
    """Whether an operator has let it sign before its lead was over: that is not undone."""
    lead_ends_at = (key.published_at or 0) + situation.policy.lead_s
    return (key.activate_at or 0) < lead_ends_at - situation.policy.clock_skew_s


def _advance(situation: Situation, key: SigningKey) -> _Advanced:
    match situation.state(key):
        case KeyState.NEXT if _is_served_first(situation, key):
            return _publish(situation, key)
        case KeyState.RETIRING:
            return _retire(situation, key)
        case KeyState.RETIRED:
            return _forget(situation, key, key.retire_at)
        case KeyState.COMPROMISED:
            ends_at = max(key.compromised_at or 0, key.exp_high_water or 0)
            return _forget(situation, key, ends_at)
        case _:
            return _Advanced(key)


def _is_served_first(situation: Situation, key: SigningKey) -> bool:
    # An instant beyond one lead from now is what a clock that was far ahead has left behind.
    latest = situation.now + situation.policy.lead_s
    return key.published_at is None or key.published_at > latest


def _publish(situation: Situation, key: SigningKey) -> _Advanced:
    """This very process serves it from now on: its lead begins (I2)."""
    now = situation.now
    served = Step(StepKind.PUBLISHED, key.kid, now, "served for the first time: its lead begins")
    earliest = now + situation.policy.lead_s
    if key.activate_at is None or key.activate_at >= earliest:
        return _Advanced(replace(key, published_at=now), (served,))
    later = Step(StepKind.POSTPONED, key.kid, earliest, "it was served later than planned (I2)")
    return _Advanced(replace(key, published_at=now, activate_at=earliest), (served, later))


def _retire(situation: Situation, key: SigningKey) -> _Advanced:
    now, policy = situation.now, situation.policy
    replaced_at = superseded_at(key, situation.keys, now)
    if replaced_at is None:
        return _Advanced(key)
    steps: list[Step] = []
    # Only when every instance has stopped signing with it is its high-water mark final.
    if key.retire_at is None and now >= replaced_at + policy.settle_s:
        key = replace(key, retire_at=max(now, retirement_of(situation, key, replaced_at)))
        why = "the last token it signed has expired by then (I4)"
        steps.append(Step(StepKind.RETIREMENT_SET, key.kid, key.retire_at, why))
    is_erased = key.kid in situation.usable and now >= replaced_at + policy.rollback_window_s
    if is_erased:
        steps.append(Step(StepKind.ERASED, key.kid, now, "the roll-back window is over (I6)"))
    return _Advanced(key, tuple(steps), is_erased)


def _forget(situation: Situation, key: SigningKey, ended_at: int | None) -> _Advanced:
    now = situation.now
    if ended_at is not None and now >= ended_at + KEEP_RETIRED_S:
        step = Step(StepKind.FORGOTTEN, key.kid, now, "nothing has needed it for 30 days")
        return _Advanced(None, (step,), is_erased=True)
    if key.kid in situation.usable:
        step = Step(StepKind.ERASED, key.kid, now, "it will never sign again (I6)")
        return _Advanced(key, (step,), is_erased=True)
    return _Advanced(key)


def _due_rotation(situation: Situation) -> Decision:
    if all(key.activate_at is not None for key in situation.waiting):
        return add_next(situation, "there is always a next key, after a switch as well (I1)")
    due_at = rotation_due_at(situation)
    if due_at is None or situation.dated is not None:
        return NOTHING_DUE
    if situation.now < due_at - situation.policy.lead_s:
        return NOTHING_DUE
    at = max(due_at, situation.now + situation.policy.lead_s)
    return schedule(situation, at, "the key that signs reaches its age")
