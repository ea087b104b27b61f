"""Grant `refresh_token`: spend one, get the next (RFC 6749 §6, RFC 9700 §4.14).

Without `scope` and `resource` the conditional UPDATE goes first and is all there is. With
them the immutable grant is read before, so that a refused widening does not spend the token.
"""

from typing import assert_never

from token_server.core import client_policy
from token_server.core.refresh import Expired, Refused, Replay, Reuse, Rotate, TokenText
from token_server.core.scope import narrow_scope
from token_server.errors import InvalidGrantError, InvalidTargetError, OAuthError
from token_server.grants.base import ClientPolicy, Denied, Grant, Outcome, ScopePolicy, TokenRequest
from token_server.records import AuditEvent, AuditEventType, Family
from token_server.runtime import Runtime
from token_server.services import issuing
from token_server.services.refreshing import (
    NotSpent,
    Spent,
    admit_replay,
    judge_refresh_token,
    read_refresh_token,
    spend_refresh_token,
)
from token_server.services.sessions import EndFamily


async def _authorize(runtime: Runtime, request: TokenRequest) -> Outcome:
    token = read_refresh_token(runtime, request.parameters["refresh_token"].reveal())
    if token is None:
        runtime.metrics.refresh("refused")
        event = _event(AuditEventType.REFRESH_TOKEN_REFUSED, request, None, "refresh_token_junk")
        return Denied(InvalidGrantError("refresh_token_junk"), event=event)
    client, context = request.client, request.context
    if request.scope is not None or request.audience is not None:
        judged = await judge_refresh_token(runtime, token, client, context)
        if judged.family is None or not isinstance(judged.decision, Rotate | Replay):
            return await _not_spent(runtime, request, token, judged)
        refusal = _widening(request, judged.family)
        if refusal is not None:
            return Denied(refusal)
    outcome = await spend_refresh_token(runtime, token, client, context)
    match outcome:
        case Spent(family):
            runtime.metrics.refresh("rotated")
            return _authorization(request, family)
        case NotSpent():
            return await _not_spent(runtime, request, token, outcome)
        case _:
            assert_never(outcome)


def _authorization(request: TokenRequest, family: Family) -> issuing.Authorization:
    return issuing.Authorization(
        client=request.client,
        subject=family.user_id,
        scope=family.scope if request.scope is None else request.scope,
        audience=family.audience if request.audience is None else request.audience,
        basis=family,
    )


def _widening(request: TokenRequest, family: Family) -> OAuthError | None:
    """Scope and resource may shrink, never grow (RFC 6749 §6, RFC 8707 §2.2)."""
    try:
        narrow_scope(request.scope, family.scope)
    except OAuthError as error:
        return error
    if request.audience is not None and not set(request.audience) <= set(family.audience):
        return InvalidTargetError("resource_exceeds_grant")
    return None


async def _not_spent(
    runtime: Runtime, request: TokenRequest, token: TokenText, outcome: NotSpent
) -> Outcome:
    family, decision = outcome.family, outcome.decision
    match decision:
        case Replay() if family is not None:
            await admit_replay(runtime, family, token.generation, decision, request.context)
            runtime.metrics.refresh("replayed")
            authorization = _authorization(request, family)
            return issuing.Replay(
                request.client, family, authorization.scope, authorization.audience
            )
        case Reuse(reason) if family is not None:
            runtime.metrics.refresh("reuse_revoked")
            event = _event(AuditEventType.REFRESH_TOKEN_REUSED, request, family, reason)
            effect = EndFamily(family, "refresh_token_reused", event)
            return Denied(InvalidGrantError(reason), effect=effect)
        case Expired(reason):
            runtime.metrics.refresh("expired")
            return Denied(InvalidGrantError(reason))
        case Refused("generation_from_future" as reason):
            runtime.metrics.refresh("refused")
            event = _event(AuditEventType.REFRESH_TOKEN_FROM_FUTURE, request, family, reason)
            return Denied(InvalidGrantError(reason), event=event)
        case Refused(reason):
            runtime.metrics.refresh("refused")
            event = _event(AuditEventType.REFRESH_TOKEN_REFUSED, request, family, reason)
            return Denied(InvalidGrantError(reason), event=event)
        case _:
            raise AssertionError(f"{type(decision).__name__} does not come out of spending")


def _event(
    event: AuditEventType, request: TokenRequest, family: Family | None, reason: str
) -> AuditEvent:
    return AuditEvent(
        event=event,
        at=request.context.now,
        actor=f"client:{request.client.client_id}",
        subject=None if family is None else family.sid,
        client_id=request.client.client_id,
        reason=reason,
        ip_address=request.context.ip_address,
        request_id=request.context.request_id,
    )


REFRESH_TOKEN = Grant(
    grant_type=client_policy.REFRESH_TOKEN,
    required=("refresh_token",),
    client_policy=ClientPolicy.ANY,
    scope_policy=ScopePolicy.GRANT,
    authorize=_authorize,
)
