"""API keys of a person: making, listing and revoking them; operators list and revoke any.

The secret leaves once, in the answer that made the key, and is stored as a digest only. A key may
be given scopes that a login at the account API would have, and no others; what it may do is
decided again at each use (services/api_keys.py). Revoking a key ends the access tokens that were
exchanged for it in the same transaction.
"""

from dataclasses import dataclass, replace

from token_server.core.api_key import (
    KEY_ID_BYTES,
    format_api_key,
    is_key_id,
    new_key_id,
)
from token_server.core.identifiers import name_problem
from token_server.core.opaque import RANDOM_BYTES, digest
from token_server.errors import (
    ApiKeyNotFoundError,
    InvalidFieldError,
    OperatorError,
    TokenRefusedError,
    TooManyApiKeysError,
)
from token_server.records import ApiKey, AuditEvent, AuditEventType, Secret, User
from token_server.runtime import Runtime
from token_server.services.request_context import RequestContext
from token_server.services.users import show_user
from token_server.storage import api_keys, audit

MAX_LIVE_KEYS = 20  # of one user
MAX_LIFETIME_S = 3650 * 86400


@dataclass(frozen=True, slots=True)
class NewApiKey:
    """What its owner asks for; `expires_at` None: it lives until it is revoked."""

    name: str
    scope: tuple[str, ...]
    expires_at: int | None


@dataclass(frozen=True, slots=True)
class OwnApiKeys:
    """The live keys, the newest first, and which scopes a new one may be given."""

    keys: list[ApiKey]
    available_scope: tuple[str, ...]


async def create_api_key(
    runtime: Runtime, user: User, new: NewApiKey, context: RequestContext
) -> tuple[ApiKey, Secret[str]]:
    """A key of this user's, and its text, which is readable only here.

    Raises InvalidFieldError, TooManyApiKeysError beyond MAX_LIVE_KEYS, and TokenRefusedError when
    the user was disabled in the same moment.
    """
    check_form(new, context.now)
    async with runtime.store.read() as connection:
        policy = await api_keys.find_account_policy(connection)
        live = await api_keys.count_keys(connection, user.user_id, context.now)
    if live >= MAX_LIVE_KEYS:
        # Seen from here, too: a flood of wishes must not hold the lock that logins wait for.
        raise TooManyApiKeysError("api_key_limit_reached")
    if not set(new.scope) <= set(() if policy is None else policy.scopes):
        raise InvalidFieldError(
            "scopes", "A scope is none that a key may have: available_scopes lists them."
        )
    key_id = new_key_id(runtime.entropy.token_bytes(KEY_ID_BYTES))
    text = format_api_key(key_id, runtime.entropy.token_bytes(RANDOM_BYTES))
    key = ApiKey(
        key_id=key_id,
        user_id=user.user_id,
        name=new.name,
        secret_digest=digest(text),
        scope=tuple(dict.fromkeys(new.scope)),
        created_at=context.now,
        expires_at=new.expires_at,
        last_used_at=None,
        revoked_at=None,
    )
    event = _own_event(AuditEventType.API_KEY_CREATED, user, key_id, context)
    async with runtime.store.write() as connection:
        is_made = await api_keys.insert_key(connection, key, MAX_LIVE_KEYS)
        if is_made:
            await audit.insert_events(connection, [event])
    if is_made is None:
        raise TokenRefusedError("user_disabled")
    if not is_made:
        raise TooManyApiKeysError("api_key_limit_reached")
    runtime.audit.log(event)
    return key, Secret(text)


async def list_api_keys(runtime: Runtime, user: User, now: int) -> OwnApiKeys:
    """Never their secrets."""
    async with runtime.store.read() as connection:
        found = await api_keys.list_keys(connection, user.user_id, now, MAX_LIVE_KEYS)
        policy = await api_keys.find_account_policy(connection)
    return OwnApiKeys(found, () if policy is None else policy.scopes)


async def find_api_key(runtime: Runtime, user: User, key_id: str, now: int) -> ApiKey:
    """One live key of this user; ApiKeyNotFoundError for anything else."""
    if not is_key_id(key_id):
        raise ApiKeyNotFoundError("api_key_id_malformed")
    async with runtime.store.read() as connection:
        key = await api_keys.find_key(connection, key_id)
    if key is None or key.user_id != user.user_id:
        raise ApiKeyNotFoundError("api_key_unknown")
    if key.revoked_at is not None or (key.expires_at is not None and now >= key.expires_at):
        raise ApiKeyNotFoundError("api_key_over")
    return key


async def revoke_api_key(
    runtime: Runtime, user: User, key_id: str, context: RequestContext
) -> None:
    """End a key and every access token from it; ApiKeyNotFoundError unless it is a live key of
    this user."""
    if not is_key_id(key_id):
        raise ApiKeyNotFoundError("api_key_id_malformed")
    event = _own_event(AuditEventType.API_KEY_REVOKED, user, key_id, context)
    if not await _revoke(runtime, user.user_id, key_id, event):
        raise ApiKeyNotFoundError("api_key_unknown_or_over")


async def revoke_all_api_keys(runtime: Runtime, user: User, context: RequestContext) -> int:
    """End all keys of this user; how many."""
    event = _own_event(AuditEventType.API_KEY_REVOKED, user, user.user_id, context)
    return len(await _revoke_all(runtime, user.user_id, event))


async def list_api_keys_of(runtime: Runtime, email_or_id: str) -> list[ApiKey]:
    """For operators: the live keys of a user; OperatorError (exit code 3) for nobody."""
    user = await show_user(runtime, email_or_id)
    return (await list_api_keys(runtime, user, runtime.clock.now())).keys


async def revoke_api_keys_of(
    runtime: Runtime, email_or_id: str, key_id: str | None = None
) -> list[str]:
    """For operators: end one key of a user, or all of them; their ids. OperatorError (exit code
    3) when there is no such user, or no such live key."""
    user = await show_user(runtime, email_or_id)
    event = AuditEvent(
        event=AuditEventType.API_KEY_REVOKED,
        at=runtime.clock.now(),
        actor="operator",
        subject=key_id or user.user_id,
        reason="revoked_by_operator",
    )
    if key_id is None:
        return await _revoke_all(runtime, user.user_id, event)
    if not await _revoke(runtime, user.user_id, key_id, event):
        raise OperatorError(
            "The user has no such live API key: `token-server user api-keys USER` shows their ids.",
            exit_code=3,
        )
    return [key_id]


def check_form(new: NewApiKey, now: int) -> None:
    """What can be said without the database; raises InvalidFieldError."""
    if problem := name_problem(new.name):
        raise InvalidFieldError("name", problem)
    if new.expires_at is not None and not now < new.expires_at <= now + MAX_LIFETIME_S:
        raise InvalidFieldError("expires_at", "The key must end in the future, within ten years.")


async def _revoke(runtime: Runtime, user_id: str, key_id: str, event: AuditEvent) -> bool:
    async with runtime.store.write() as connection:
        is_revoked = await api_keys.revoke_key(connection, key_id, user_id, event.at)
        if is_revoked:
            await audit.insert_events(connection, [event])
    if is_revoked:
        runtime.audit.log(event)
    return is_revoked


async def _revoke_all(runtime: Runtime, user_id: str, event: AuditEvent) -> list[str]:
    """One audit row for each key, so that each can be followed from its making to its end."""
    async with runtime.store.write() as connection:
        revoked = await api_keys.revoke_keys_of_user(connection, user_id, event.at)
        events = [replace(event, subject=key_id) for key_id in revoked]
        if events:
            await audit.insert_events(connection, events)
    for each in events:
        runtime.audit.log(each)
    return revoked


def _own_event(
    event: AuditEventType, user: User, subject: str, context: RequestContext
) -> AuditEvent:
    return AuditEvent(
        event=event,
        at=context.now,
        actor=f"user:{user.user_id}",
        subject=subject,
        ip_address=context.ip_address,
        request_id=context.request_id,
    )
