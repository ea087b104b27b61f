"""Ending sessions: a session and its refresh-token family are the same row."""

from dataclasses import dataclass

from token_server.records import AuditEvent, Family
from token_server.runtime import Runtime
from token_server.storage import audit, families


@dataclass(frozen=True, slots=True)
class EndFamily:
    """An effect of a refusal: end this family, and say so in the audit trail, exactly once."""

    family: Family
    reason: str
    event: AuditEvent


async def end_family(runtime: Runtime, effect: EndFamily) -> bool:
    """True when this call ended it; False when it had ended already.

    The audit row is in the same transaction: no revocation without a trace, no trace without
    one. Raises UnavailableError when it could not be committed.
    """
    async with runtime.store.write() as connection:
        is_ended = await families.revoke_family(
            connection, effect.family.family_id, effect.reason, effect.event.at
        )
        if is_ended:
            await audit.insert_events(connection, [effect.event])
    if is_ended:
        runtime.audit.log(effect.event)
    return is_ended
