"""Sessions: listing and ending them. A session and its refresh-token family are the same row.

A person ends one of their own, all others, or the one they are in; an operator ends any. The
audit row is in the same transaction as the end: no revocation without a trace, no trace without
one. Starting a session is services/issuing.py's.
"""

import re
from dataclasses import dataclass

from token_server.core.client_policy import ACCOUNT_CLIENT_ID
from token_server.errors import OperatorError, SessionNotFoundError
from token_server.records import AuditEvent, AuditEventType, Family, User
from token_server.runtime import Runtime
from token_server.services.bearer import Principal
from token_server.services.refreshing import read_refresh_token
from token_server.services.request_context import RequestContext
from token_server.services.session_sweeps import sweep_sessions
from token_server.services.users import show_user
from token_server.storage import audit, families
from token_server.storage.family_sweeps import Sweep
from token_server.storage.revocations import EndedSession, Revocation

PAGE = 100
_SID = re.compile(r"ses_[A-Za-z0-9_-]{22}", re.ASCII)


@dataclass(frozen=True, slots=True)
class EndFamily:
    """An effect of a refusal: end this family, and say so in the audit trail, exactly once."""

    family: Family
    reason: str
    event: AuditEvent


async def end_family(runtime: Runtime, effect: EndFamily) -> bool:
    """True when this call ended it; False when it had ended already.

    Raises UnavailableError when it could not be committed.
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


async def list_sessions(runtime: Runtime, user: User, now: int) -> list[Family]:
    """The live sessions of whoever calls, the newest login first; at most PAGE."""
    async with runtime.store.read() as connection:
        return await families.list_families(connection, user_id=user.user_id, now=now, limit=PAGE)


async def find_session(runtime: Runtime, user: User, sid: str, now: int) -> Family:
    """One live session of whoever calls; SessionNotFoundError for anything else."""
    if _SID.fullmatch(sid) is None:
        raise SessionNotFoundError("session_id_malformed")
    async with runtime.store.read() as connection:
        session = await families.find_session(connection, sid)
    if session is None or session.user_id != user.user_id:
        raise SessionNotFoundError("session_unknown")
    is_over = now >= min(session.idle_expires_at, session.absolute_expires_at)
    if is_over or session.revoked_at is not None:
        raise SessionNotFoundError("session_over")
    return session


async def log_out(runtime: Runtime, session: Family, context: RequestContext) -> bool:
    """End the session that its own token or cookie asks to end; False when it had ended."""
    return await end_by_id(
        runtime, session, _user_event(session.user_id, session.sid, "logout", context)
    )


async def log_out_by_token(runtime: Runtime, refresh_token: str, context: RequestContext) -> bool:
    """As `log_out`, by a refresh token of the session, the current one or an older: whoever holds
    one may end it. Junk, ended sessions and those of other clients are nothing to complain of."""
    token = read_refresh_token(runtime, refresh_token)
    if token is None:
        return False
    session = await families.look_up(runtime.store, token.family_id)
    if session is None or session.client_id != ACCOUNT_CLIENT_ID:
        return False
    return await log_out(runtime, session, context)


async def end_session(
    runtime: Runtime, principal: Principal, session: Family, context: RequestContext
) -> None:
    """End one session of whoever calls; SessionNotFoundError when it has just ended."""
    event = _user_event(principal.user.user_id, session.sid, "ended_by_user", context)
    if not await end_by_id(runtime, session, event):
        raise SessionNotFoundError("session_over")


async def end_other_sessions(
    runtime: Runtime, principal: Principal, context: RequestContext
) -> int:
    """End all sessions of whoever calls but the one they are in; how many ended."""
    user_id, event = principal.user.user_id, None
    async with runtime.store.write() as connection:
        ended = await families.revoke_families_of_user(
            connection, user_id, "ended_by_user", context.now, except_sid=principal.session.sid
        )
        if ended:
            event = _user_event(user_id, user_id, "ended_by_user", context, len(ended))
            await audit.insert_events(connection, [event])
    if event is not None:
        runtime.audit.log(event)
    return len(ended)


async def list_sessions_of(runtime: Runtime, email_or_id: str) -> list[Family]:
    """For operators: the live sessions of a user; OperatorError (exit code 3) for nobody."""
    user = await show_user(runtime, email_or_id)
    async with runtime.store.read() as connection:
        return await families.list_families(
            connection, user_id=user.user_id, now=runtime.clock.now(), limit=PAGE
        )


async def revoke_session(runtime: Runtime, sid: str) -> Family:
    """For operators: end any session; harmless when repeated. OperatorError (exit code 3) when
    there is no such session."""
    async with runtime.store.read() as connection:
        session = await families.find_session(connection, sid)
    if session is None:
        raise OperatorError(
            "There is no such session: `token-server session list USER` shows their ids.",
            exit_code=3,
        )
    event = AuditEvent(
        event=AuditEventType.SESSION_REVOKED,
        at=runtime.clock.now(),
        actor="operator",
        subject=sid,
        client_id=session.client_id,
        reason="ended_by_operator",
    )
    await end_by_id(runtime, session, event)
    return session


async def end_user_sessions(runtime: Runtime, email_or_id: str) -> int:
    """For operators: end all sessions that a user has now; how many. OperatorError for nobody."""
    user = await show_user(runtime, email_or_id)
    sweep = Sweep("user", user.user_id, "ended_by_operator", runtime.clock.now())
    event = AuditEvent(
        event=AuditEventType.SESSION_REVOKED,
        at=sweep.now,
        actor="operator",
        subject=user.user_id,
        reason=sweep.reason,
    )
    return await sweep_sessions(runtime, sweep, event)


async def end_by_id(runtime: Runtime, session: Family, event: AuditEvent) -> bool:
    """False: it had ended already. UnavailableError when it could not be committed."""
    return await end(runtime, EndedSession(session.sid, session.user_id, event))


async def end(runtime: Runtime, revocation: Revocation) -> bool:
    """Commit it with its audit row; False, and neither, for what had ended already."""
    is_ended = await runtime.revocations.submit(revocation)
    if is_ended:
        runtime.audit.log(revocation.event)
    return is_ended


def _user_event(
    user_id: str, subject: str, reason: str, context: RequestContext, ended: int = 1
) -> AuditEvent:
    return AuditEvent(
        event=AuditEventType.SESSION_REVOKED,
        at=context.now,
        actor=f"user:{user_id}",
        subject=subject,
        reason=reason,
        ip_address=context.ip_address,
        request_id=context.request_id,
        details={"sessions_ended": ended},
    )
