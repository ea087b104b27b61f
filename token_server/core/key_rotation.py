"""Deciding a rotation: give the next key its date, let it sign now, or go back.

Each function proposes one change for a situation, or says why there is none. Whether a proposal
breaks a rule is core/key_invariants.py's judgement. Must not see a private half.
"""

from collections.abc import Sequence
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
from token_server.core.key_lifecycle import (
    activation_order,
    is_activated,
    signing_key,
    superseded_at,
)
from token_server.core.key_policy import LONGEST_TOKEN_S
from token_server.records import KeyState, SigningKey


def start_rotation(situation: Situation) -> Decision:
    """Give the oldest next key its date, one lead from now, and see to it that another one is
    known to every verifier by then. Nothing while a rotation is under way."""
    dated = situation.dated
    if dated is not None:
        return Unchanged(f"a rotation is under way: {dated.kid} has its date")
    return schedule(situation, situation.now + situation.policy.lead_s, "a rotation was asked for")


def rotation_due_at(situation: Situation) -> int | None:
    """When the key that signs has reached its age; None when nothing signs."""
    signing = situation.signing
    if signing is None or signing.activate_at is None:
        return None
    return signing.activate_at + situation.policy.rotate_every_s


def schedule(situation: Situation, activate_at: int, why: str) -> Decision:
    """Date the oldest next key `activate_at`, or later if I2 asks for it."""
    waiting = situation.waiting
    if not waiting:
        return add_next(situation, "there was none to rotate to; rotate again once it is served")
    key = waiting[0]
    activate_at = max(activate_at, situation.may_sign_from(key) or 0)
    steps = [Step(StepKind.SCHEDULED, key.kid, activate_at, why)]
    new_keys = _next_after(situation, steps)
    return Change(
        keys=replace_key(situation.keys, activated(situation, key, activate_at)),
        steps=tuple(steps),
        new_keys=new_keys,
    )


def activate_next(situation: Situation, why: str) -> Decision:
    """Let the key that is next sign from now on, and see to it that another waits (I1)."""
    waiting = situation.waiting
    if not waiting:
        return add_next(situation, "there was none to rotate to; try again once it is served")
    key = waiting[0]
    steps = [Step(StepKind.ACTIVATED, key.kid, situation.now, why)]
    new_keys = _next_after(situation, steps)
    return Change(
        keys=take_over(situation, situation.keys, key),
        steps=tuple(steps),
        new_keys=new_keys,
    )


def take_over(
    situation: Situation, keys: Sequence[SigningKey], key: SigningKey
) -> tuple[SigningKey, ...]:
    """`keys`, of which `key` signs from now on."""
    at, others = make_way(situation, keys, key.kid)
    # Time in which no server ran is taken out now: a start that does so later would take a key
    # that was forced for one whose date came too early.
    served_from = situation.served_from(key)
    signing = replace(
        activated(situation, key, at),
        published_at=situation.now if served_from is None else served_from,
        retire_at=None,
    )
    return tuple(signing if other.kid == key.kid else other for other in others)


def make_way(
    situation: Situation, keys: Sequence[SigningKey], kid: str
) -> tuple[int, tuple[SigningKey, ...]]:
    """From when on `kid` signs, so that it signs now, and all records as that asks for.

    A skew before now: so it signs at once where clocks are behind as well, and there is no second
    in which nothing does. The order of activations decides who signs, so whatever was activated
    since then is put before it, in the order that it had.
    """
    at = situation.now - situation.policy.clock_skew_s
    rivals = [
        key
        for key in keys
        if key.kid != kid and key.compromised_at is None and is_activated(key, situation.now)
    ]
    rivals.sort(key=activation_order, reverse=True)
    latest = {key.kid: at - 1 - number for number, key in enumerate(rivals)}
    return at, tuple(
        replace(key, activate_at=min(key.activate_at, latest[key.kid]))
        if key.kid in latest and key.activate_at is not None
        else key
        for key in keys
    )


def activated(situation: Situation, key: SigningKey, activate_at: int) -> SigningKey:
    """`key` with its time to sign, and the mark with it, so that its first token waits for no
    write. A mark never goes down: tokens may live that were signed before (I4)."""
    policy = situation.policy
    mark = activate_at + policy.access_token_ttl_s + policy.head_room_s
    return replace(key, activate_at=activate_at, exp_high_water=max(mark, key.exp_high_water or 0))


def roll_back(situation: Situation) -> Decision:
    """Take a rotation back: the date of one that is under way, or the switch itself as long as
    the key before is published and has its private half (I6). Done again it switches forth."""
    dated = situation.dated
    if dated is not None:
        return _cancel(situation, dated)
    before = _replaced_last(situation)
    signing = situation.signing
    if before is None or signing is None:
        return Refused((_nothing_to_roll_back_to(situation),), can_be_forced=False)
    why = f"{signing.kid} only verifies from now on"
    return Change(
        keys=take_over(situation, situation.keys, before),
        steps=(Step(StepKind.ROLLED_BACK, before.kid, situation.now, why),),
    )


def _cancel(situation: Situation, dated: SigningKey) -> Change:
    why = "the rotation under way was taken back"
    due_at = rotation_due_at(situation)
    if due_at is not None and due_at <= situation.now + situation.policy.lead_s:
        why += "; it is due by KEY_ROTATE_EVERY, so a server dates it again, one lead from then"
    undated = replace(dated, activate_at=None)
    return Change(
        keys=stays(replace_key(situation.keys, undated), situation.now),
        steps=(Step(StepKind.CANCELLED, dated.kid, None, why),),
    )


def stays(keys: tuple[SigningKey, ...], now: int) -> tuple[SigningKey, ...]:
    """`keys`, of which the one that signs has no date to leave the JWKS: where another clock saw
    it replaced already, it may have got one."""
    signing = signing_key(keys, now)
    if signing is None or signing.retire_at is None:
        return keys
    return replace_key(keys, replace(signing, retire_at=None))


def cover(situation: Situation, kid: str, expires_at: int) -> Decision:
    """Raise the high-water mark of the key that signs, so that tokens may live until
    `expires_at` (I4)."""
    key = situation.find(kid)
    if key is None or situation.signing is None or situation.signing.kid != kid:
        return Unchanged("another key signs now")
    if key.exp_high_water is not None and key.exp_high_water >= expires_at:
        return Unchanged("it is high enough already")
    policy = situation.policy
    mark = expires_at + policy.head_room_s
    if key.exp_high_water is None:  # it signed before marks were kept
        mark = max(mark, situation.now + LONGEST_TOKEN_S)
    retire_at = key.retire_at
    if retire_at is not None:  # on a clock that runs behind the one that saw it replaced
        retire_at = max(retire_at, mark + policy.clock_skew_s + policy.jwks_max_age_s)
    raised = replace(key, exp_high_water=mark, retire_at=retire_at)
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


def _next_after(situation: Situation, steps: list[Step]) -> tuple[NewKey, ...]:
    """The next key for the time after the oldest of those that wait has its date, if that one is
    the only one; its step is added to `steps`."""
    if len(situation.waiting) > 1:
        return ()
    steps.append(Step(StepKind.MADE, None, None, "there is always a next key (I1)"))
    return (NewKey(),)


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
    window_s = situation.policy.rollback_window_s
    return Violation(
        "I6",
        f"the private half of the key before is erased {window_s} s after it was replaced; rotate "
        "forward instead: `keys promote`, or `keys compromise` if the key is bad",
    )
