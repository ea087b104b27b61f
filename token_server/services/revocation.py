"""Revocation: a client gives back a token of its own (RFC 7009).

A refresh token ends its session; an access token ends the session of its login, or, without one,
itself: by its position in a status list, else by its `jti`, which introspection knows. A token that
came out of an exchange shares its position with others and ends alone, by its `jti`. Unknown,
foreign and dead tokens are nothing to complain of and change nothing. Done only once it is durable:
a failed commit raises UnavailableError.
"""

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from token_server.core.client_auth import read_client
from token_server.core.refresh import TokenText
from token_server.errors import InvalidRequestError
from token_server.logs import get_logger
from token_server.records import AuditEvent, AuditEventType, Family
from token_server.runtime import Runtime
from token_server.services.client_authentication import authenticate_client
from token_server.services.refreshing import read_refresh_token
from token_server.services.request_context import RequestContext
from token_server.services.sessions import end, end_by_id
from token_server.services.token_state import (
    DeadToken,
    LiveToken,
    judge_claims,
    read_access_token,
)
from token_server.storage import families
from token_server.storage.revocations import DeniedToken, RevokedNumber

_log = get_logger(__name__)


class Outcome(enum.StrEnum):
    """What became of a token. Only the first changed anything."""

    REVOKED = "revoked"
    UNKNOWN = "unknown"  # no token of ours, expired, or signed by a key that is not published
    FOREIGN = "foreign"  # another client's
    DEAD = "dead"  # worth nothing already


@dataclass(frozen=True, slots=True)
class Revoker:
    """Who revokes: a client its own tokens, or (`client_id` None) the operator any."""

    actor: str
    reason: str
    now: int
    client_id: str | None = None
    ip_address: str | None = None
    request_id: str | None = None

    def may_revoke(self, client_id: str) -> bool:
        return self.client_id is None or client_id == self.client_id


async def revoke_token(
    runtime: Runtime,
    authorization: Sequence[str],
    form: Mapping[str, str],
    context: RequestContext,
) -> None:
    """One request of RFC 7009 §2.1, from authentication to the commit.

    Raises OAuthError when the client is not authenticated (a public one is identified) or sends no
    token; UnavailableError when it could not be looked at or made durable. `token_type_hint` is
    not looked at: the two kinds of tokens cannot be mistaken for each other.
    """
    client = await authenticate_client(runtime, read_client(authorization, form), context)
    token = form.get("token")
    if token is None:
        raise InvalidRequestError("token_missing", "The token parameter is missing.")
    revoker = Revoker(
        f"client:{client.client_id}",
        "revoked_by_client",
        context.now,
        client.client_id,
        context.ip_address,
        context.request_id,
    )
    outcome = await _revoke(runtime, token, revoker)
    runtime.metrics.revocation(outcome.value)
    if outcome is not Outcome.REVOKED:
        _log.info(
            "revocation_without_effect",
            client_id=client.client_id,
            reason=outcome.value,
            request_id=context.request_id,
        )


async def revoke_as_operator(runtime: Runtime, token: str) -> Outcome:
    """Any client's token, on the installation itself. Raises UnavailableError as above."""
    revoker = Revoker("operator", "revoked_by_operator", runtime.clock.now())
    return await _revoke(runtime, token, revoker)


async def _revoke(runtime: Runtime, token: str, revoker: Revoker) -> Outcome:
    refresh_token = read_refresh_token(runtime, token)
    if refresh_token is not None:
        return await _revoke_refresh_token(runtime, refresh_token, revoker)
    claims = read_access_token(runtime, token)
    if claims is None:
        return Outcome.UNKNOWN
    if not revoker.may_revoke(claims.client_id):
        return Outcome.FOREIGN
    state = await judge_claims(runtime, claims)
    if isinstance(state, DeadToken):
        return Outcome.DEAD
    return await _revoke_live_token(runtime, state, revoker)


async def _revoke_refresh_token(runtime: Runtime, token: TokenText, revoker: Revoker) -> Outcome:
    """Of any generation: whoever holds a spent one may end the session as well."""
    family = await families.look_up(runtime.store, token.family_id)
    if family is None:
        return Outcome.UNKNOWN
    if not revoker.may_revoke(family.client_id):
        return Outcome.FOREIGN
    return await _end_session(runtime, family, revoker)


async def _revoke_live_token(runtime: Runtime, token: LiveToken, revoker: Revoker) -> Outcome:
    # What a token was exchanged from, a login or an API key, is not this client's to end.
    claims, is_exchanged = token.claims, bool(token.claims.actors)
    if token.session is not None and not is_exchanged:
        return await _end_session(runtime, token.session, revoker)
    event = AuditEvent(
        event=AuditEventType.TOKEN_REVOKED,
        at=revoker.now,
        actor=revoker.actor,
        subject=claims.token_id,
        client_id=claims.client_id,
        reason=revoker.reason,
        ip_address=revoker.ip_address,
        request_id=revoker.request_id,
    )
    if token.number is None or is_exchanged:
        is_new = await end(runtime, DeniedToken(claims.token_id, claims.expires_at, event))
    else:
        is_new = await end(runtime, RevokedNumber(token.number, event))
    return Outcome.REVOKED if is_new else Outcome.DEAD


async def _end_session(runtime: Runtime, session: Family, revoker: Revoker) -> Outcome:
    event = AuditEvent(
        event=AuditEventType.SESSION_REVOKED,
        at=revoker.now,
        actor=revoker.actor,
        subject=session.sid,
        client_id=session.client_id,
        reason=revoker.reason,
        ip_address=revoker.ip_address,
        request_id=revoker.request_id,
        details={"sessions_ended": 1},
    )
    is_ended = await end_by_id(runtime, session, event)
    return Outcome.REVOKED if is_ended else Outcome.DEAD
