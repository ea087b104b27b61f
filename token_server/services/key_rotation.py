"""What operators do to signing keys: rotate, promote, roll back, call one compromised.

Each verb proposes a change (core/key_rotation.py, core/key_compromise.py), has it judged and made
in one place (services/key_changes.py), and reports what changed, which rules stood in the way,
what it costs verifiers and what comes next. Must not decide by itself when a key may sign.
"""

from dataclasses import dataclass, replace
from typing import Literal

from token_server.config_values import format_duration
from token_server.core import key_compromise
from token_server.core.key_changes import (
    Change,
    Decision,
    Refused,
    Situation,
    Step,
    StepKind,
    Unchanged,
    Violation,
)
from token_server.core.key_forecast import Event, foresee
from token_server.core.key_rotation import (
    activate_next,
    roll_back,
    rotation_due_at,
    schedule,
    start_rotation,
)
from token_server.core.key_verifiers import Effect, effects_of_switch
from token_server.crypto.live_keys import Changed, Decide, Outcome
from token_server.errors import OperatorError
from token_server.runtime import Runtime
from token_server.services.key_changes import change_keys
from token_server.services.key_plan import Basis, basis_of
from token_server.services.keys import KeyRow, list_keys

ACTOR = "operator"

Verb = Literal["rotate", "promote", "rollback", "compromise"]


@dataclass(frozen=True, slots=True)
class Asked:
    """How a command was given."""

    verb: Verb
    force: bool = False
    dry_run: bool = False
    stated: frozenset[str] = frozenset()  # as Surroundings.stated


@dataclass(frozen=True, slots=True)
class Switch:
    """A key begins to sign at once: how long verifiers could know it, and who could not."""

    kid: str | None  # None: it is still to be made (dry run)
    known_s: int
    effects: tuple[Effect, ...]


@dataclass(frozen=True, slots=True)
class ChangeReport:
    """What a command did to the keyring or, with `dry_run`, would do. Instants: epoch seconds."""

    action: Verb
    changed: bool  # False for a dry run, a refusal, and when there was nothing to do
    dry_run: bool
    reason: str | None  # why there was nothing to do
    refused: tuple[Violation, ...]  # the rules in the way
    can_be_forced: bool
    forced: tuple[Violation, ...]  # the rules that were broken because it was asked for
    steps: tuple[Step, ...]
    switch: Switch | None
    dropped: str | None  # the kid that must not be trusted any more
    now: int
    generation: int
    keys: tuple[KeyRow, ...]  # as they are stored now
    events: tuple[Event, ...]  # what comes next
    basis: Basis


async def rotate_keys(
    runtime: Runtime, asked: Asked, *, now: bool = False, if_due: bool = False
) -> ChangeReport:
    """Give the next key its date, one lead from now; with `if_due` only when the signing key has
    reached its age (less one lead). With `now` the next key signs at once, whatever I2 says."""
    if now:
        return await _do(runtime, _switch_at_once, replace(asked, force=True))
    return await _do(runtime, rotate_if_due if if_due else start_rotation, asked)


async def promote_key(runtime: Runtime, asked: Asked) -> ChangeReport:
    """Let the next key sign now; refused until every verifier can know it (I2)."""
    return await _do(runtime, _promote, asked)


async def roll_back_keys(runtime: Runtime, asked: Asked) -> ChangeReport:
    """Take back the rotation under way, or switch back to the key before (I6)."""
    return await _do(runtime, roll_back, asked)


async def compromise_key(runtime: Runtime, kid: str, asked: Asked) -> ChangeReport:
    """Drop one key at once. Never refused, whatever verifiers know; OperatorError with exit code
    3 when no key is called `kid`."""

    def decide(situation: Situation) -> Decision:
        if situation.find(kid) is None:
            raise OperatorError(
                f"No key is called {kid}: `token-server keys list` names them.", exit_code=3
            )
        return key_compromise.compromise_key(situation, kid)

    return await _do(runtime, decide, replace(asked, force=True))


def rotate_if_due(situation: Situation) -> Decision:
    """As a serving process does it: the date that follows from KEY_ROTATE_EVERY, once it is no
    further off than one lead."""
    due_at = rotation_due_at(situation)
    if situation.dated is not None or due_at is None:
        return start_rotation(situation)
    if situation.now < due_at - situation.policy.lead_s:
        return Unchanged("the key that signs has not reached its age (KEY_ROTATE_EVERY)")
    earliest = situation.now + situation.policy.lead_s
    return schedule(situation, max(due_at, earliest), "the key that signs reaches its age")


def _switch_at_once(situation: Situation) -> Decision:
    return activate_next(situation, "rotated at once by command")


def _promote(situation: Situation) -> Decision:
    return activate_next(situation, "promoted by command")


class _Watched:
    """A decision that remembers on what it was taken, and what was decided."""

    def __init__(self, decide: Decide) -> None:
        self._decide = decide
        self.taken: tuple[Situation, Decision] | None = None

    def __call__(self, situation: Situation) -> Decision:
        require_sound(situation)
        decision = self._decide(situation)
        self.taken = (situation, decision)
        return decision


def require_sound(situation: Situation) -> None:
    """OperatorError when what was stated to a command does not fit the running server."""
    policy = situation.policy
    if policy.lead_s < policy.least_lead_s:
        least, lead = format_duration(policy.least_lead_s), format_duration(policy.lead_s)
        raise OperatorError(
            f"KEY_LEAD ({lead}) is shorter than twice JWKS_MAX_AGE + KEY_RELOAD_INTERVAL + "
            f"CLOCK_SKEW of the running server ({least}): state none of them to this command, or "
            "all of them.",
            exit_code=2,
        )


async def _do(runtime: Runtime, decide: Decide, asked: Asked) -> ChangeReport:
    watched = _Watched(decide)
    outcome: Outcome
    if asked.dry_run:
        proposal = await runtime.keys.propose(watched)
        outcome = _foreseen(runtime, proposal.decision, proposal.violations, asked)
    else:
        outcome = await change_keys(runtime, watched, actor=ACTOR, force=asked.force)
    if watched.taken is None:
        raise AssertionError("a change is decided before it is made")
    situation, decision = watched.taken
    return _report(runtime, asked, outcome, situation, decision)


def _foreseen(
    runtime: Runtime, decision: Decision, broken: tuple[Violation, ...], asked: Asked
) -> Outcome:
    if not isinstance(decision, Change):
        return decision
    if broken and not asked.force:
        return Refused(broken)
    return Changed(runtime.keyring.generation + 1, decision.steps, broken)


def _report(
    runtime: Runtime, asked: Asked, outcome: Outcome, before: Situation, decision: Decision
) -> ChangeReport:
    steps = outcome.steps if isinstance(outcome, Changed) else ()
    is_changed = isinstance(outcome, Changed) and not asked.dry_run
    if isinstance(outcome, Changed) and asked.dry_run:
        forecast = foresee(before, decision)
    else:
        forecast = foresee(runtime.keys.situation() if is_changed else before)
    dropped = [step.kid for step in steps if step.kind is StepKind.COMPROMISED]
    return ChangeReport(
        action=asked.verb,
        changed=is_changed,
        dry_run=asked.dry_run,
        reason=outcome.reason if isinstance(outcome, Unchanged) else None,
        refused=outcome.violations if isinstance(outcome, Refused) else (),
        can_be_forced=isinstance(outcome, Refused) and outcome.can_be_forced,
        forced=outcome.forced if isinstance(outcome, Changed) else (),
        steps=steps,
        switch=switch_of(before, steps),
        dropped=dropped[0] if dropped else None,
        now=before.now,
        generation=runtime.keyring.generation,
        keys=list_keys(runtime.keyring, before.now),
        events=tuple(event for event in forecast.events if event.at > before.now),
        basis=basis_of(before, asked.stated),
    )


def switch_of(before: Situation, steps: tuple[Step, ...]) -> Switch | None:
    """The switch among these steps, if a key begins to sign at once that did not before."""
    for step in steps:
        if step.kind is StepKind.ACTIVATED or (step.kind is StepKind.MADE and step.at is not None):
            key = None if step.kid is None else before.find(step.kid)
            known_s = 0
            if key is not None and key.published_at is not None:
                known_s = max(0, before.served_until - key.published_at)
            effects = effects_of_switch(known_s, before.policy.jwks_max_age_s)
            return Switch(step.kid, known_s, effects)
    return None
