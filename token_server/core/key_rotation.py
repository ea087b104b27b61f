"""Deciding a rotation: give the next key its date, let it sign now, or go back.

Each function proposes one change for a situation, or says why there is none. Whether a proposal
breaks a rule is core/key_invariants.py's judgement. Must not see a private half.
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
    replace_key,
)
from token_server.core.key_lifecycle import superseded_at
from token_server.records import KeyState, SigningKey


def start_rotation(situation: Situation) -> Decision:
    """Give the oldest next key its date, one lead from now, and make the one after it: by then
    both are known to every verifier. Nothing while a rotation is under way."""
    dated = situation.dated
    if dated is not None:
        return Unchanged(f"a rotation is under way: {dated.kid} has its date")
    return schedule(situation, situation.now + situation.policy.lead_s, "a rotation was asked for")


def schedule(situation: Situation, activate_at: int, why: str) -> Decision:
    """Date the oldest next key `activate_at`, or later if I2 asks for it, and make another."""
    waiting = situation.waiting
    if not waiting:
        return add_next(situation, "there was none to rotate to; rotate again once it is served")
    key = waiting[0]
    activate_at = max(activate_at, situation.may_sign_from(key) or 0)
    dated = replace(
        key, activate_at=activate_at, exp_high_water=_first_high_water(situation, activate_at)
    )
    return Change(
        keys=replace_key(situation.keys, dated),
        steps=(
            Step(StepKind.SCHEDULED, key.kid, activate_at, why),
            Step(StepKind.MADE, None, None, "there is always a next key (I1)"),
        ),
        new_keys=(NewKey(),),
    )


def activate_next(situation: Situation, why: str) -> Decision:
    """Let the key that is next sign from now on, and see to it that another waits (I1)."""
    waiting = situation.waiting
    if not waiting:
        return add_next(situation, "there was none to rotate to; try again once it is served")
    key = waiting[0]
    steps = [Step(StepKind.ACTIVATED, key.kid, situation.now, why)]
    new_keys: tuple[NewKey, ...] = ()
    if len(waiting) == 1:
        steps.append(Step(StepKind.MADE, None, None, "there is always a next key (I1)"))
        new_keys = (NewKey(),)
    return Change(
        keys=replace_key(situation.keys, activated_now(situation, key)),
        steps=tuple(steps),
        new_keys=new_keys,
    )


def activated_now(situation: Situation, key: SigningKey) -> SigningKey:
    """`key` as one that signs from now on, published or not."""
    return replace(
        key,
        activate_at=situation.now,
        published_at=situation.now if key.published_at is None else key.published_at,
        retire_at=None,
        exp_high_water=_first_high_water(situation, situation.now),
    )


def roll_back(situation: Situation) -> Decision:
    """Take a rotation back: the date of one that is under way, or the switch itself as long as
    the key before is published and has its private half (I6)."""
    dated = situation.dated
    if dated is not None:
        undated = replace(dated, activate_at=None)
        return Change(
            keys=replace_key(situation.keys, undated),
            steps=(
                Step(StepKind.CANCELLED, dated.kid, None, "the rotation under way was taken back"),
            ),
        )
    before = _replaced_last(situation)
    signing = situation.signing
    if before is None or signing is None:
        return Refused((_nothing_to_roll_back_to(situation),), can_be_forced=False)
    # After the switch, also when both are commanded within one second.
    at = max(situation.now, (signing.activate_at or 0) + 1)
    again = replace(activated_now(situation, before), activate_at=at)
    return Change(
        keys=replace_key(situation.keys, again),
        steps=(
            Step(
                StepKind.ROLLED_BACK,
                before.kid,
                at,
                f"{signing.kid} only verifies from now on",
            ),
        ),
    )


def cover(situation: Situation, kid: str, expires_at: int) -> Decision:
    """Raise the high-water mark of the key that signs, so that tokens may live until
    `expires_at` (I4)."""
    key = situation.find(kid)
    if key is None or situation.signing is None or situation.signing.kid != kid:
        return Unchanged("another key signs now")
    if key.exp_high_water is not None and key.exp_high_water >= expires_at:
        return Unchanged("it is high enough already")
    mark = expires_at + situation.policy.head_room_s
    raised = replace(key, exp_high_water=mark)
    return Change(
        keys=replace_key(situation.keys, raised),
        steps=(Step(StepKind.COVERED, kid, mark, "tokens may live until then (I4)"),),
    )


def add_next(situation: Situation, why: str) -> Change:
    """Make one more next key."""
    return Change(
        keys=situation.keys,
        steps=(Step(StepKind.MADE, None, None, why),),
        new_keys=(NewKey(),),
    )


def _first_high_water(situation: Situation, activate_at: int) -> int:
    # Set with the date, so that the first token of a new key waits for no write.
    policy = situation.policy
    return activate_at + policy.access_token_ttl_s + policy.head_room_s


def _replaced_last(situation: Situation) -> SigningKey | None:
    candidates = [
        (replaced_at, key.kid, key)
        for key in situation.keys
        if key.kid in situation.usable
        and situation.state(key) is KeyState.RETIRING
        and (replaced_at := superseded_at(key, situation.keys, situation.now)) is not None
    ]
    return max(candidates)[2] if candidates else None


def _nothing_to_roll_back_to(situation: Situation) -> Violation:
    retiring = [key for key in situation.keys if situation.state(key) is KeyState.RETIRING]
    if not retiring:
        return Violation("I6", "no key was replaced that could sign again")
    hours = situation.policy.rollback_window_s / 3600
    return Violation(
        "I6",
        f"the private half of the key before is erased {hours:g} h after it was replaced; rotate "
        "forward instead: `keys promote`, or `keys compromise` if the key is bad",
    )
