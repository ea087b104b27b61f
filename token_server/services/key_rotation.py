"""What operators do to signing keys: rotate, promote, roll back, call one compromised.

Each verb proposes a change (core/key_rotation.py, core/key_compromise.py), has it judged and made
in one place (services/key_changes.py), and reports what changed, which rules stood in the way and
what comes next. Must not decide by itself when a key may sign.
"""

from dataclasses import dataclass

from token_server.core import key_compromise, key_rotation
from token_server.core.key_changes import (
    Change,
    Decision,
    Refused,
    Situation,
    Step,
    Unchanged,
    Violation,
)
from token_server.core.key_rotation import activate_next, roll_back, schedule, start_rotation
from token_server.core.key_upkeep import rotation_due_at
from token_server.crypto.live_keys import Changed, Decide, Outcome
from token_server.errors import OperatorError
from token_server.runtime import Runtime
from token_server.services.key_changes import change_keys
from token_server.services.keys import KeyRow, list_keys

ACTOR = "operator"


@dataclass(frozen=True, slots=True)
class ChangeReport:
    """What a command did to the keyring or, with `dry_run`, would do."""

    changed: bool
    dry_run: bool
    reason: str | None  # why there was nothing to do
    refused: tuple[Violation, ...]  # the rules in the way; then nothing has changed
    forced: tuple[Violation, ...]  # the rules that were broken because it was asked for
    steps: tuple[Step, ...]
    generation: int
    keys: tuple[KeyRow, ...]  # afterwards


@dataclass(frozen=True, slots=True)
class Asked:
    """How a command was given."""

    force: bool = False
    dry_run: bool = False


async def rotate_keys(
    runtime: Runtime, asked: Asked, *, now: bool = False, if_due: bool = False
) -> ChangeReport:
    """Give the next key its date, one lead from now; with `if_due` only when the signing key has
    reached its age (less one lead). With `now` the next key signs at once, whatever rules say."""
    if now:
        return await _do(runtime, _switch_in_emergency, Asked(force=True, dry_run=asked.dry_run))
    return await _do(runtime, rotate_if_due if if_due else start_rotation, asked)


async def promote_key(runtime: Runtime, asked: Asked) -> ChangeReport:
    """Let the next key sign now; refused until every verifier can know it (I2)."""
    return await _do(runtime, _promote, asked)


async def roll_back_keys(runtime: Runtime, asked: Asked) -> ChangeReport:
    """Take back the rotation under way, or switch back to the key before (I6)."""
    return await _do(runtime, roll_back, asked)


async def compromise_key(runtime: Runtime, kid: str, *, dry_run: bool = False) -> ChangeReport:
    """Drop one key at once. Never refused, whatever verifiers know; OperatorError with exit code
    3 when no key is called `kid`."""

    def decide(situation: Situation) -> Decision:
        if situation.find(kid) is None:
            raise OperatorError(
                f"No key is called {kid}: `token-server keys list` names them.", exit_code=3
            )
        return key_compromise.compromise_key(situation, kid)

    return await _do(runtime, decide, Asked(force=True, dry_run=dry_run))


def rotate_if_due(situation: Situation) -> Decision:
    """As a serving process does it: the date that follows from KEY_ROTATE_EVERY, when it is no
    further off than one lead."""
    dated, due_at = situation.dated, rotation_due_at(situation)
    if dated is not None or due_at is None:
        return start_rotation(situation)
    if situation.now < due_at - situation.policy.lead_s:
        return Unchanged("the key that signs has not reached its age (KEY_ROTATE_EVERY)")
    earliest = situation.now + situation.policy.lead_s
    return schedule(situation, max(due_at, earliest), "the key that signs reaches its age")


def _switch_in_emergency(situation: Situation) -> Decision:
    return activate_next(situation, "rotated at once by command")


def _promote(situation: Situation) -> Decision:
    return key_rotation.activate_next(situation, "promoted by command")


async def _do(runtime: Runtime, decide: Decide, asked: Asked) -> ChangeReport:
    if asked.dry_run:
        proposal = await runtime.keys.propose(decide)
        outcome = _foreseen(proposal.decision, proposal.violations, asked, runtime)
    else:
        outcome = await change_keys(runtime, decide, actor=ACTOR, force=asked.force)
    return _report(runtime, outcome, asked)


def _foreseen(
    decision: Decision, broken: tuple[Violation, ...], asked: Asked, runtime: Runtime
) -> Outcome:
    if not isinstance(decision, Change):
        return decision
    if broken and not asked.force:
        return Refused(broken)
    return Changed(runtime.keyring.generation + 1, decision.steps, broken)


def _report(runtime: Runtime, outcome: Outcome, asked: Asked) -> ChangeReport:
    is_changed = isinstance(outcome, Changed)
    return ChangeReport(
        changed=is_changed and not asked.dry_run,
        dry_run=asked.dry_run,
        reason=outcome.reason if isinstance(outcome, Unchanged) else None,
        refused=outcome.violations if isinstance(outcome, Refused) else (),
        forced=outcome.forced if isinstance(outcome, Changed) else (),
        steps=outcome.steps if isinstance(outcome, Changed) else (),
        generation=runtime.keyring.generation,
        keys=list_keys(runtime.keyring, runtime.clock.now()),
    )
