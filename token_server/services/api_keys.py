"""API keys in use: whose key this is, what it may do now, and where its access tokens stand.

For the account API, token exchange and forward authentication, which all must agree. A key is as
good as its owner: disabled owner, closed account API, lost scopes and the end of the key count
from the same second on. All causes get one answer; the cause is audited. Making and revoking
keys is services/own_api_keys.py's.
"""

import hmac
from dataclasses import dataclass, replace

from token_server.core.api_key import read_key_id
from token_server.core.opaque import digest
from token_server.errors import UnavailableError
from token_server.records import ApiKey, AuditEvent, AuditEventType, User
from token_server.runtime import Runtime
from token_server.services.guessing import Door, Guess, admit_guess, note_failed, refuse_known
from token_server.services.request_context import RequestContext
from token_server.storage import api_keys, users
from token_server.storage.api_keys import AccountPolicy, KeyNumbers

# All tokens of a key share one number for so long. An access token lives for a day at most, so
# none is left of the number before the previous one, and blocks outlive both (`db prune`).
NUMBER_FOR_S = 86400
_MAX_TRIES = 5
_ABSENT = bytes(32)


@dataclass(frozen=True, slots=True)
class ApiKeyPrincipal:
    """A good key, as the database knows it and its owner now."""

    key_id: str  # "key_…" names it in APIs, logs and the audit trail
    user: User
    scope: tuple[str, ...]  # effective: the key's, cut down to what its owner may have now
    expires_at: int | None


async def authenticate_api_key(
    runtime: Runtime, text: str, context: RequestContext
) -> ApiKeyPrincipal | None:
    """Whose key this is; None for one that is not good, whatever the reason.

    What has not the form of a key costs no query. A wrong one is counted as a guess and audited; a
    good one costs no write and always works. Raises UnavailableError: throttled (429) when too
    much was guessed, else (503) when the database does not answer.
    """
    key_id = read_key_id(text)
    if key_id is None:
        return None
    async with runtime.store.read() as connection:
        key = await api_keys.find_key(connection, key_id)
        stored = _ABSENT if key is None else key.secret_digest
        if not hmac.compare_digest(stored, digest(text)):
            key = None
        user = None if key is None else await users.find_user(connection, key.user_id)
        policy = None if key is None else await api_keys.find_account_policy(connection)
    outcome = _judge(key, user, policy, context.now)
    if isinstance(outcome, str):
        await _refuse(runtime, key_id, key, outcome, context)
        return None
    runtime.background.note_key_use(outcome.key_id, context.now)
    return outcome


async def status_number(runtime: Runtime, principal: ApiKeyPrincipal, now: int) -> int:
    """The number of a machine token whose position in the status lists all access tokens from
    this key carry: revoking the key, or disabling its owner, revokes it.

    Renewed once a day, by a write. Raises UnavailableError when the database does not answer, and
    when key or owner ended a moment ago: the next attempt is refused.
    """
    for _ in range(_MAX_TRIES):
        async with runtime.store.read() as connection:
            key = await api_keys.find_key(connection, principal.key_id)
            numbers = await api_keys.read_numbers(connection, principal.key_id)
        if key is None or numbers is None or key.revoked_at is not None:
            raise UnavailableError("api_key_ended_meanwhile")
        usable = _usable_number(numbers)
        if usable is not None and now - (numbers.taken_at or 0) < NUMBER_FOR_S:
            return usable
        taken = await runtime.status.machine_number(now)
        previous = numbers.previous if usable is None else usable
        new = replace(numbers, current=taken, taken_at=now, previous=previous)
        async with runtime.store.write() as connection:
            is_taken = await api_keys.take_number(connection, key, numbers.current, new)
        if is_taken:
            return taken
    raise UnavailableError("api_key_ended_meanwhile")


def _usable_number(numbers: KeyNumbers) -> int | None:
    if numbers.current is None or numbers.is_revoked or numbers.current < numbers.floor:
        return None
    return numbers.current


def _judge(
    key: ApiKey | None, user: User | None, policy: AccountPolicy | None, now: int
) -> ApiKeyPrincipal | str:
    """Who calls, or the private reason of the refusal."""
    if key is None or user is None:
        return "api_key_unknown"
    if key.revoked_at is not None:
        return "api_key_revoked"
    if key.expires_at is not None and now >= key.expires_at:
        return "api_key_expired"
    if not user.is_active:
        return "user_disabled"
    if policy is None or not policy.is_enabled:
        return "client_disabled"
    scope = tuple(word for word in key.scope if word in policy.scopes)
    return ApiKeyPrincipal(key.key_id, user, scope, key.expires_at)


async def _refuse(
    runtime: Runtime, key_id: str, key: ApiKey | None, reason: str, context: RequestContext
) -> None:
    """Counted and audited; raises UnavailableError (429) when too much was guessed."""
    guess = Guess(Door.API_KEY, key_id)
    refuse_known(runtime, guess, context)
    await admit_guess(runtime, guess, context)
    note_failed(runtime, guess)
    runtime.audit.record(
        AuditEvent(
            event=AuditEventType.API_KEY_REFUSED,
            at=context.now,
            actor="anonymous",
            # Only of a key whose secret was right: any other id is whatever a stranger sent.
            subject=None if key is None else key.key_id,
            reason=reason,
            ip_address=context.ip_address,
            request_id=context.request_id,
        )
    )
