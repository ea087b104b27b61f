"""Changing the keyring: one way for commands and for the server itself, with its audit events.

A change that breaks a rule is refused with the rule, the reason and the instant at which it will
be allowed; a forced one says in the audit trail what it broke.
"""

from token_server.core.key_changes import Step, StepKind
from token_server.crypto.live_keys import Changed, Decide, Outcome
from token_server.crypto.whole import whole
from token_server.logs import get_logger
from token_server.records import AuditEvent, AuditEventType
from token_server.runtime import Runtime

_log = get_logger(__name__)

# What happens by itself all the time is a log line only.
_UNAUDITED = frozenset({StepKind.PUBLISHED, StepKind.COVERED})


async def change_keys(
    runtime: Runtime, decide: Decide, *, actor: str, force: bool = False
) -> Outcome:
    """Decide, judge and make one change; `actor` is "operator" or "server".

    Returns what was done, why there was nothing to do, or the rules in the way. OperatorError
    when the key store cannot be read or written: then nothing has changed.
    """

    async def change_and_tell() -> Outcome:
        outcome = await runtime.keys.change(decide, force=force)
        audit_change(runtime, outcome, actor)
        return outcome

    return await whole(change_and_tell())


def audit_change(runtime: Runtime, outcome: Outcome, actor: str) -> None:
    """Leave in the log and in the audit trail what was changed, if anything was."""
    if isinstance(outcome, Changed):
        forced = " ".join(sorted({rule.invariant for rule in outcome.forced}))
        for step in outcome.steps:
            _note(runtime, step, actor, outcome.generation, forced)


def _note(runtime: Runtime, step: Step, actor: str, generation: int, forced: str) -> None:
    if step.kind in _UNAUDITED:
        _log.info(f"key_{step.kind}", kid=step.kid, effective_at=step.at, generation=generation)
        return
    details: dict[str, str | int] = {"generation": generation, "why": step.why}
    if step.at is not None:
        details["effective_at"] = step.at
    if forced:
        details["forced"] = forced
    runtime.audit.record(
        AuditEvent(
            event=AuditEventType(f"key.{step.kind}"),
            at=runtime.clock.now(),
            actor=actor,
            subject=step.kid,
            details=details,
        )
    )
