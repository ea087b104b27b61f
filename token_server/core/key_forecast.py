"""What will happen to a keyring if nobody gives a command: the dates, and the reason for each.

Found by playing: the very decisions that a serving process takes (core/key_upkeep.py) are taken
on a copy at every instant at which something can become due. So the forecast cannot differ from
what servers do. It assumes that one serves from now on. Must not see a private half.
"""

import enum
from dataclasses import dataclass, field, replace

from token_server.core.key_changes import Change, Decision, NewKey, Situation, Step, StepKind
from token_server.core.key_lifecycle import superseded_at
from token_server.core.key_rotation import rotation_due_at
from token_server.core.key_upkeep import resume, upkeep
from token_server.records import KeyState, SigningKey

_MOST_INSTANTS = 200
_SWITCHES = 2  # the coming one, and the one after it
_KNOWN = "every verifier can know it: `keys promote` is allowed (I2)"
_LEAVES = "its last token has expired, and no cache needs it (I4)"


class What(enum.StrEnum):
    """What happens to a key at an instant."""

    MADE = "made"  # and published
    KNOWN = "known"  # every verifier can know it: from now on it may sign (I2)
    SCHEDULED = "scheduled"  # it gets the date from which it signs
    SIGNS = "signs"
    ERASED = "erased"  # its private half; it cannot be rolled back to any more (I6)
    LEAVES = "leaves"  # the JWKS


@dataclass(frozen=True, slots=True)
class Event:
    """One thing to come; `is_firm` when the date stands in the keyring already."""

    at: int
    what: What
    kid: str
    why: str
    is_firm: bool


@dataclass(frozen=True, slots=True)
class Phase:
    """A stretch of a key's life; `ends_at` None: beyond what is foreseen."""

    state: KeyState
    begins_at: int
    ends_at: int | None


@dataclass(frozen=True, slots=True)
class Life:
    """A key from its making on, as far as it is foreseen."""

    kid: str
    is_made: bool  # False: it will be
    phases: tuple[Phase, ...]


@dataclass(frozen=True, slots=True)
class Forecast:
    """The events in their order, and the same as lives. Keys to be made are called `new-1`, …"""

    events: tuple[Event, ...]
    lives: tuple[Life, ...]


@dataclass(slots=True)
class _Play:
    """The copy on which decisions are taken."""

    real: Situation
    situation: Situation
    events: list[Event] = field(default_factory=list)
    phases: dict[str, list[Phase]] = field(default_factory=dict)
    made: int = 0
    switches: int = 0


def foresee(situation: Situation, first: Decision | None = None) -> Forecast:
    """Play until the second switch from now: by then every kind of event has come once. `first`
    is a change that is only thought of: what would come after it."""
    play = _Play(situation, replace(situation, serving=None))
    for key in situation.keys:
        play.phases[key.kid] = _past(situation, key)
    if first is not None:
        _decide(play, first)
    _decide(play, resume(replace(play.situation, serving=situation.serving)))
    _do_what_is_due(play)
    for _ in range(_MOST_INSTANTS):
        instant = _next_instant(play.situation)
        if instant is None or play.switches >= _SWITCHES:
            break
        _go_to(play, instant)
        _do_what_is_due(play)
    kids = {key.kid for key in situation.keys}
    lives = (Life(kid, kid in kids, tuple(phases)) for kid, phases in play.phases.items() if phases)
    return Forecast(tuple(play.events), tuple(lives))


def _do_what_is_due(play: _Play) -> None:
    for _ in range(len(play.situation.keys) + 3):  # a key that is made is published next
        decision = upkeep(play.situation)
        if not isinstance(decision, Change):
            return
        _decide(play, decision)


def _decide(play: _Play, decision: Decision) -> None:
    if not isinstance(decision, Change):
        return
    made = [_new_key(play, new) for new in decision.new_keys]
    names = iter(made)
    for step in decision.steps:
        kid = next(names).kid if step.kind is StepKind.MADE else step.kid
        _note_step(play, step, kid or "")
    before = play.situation
    kids = {key.kid for key in made}
    play.situation = replace(
        before, keys=(*decision.keys, *made), usable=(before.usable | kids) - decision.erased
    )


def _new_key(play: _Play, new: NewKey) -> SigningKey:
    play.made += 1
    kid, now = f"new-{play.made}", play.situation.now
    play.phases[kid] = [Phase(KeyState.NEXT, now, None)]
    return SigningKey(
        kid=kid,
        alg="RS256",
        bits=0,
        n=0,
        e=0,
        created_at=now,
        published_at=None,
        activate_at=new.activate_at,
        retire_at=None,
        exp_high_water=None,
        compromised_at=None,
    )


def _note_step(play: _Play, step: Step, kid: str) -> None:
    now, why = play.situation.now, step.why
    match step.kind:
        case StepKind.MADE:
            play.events.append(Event(now, What.MADE, kid, why, is_firm=False))
        case StepKind.SCHEDULED:
            play.events.append(Event(now, What.SCHEDULED, kid, why, is_firm=False))
        case StepKind.ERASED:
            is_firm = _real_state(play, kid) is KeyState.RETIRING
            play.events.append(Event(now, What.ERASED, kid, why, is_firm=is_firm))
        case _:
            pass


def _real_state(play: _Play, kid: str) -> KeyState | None:
    key = play.real.find(kid)
    return None if key is None else play.real.state(key)


def _next_instant(situation: Situation) -> int | None:
    """The next one at which something can become due."""
    policy = situation.policy
    instants: list[int | None] = []
    for key in situation.keys:
        if key.compromised_at is not None:
            continue
        instants += [key.activate_at, key.retire_at, situation.may_sign_from(key)]
        replaced_at = superseded_at(key, situation.keys, situation.now)
        if replaced_at is not None:
            instants += [replaced_at + policy.settle_s, replaced_at + policy.rollback_window_s]
    due_at = rotation_due_at(situation)
    if due_at is not None:
        instants.append(due_at - policy.lead_s)
    return min((at for at in instants if at is not None and at > situation.now), default=None)


def _go_to(play: _Play, instant: int) -> None:
    before = play.situation
    after = replace(before, now=instant)
    for key in before.keys:
        is_dated = key.activate_at is not None and key.activate_at <= instant
        is_next = before.state(key) is KeyState.NEXT
        if is_next and not is_dated and before.may_sign_from(key) == instant:
            is_firm = play.real.find(key.kid) is not None
            play.events.append(Event(instant, What.KNOWN, key.kid, _KNOWN, is_firm=is_firm))
    play.situation = after = replace(
        after, keys=tuple(_covered(before, after, key) for key in after.keys)
    )
    for key in before.keys:
        if before.state(key) is not after.state(key):
            _note_state(play, key, after.state(key))


def _covered(before: Situation, after: Situation, key: SigningKey) -> SigningKey:
    """A key that is replaced gets the high-water mark that it can have by then at the most."""
    if before.state(key) is not KeyState.ACTIVE or after.state(key) is KeyState.ACTIVE:
        return key
    policy = after.policy
    mark = after.now + policy.access_token_ttl_s + policy.head_room_s
    return replace(key, exp_high_water=max(key.exp_high_water or 0, mark))


def _note_state(play: _Play, key: SigningKey, state: KeyState) -> None:
    now, phases = play.situation.now, play.phases[key.kid]
    if phases:
        phases[-1] = replace(phases[-1], ends_at=now)
    if state is KeyState.RETIRED:
        real = play.real.find(key.kid)
        is_firm = real is not None and real.retire_at is not None
        play.events.append(Event(now, What.LEAVES, key.kid, _LEAVES, is_firm=is_firm))
        return
    phases.append(Phase(state, now, None))
    if state is KeyState.ACTIVE:
        play.switches += 1
        real = play.real.find(key.kid)
        is_firm = real is not None and real.activate_at is not None
        why = "its date; the key before only verifies"
        play.events.append(Event(now, What.SIGNS, key.kid, why, is_firm=is_firm))


def _past(situation: Situation, key: SigningKey) -> list[Phase]:
    """What its record tells of a key's life so far. A roll-back leaves no trace in it."""
    state = situation.state(key)
    if state in (KeyState.RETIRED, KeyState.COMPROMISED):
        return []
    begun_at = key.published_at or key.created_at
    if state is KeyState.NEXT:
        return [Phase(KeyState.NEXT, begun_at, None)]
    activated_at = key.activate_at or begun_at
    phases = []
    if begun_at < activated_at:
        phases.append(Phase(KeyState.NEXT, begun_at, activated_at))
    replaced_at = superseded_at(key, situation.keys, situation.now)
    phases.append(Phase(KeyState.ACTIVE, activated_at, replaced_at))
    if replaced_at is not None:
        phases.append(Phase(KeyState.RETIRING, replaced_at, None))
    return phases
