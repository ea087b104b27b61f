"""Is the client who it says it is? (RFC 6749 §2.3, §3.2.1)

Unknown client, wrong or expired secret, wrong method and disabled client give one answer, after
the same work: each failing path reads the client afresh exactly once. That also lets a secret
that was made a moment ago on the command line work at once, in spite of the cache. A wrong
secret is counted before it is answered. A good one costs no write and always works: with 256
random bits there is nothing to guess, and a forgotten instance that goes on with an old secret
must not stop its sisters behind the same address.
"""

import hmac

from token_server.core.client_auth import ClientAuthMethod, PresentedClient
from token_server.core.opaque import digest
from token_server.errors import InvalidClientError
from token_server.records import AuditEvent, AuditEventType, Client, ClientSecret
from token_server.runtime import Runtime
from token_server.services.guessing import (
    Door,
    Guess,
    admit_guess,
    is_known_refused,
    note_failed,
    refuse_known,
)
from token_server.services.request_context import RequestContext

_ABSENT = bytes(32)


async def authenticate_client(
    runtime: Runtime, presented: PresentedClient, context: RequestContext
) -> Client:
    """The authenticated (or, for method `none`, identified) client.

    Raises InvalidClientError with one public face for every cause; the cause is audited.
    UnavailableError (429) instead of that when too much was guessed.
    """
    guess = Guess(Door.CLIENT_SECRET, presented.client_id)
    presented_digest = _ABSENT if presented.secret is None else digest(presented.secret.reveal())
    client = runtime.clients.peek(presented.client_id)
    outcome = _judge(client, presented, presented_digest, context.now)
    if isinstance(outcome, str):
        # A flood that is refused already costs no query each, whether the client exists or not.
        is_refused = presented.secret is not None and is_known_refused(runtime, guess, context)
        find = runtime.clients.find if is_refused else runtime.clients.refresh
        client = await find(presented.client_id)
        outcome = _judge(client, presented, presented_digest, context.now)
    if isinstance(outcome, str) or client is None:
        reason = outcome if isinstance(outcome, str) else "client_unknown"
        if presented.secret is not None:
            refuse_known(runtime, guess, context)
            await admit_guess(runtime, guess, context)
            note_failed(runtime, guess)
        runtime.audit.record(
            AuditEvent(
                event=AuditEventType.CLIENT_AUTHENTICATION_FAILED,
                at=context.now,
                actor="anonymous",
                # What an unknown client calls itself may be a mistyped secret: not recorded.
                client_id=None if client is None else client.client_id,
                reason=reason,
                ip_address=context.ip_address,
                request_id=context.request_id,
            )
        )
        raise InvalidClientError(reason)
    if outcome is not None:
        runtime.background.note_secret_use(outcome.secret_id, context.now)
    return client


def _judge(
    client: Client | None, presented: PresentedClient, presented_digest: bytes, now: int
) -> ClientSecret | str | None:
    """The secret that matched, None for a public client, or the private reason of the refusal."""
    secrets = () if client is None else client.secrets
    matching: ClientSecret | None = None
    for secret in secrets:  # all of them: how many there are is no business of the clock
        is_match = hmac.compare_digest(secret.secret_digest, presented_digest)
        if is_match and (secret.expires_at is None or now < secret.expires_at):
            matching = secret
    if client is None:
        return "client_unknown"
    if client.is_public != (presented.method is ClientAuthMethod.NONE):
        return "client_auth_method_not_registered"
    if not client.is_public and matching is None:
        return "client_secret_wrong"
    if not client.is_enabled:
        return "client_disabled"
    return matching
