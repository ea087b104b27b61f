"""Who may exchange which token, and for what (RFC 8693): the per-client policy.

For the token endpoint and for forward authentication alike: neither can give out more than this.
The new token says who acts for whom, is for one service, narrower than what it came from in scope
and roles, dies with it, and shows its revocation in the same place, so that ending a session or an
API key ends every token down a call chain. Examines no token: services/token_state.py has done so.
"""

from dataclasses import dataclass

from token_server.core.client_policy import TOKEN_EXCHANGE
from token_server.core.status_list import Position
from token_server.core.token_exchange import choose_scope, choose_target
from token_server.errors import InvalidRequestError, OAuthError, UnauthorizedClientError
from token_server.records import AuditEvent, AuditEventType, Client
from token_server.runtime import Runtime
from token_server.services.api_keys import ApiKeyPrincipal, status_number
from token_server.services.issuing import Authorization, Backing
from token_server.services.request_context import RequestContext
from token_server.services.token_state import LiveToken, status_position
from token_server.verify.claims import MAX_ACT_DEPTH


class SubjectRefusedError(InvalidRequestError):
    """`invalid_request` for every subject or actor token that is not good (RFC 8693 §2.2.2): one
    answer, whatever the reason."""

    default_description = (
        "The subject_token or the actor_token is malformed, expired, revoked or not meant for this"
        " client."
    )

    def __init__(self, reason: str) -> None:
        super().__init__(reason)


@dataclass(frozen=True, slots=True)
class Subject:
    """For whom the exchanged token speaks, and what it may never exceed; of a credential that is
    good now. `audience` and `client_id` are None for one that any client may have been given."""

    subject: str  # user id, or the client id of a machine
    source: str  # what the log calls the credential: `jti` or key id, never a part of it
    scope: tuple[str, ...]
    expires_at: int | None
    audience: tuple[str, ...] | None = None
    client_id: str | None = None
    sid: str | None = None
    auth_time: int | None = None
    roles: tuple[str, ...] = ()
    status: Position | None = None
    actors: tuple[str, ...] = ()  # who acted so far, the last one first


@dataclass(frozen=True, slots=True)
class Asked:
    """What the request names; None is left to the policy."""

    audience: str | None = None
    scope: tuple[str, ...] | None = None


def subject_of_token(runtime: Runtime, token: LiveToken) -> Subject:
    """From an access token of ours that is good now, exchanged before or not."""
    claims, session = token.claims, token.session
    expires_at, roles = claims.expires_at, claims.roles
    status = status_position(runtime, claims)
    if session is not None:
        expires_at = min(expires_at, session.absolute_expires_at)
        # As they are now, and never one that the caller's token does not have.
        roles = tuple(role for role in claims.roles if role in session.roles)
        status = runtime.status.session_position(session.seq)
    return Subject(
        subject=claims.subject,
        source=claims.token_id,
        scope=claims.scopes,
        expires_at=expires_at,
        audience=claims.audience,
        client_id=claims.client_id,
        sid=claims.session_id,
        auth_time=claims.auth_time,
        roles=roles,
        status=status,
        actors=claims.actors,
    )


async def subject_of_api_key(runtime: Runtime, key: ApiKeyPrincipal, now: int) -> Subject:
    """From an API key that is good now: for its owner, without roles, since a service that looks
    at roles alone would let the narrowest key do everything.

    Raises UnavailableError when the database does not answer or the key ended meanwhile.
    """
    number = await status_number(runtime, key, now)
    return Subject(
        subject=key.user.user_id,
        source=key.key_id,
        scope=key.scope,
        expires_at=key.expires_at,
        status=runtime.status.machine_position(number),
    )


def authorize_exchange(
    runtime: Runtime, client: Client, subject: Subject, asked: Asked, context: RequestContext
) -> Authorization:
    """What `client`, which is authenticated, may act as; for services.issuing.issue.

    Raises UnauthorizedClientError without the grant, InvalidRequestError for a subject that is
    not this client's to exchange (RFC 8693 §2.2.2), InvalidTargetError and InvalidScopeError for
    more than the policy gives. Each refusal is audited.
    """
    try:
        return _authorize(client, subject, asked, context.now)
    except OAuthError as error:
        runtime.audit.record(refusal_event(client, error.reason, context, subject))
        raise


def refusal_event(
    client: Client, reason: str, context: RequestContext, subject: Subject | None = None
) -> AuditEvent:
    """For the audit trail: that a client was refused, why, and for whom if that is known."""
    return AuditEvent(
        event=AuditEventType.TOKEN_EXCHANGE_REFUSED,
        at=context.now,
        actor=f"client:{client.client_id}",
        subject=None if subject is None else subject.subject,
        client_id=client.client_id,
        reason=reason,
        ip_address=context.ip_address,
        request_id=context.request_id,
    )


def _authorize(client: Client, subject: Subject, asked: Asked, now: int) -> Authorization:
    if TOKEN_EXCHANGE not in client.grant_types or client.is_public:
        raise UnauthorizedClientError("token_exchange_not_registered")
    reason = _subject_problem(client, subject, now)
    if reason is not None:
        raise SubjectRefusedError(reason)
    return Authorization(
        client=client,
        subject=subject.subject,
        scope=choose_scope(asked.scope, subject.scope, client.scopes),
        audience=(choose_target(asked.audience, client.exchange_audiences),),
        basis=Backing(
            not_after=subject.expires_at,
            sid=subject.sid,
            auth_time=subject.auth_time,
            roles=subject.roles,
            status=subject.status,
            actors=(client.client_id, *subject.actors),
            source=subject.source,
        ),
    )


def _subject_problem(client: Client, subject: Subject, now: int) -> str | None:
    # Meant for this client, or else any service could go on with tokens that it only got to see.
    if subject.audience is not None:
        is_for_client = not set(subject.audience).isdisjoint(client.serves_audiences)
        if not is_for_client and subject.client_id != client.client_id:
            return "subject_token_for_another"
    if subject.expires_at is not None and subject.expires_at <= now:
        return "subject_token_expired"
    if len(subject.actors) >= MAX_ACT_DEPTH:  # verifiers refuse a longer chain
        return "actor_chain_too_long"
    return None
