"""People's accounts: making and changing them, and whether a password is theirs.

Changing a password and disabling end the user's sessions in the same transaction and raise
`credential_version`, which also stops a login that is hashing meanwhile (refresh.md 9). New
passwords follow SP 800-63B-4 §3.1.1.2. Hashing stays outside write blocks, and whoever fails to
log in gets the same answer after the same work. Making a session is services/issuing.py's.
"""

import asyncio
from dataclasses import dataclass, replace

from token_server.core.identifiers import (
    USER_ID_BYTES,
    USER_ID_PREFIX,
    IdentifierError,
    canonical_email,
    name_problem,
    new_user_id,
)
from token_server.core.password_policy import (
    PasswordPolicy,
    describe,
    identity_of,
    normalise_password,
    password_problem,
)
from token_server.crypto.blocklist import load_blocklist
from token_server.crypto.hash_queue import Place
from token_server.crypto.passwords import Verification
from token_server.errors import OperatorError, UnavailableError
from token_server.logs import get_logger
from token_server.records import AuditEvent, AuditEventType, Secret, User
from token_server.runtime import Runtime
from token_server.services.guessing import (
    Guess,
    admit_guess,
    forgive_guess,
    note_failed,
    return_guess,
)
from token_server.services.request_context import RequestContext
from token_server.storage import api_keys, audit, families, users
from token_server.storage.errors import AlreadyExistsError

_log = get_logger(__name__)

PAGE = 100


@dataclass(frozen=True, slots=True)
class NewUser:
    email: str
    name: str
    password: Secret[str]


@dataclass(frozen=True, slots=True)
class FieldProblem:
    """Why a value is refused: one sentence for whoever typed it, which never repeats it."""

    field: str
    text: str


@dataclass(frozen=True, slots=True)
class Registrar:
    """Who makes an account. A stranger's may have to wait for an operator to enable it."""

    actor: str
    is_active: bool = True
    context: RequestContext | None = None


async def add_user(runtime: Runtime, new: NewUser) -> User:
    """Make an account. OperatorError lists every problem, or says that the e-mail is taken."""
    problems = await find_problems(runtime, new)
    if problems:
        raise refusal("The user was not added", [problem.text for problem in problems])
    user = await create_user(runtime, new, Registrar("operator"))
    if user is None:
        raise taken_email()
    return user


async def find_problems(runtime: Runtime, new: NewUser) -> list[FieldProblem]:
    """Everything that is wrong in itself, whoever else exists."""
    problems: list[FieldProblem] = []
    try:
        canonical_email(new.email)
    except IdentifierError as error:
        problems.append(FieldProblem("email", str(error)))
    if problem := name_problem(new.name):
        problems.append(FieldProblem("name", problem))
    if problem := await find_password_problem(runtime, new.password, new.email, new.name):
        problems.append(FieldProblem("password", problem))
    return problems


async def create_user(
    runtime: Runtime, new: NewUser, registrar: Registrar, place: Place | None = None
) -> User | None:
    """Store an account in which `find_problems` found nothing; None when the e-mail is taken.

    Both take the same work: one hash, and one transaction with one audit event.
    """
    now = runtime.clock.now()
    user = User(
        user_id=new_user_id(runtime.entropy.token_bytes(USER_ID_BYTES)),
        email=new.email.strip(" "),
        email_canonical=canonical_email(new.email),
        name=new.name,
        password_hash=await runtime.hasher.hash(_normalised(new.password), place),
        is_active=registrar.is_active,
        credential_version=0,
        created_at=now,
        updated_at=now,
        password_changed_at=now,
        last_login_at=None,
    )
    event = _created_event(user, registrar, now)
    is_taken = False
    async with runtime.store.write() as connection:
        try:
            await users.insert_user(connection, user)
        except AlreadyExistsError:
            is_taken = True
            event = replace(
                event, event=AuditEventType.REGISTRATION_REFUSED, subject=None, reason="email_taken"
            )
        await audit.insert_events(connection, [event])
    runtime.audit.log(event)
    return None if is_taken else user


async def list_users(runtime: Runtime, after: str | None = None, limit: int = PAGE) -> list[User]:
    """The next `limit` users in the order of their ids, after the id `after`."""
    async with runtime.store.read() as connection:
        return await users.list_users(connection, after, limit)


async def show_user(runtime: Runtime, email_or_id: str) -> User:
    """The user of this e-mail or id; OperatorError (exit code 3) when there is none."""
    user = await _find_user(runtime, email_or_id)
    if user is None:
        raise unknown_user()
    return user


async def find_password_problem(
    runtime: Runtime, password: Secret[str], email: str, name: str
) -> str | None:
    """Why this must not become the password of the person with this e-mail and name."""
    settings = runtime.settings
    policy = PasswordPolicy(
        settings.password_min_length,
        settings.password_max_length,
        await asyncio.to_thread(load_blocklist),
    )
    problem = password_problem(password.reveal(), policy, identity_of(email.strip(" "), name))
    return None if problem is None else describe(problem, policy)


async def set_password(runtime: Runtime, email_or_id: str, password: Secret[str]) -> User:
    """Give the user another password and end all sessions.

    OperatorError when the password is refused or the user unknown.
    """
    user = await show_user(runtime, email_or_id)
    problem = await find_password_problem(runtime, password, user.email, user.name)
    if problem is not None:
        raise refusal("The password was not changed", [problem])
    password_hash = await runtime.hasher.hash(_normalised(password))
    now = runtime.clock.now()
    event = None
    async with runtime.store.write() as connection:
        # The user's row first: its lock orders this against a login that is about to commit.
        if await users.change_password(connection, user.user_id, password_hash, now):
            ended = await families.revoke_families_of_user(
                connection, user.user_id, "password_changed", now
            )
            event = _event(
                AuditEventType.USER_PASSWORD_CHANGED, user.user_id, now, sessions_ended=len(ended)
            )
            await audit.insert_events(connection, [event])
    if event is None:
        raise unknown_user()
    runtime.audit.log(event)
    return await show_user(runtime, user.user_id)


async def disable_user(runtime: Runtime, email_or_id: str) -> User:
    """Refuse the user's logins and API keys from now on and end all sessions, and the access tokens
    from the keys; harmless when repeated."""
    user = await show_user(runtime, email_or_id)
    now = runtime.clock.now()
    event = None
    async with runtime.store.write() as connection:
        if await users.set_user_active(connection, user.user_id, False, now):
            ended = await families.revoke_families_of_user(
                connection, user.user_id, "user_disabled", now
            )
            await api_keys.end_tokens_of_user(connection, user.user_id, now)
            event = _event(
                AuditEventType.USER_DISABLED, user.user_id, now, sessions_ended=len(ended)
            )
            await audit.insert_events(connection, [event])
    if event is None:
        raise unknown_user()
    runtime.audit.log(event)
    return await show_user(runtime, user.user_id)


async def enable_user(runtime: Runtime, email_or_id: str) -> User:
    """Let a disabled user log in again, with the old password; ended sessions stay ended, API keys
    are good again."""
    user = await show_user(runtime, email_or_id)
    if user.is_active:
        return user
    now = runtime.clock.now()
    event = _event(AuditEventType.USER_ENABLED, user.user_id, now)
    async with runtime.store.write() as connection:
        is_enabled = await users.set_user_active(connection, user.user_id, True, now)
        if is_enabled:
            await audit.insert_events(connection, [event])
    if not is_enabled:
        raise unknown_user()
    runtime.audit.log(event)
    return await show_user(runtime, user.user_id)


async def authenticate_user(
    runtime: Runtime,
    guess: Guess,
    password: Secret[str],
    context: RequestContext,
    client_id: str | None = None,
) -> User | None:
    """The user, as read before the password was hashed, or None whatever the cause.

    Counts the guess before looking at it and forgives it after a success (services/guessing.py);
    the cause of a failure is audited here. Raises UnavailableError when too much was guessed, or
    the hasher or the database is busy, which is never to be answered like a wrong password.
    """
    typed = _normalised(password)
    # The place first: whoever is told to come back costs no transaction and no guess.
    with runtime.hasher.place(context.asker()) as place:
        await admit_guess(runtime, guess, context)
        try:
            user = await _find_user_by_email(runtime, guess.account)
            stored = None if user is None else user.password_hash
            verification = await runtime.hasher.verify(stored, typed, place)
        except UnavailableError:
            await return_guess(runtime, guess, context)
            raise
    reason = _refusal_reason(user, verification)
    if reason is not None:
        note_failed(runtime, guess)
        runtime.audit.record(
            AuditEvent(
                event=(
                    AuditEventType.PASSWORD_HASH_UNUSABLE
                    if verification.unusable
                    else AuditEventType.LOGIN_FAILED
                ),
                at=context.now,
                actor="anonymous",
                # What was typed as e-mail is not recorded: it may be a password.
                subject=None if user is None else user.user_id,
                client_id=client_id,
                reason=reason,
                ip_address=context.ip_address,
                request_id=context.request_id,
                details={"door": guess.door.value},
            )
        )
        return None
    await forgive_guess(runtime, guess, context)
    if user is not None and verification.needs_rehash:
        await _rehash(runtime, user, typed, context)
    return user


def _refusal_reason(user: User | None, verification: Verification) -> str | None:
    if user is None:
        return "user_unknown"
    if verification.unusable:
        return "password_hash_unusable"
    if not verification.ok:
        return "password_wrong"
    if not user.is_active:
        return "user_disabled"
    return None


async def _rehash(
    runtime: Runtime, user: User, typed: Secret[str], context: RequestContext
) -> None:
    """Store the password under today's parameters, unless it changed meanwhile."""
    try:
        with runtime.hasher.place(context.asker()) as place:
            password_hash = await runtime.hasher.hash(typed, place)
        async with runtime.store.write() as connection:
            await users.rehash_password(
                connection, user.user_id, user.credential_version, password_hash
            )
    except UnavailableError as error:
        # The login is good without it; the next one tries again.
        _log.warning("password_rehash_postponed", user_id=user.user_id, reason=error.reason)


async def _find_user(runtime: Runtime, email_or_id: str) -> User | None:
    if email_or_id.startswith(USER_ID_PREFIX) and "@" not in email_or_id:
        async with runtime.store.read() as connection:
            return await users.find_user(connection, email_or_id)
    return await _find_user_by_email(runtime, email_or_id)


async def _find_user_by_email(runtime: Runtime, email: str) -> User | None:
    try:
        email_canonical = canonical_email(email)
    except IdentifierError:
        email_canonical = ""  # nobody can have it; asked all the same, for the time that it takes
    return await users.look_up_email(runtime.store, email_canonical)


def _normalised(password: Secret[str]) -> Secret[str]:
    return Secret(normalise_password(password.reveal()))


def _created_event(user: User, registrar: Registrar, at: int) -> AuditEvent:
    context = registrar.context
    return AuditEvent(
        event=AuditEventType.USER_CREATED,
        at=at,
        actor=registrar.actor,
        subject=user.user_id,
        ip_address=None if context is None else context.ip_address,
        request_id=None if context is None else context.request_id,
    )


def _event(event: AuditEventType, user_id: str, at: int, **details: int) -> AuditEvent:
    return AuditEvent(event=event, at=at, actor="operator", subject=user_id, details=details)


def refusal(headline: str, problems: list[str]) -> OperatorError:
    return OperatorError(f"{headline}: {'; '.join(problems)}.", exit_code=2)


def taken_email() -> OperatorError:
    return OperatorError(
        "A user with this e-mail exists already (upper and lower case count as one).", exit_code=4
    )


def unknown_user() -> OperatorError:
    return OperatorError(
        "There is no such user: give an e-mail or a user id as `token-server user list` shows it.",
        exit_code=3,
    )
