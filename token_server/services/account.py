"""What people do with their own account: register, log in, change the password (issue 3).

Their tokens belong to the built-in public client `account`. Every check of a password goes
through `users.authenticate_user`, which counts it as a guess first; one refusal stands for
every cause. A password change ends what was handed out before, in one transaction.
"""

from dataclasses import dataclass

from token_server.config import Settings
from token_server.core.client_policy import ACCOUNT_CLIENT_ID
from token_server.core.identifiers import name_problem
from token_server.core.password_policy import normalise_password
from token_server.errors import (
    CredentialsRefusedError,
    EmailTakenError,
    InvalidFieldError,
    InvalidGrantError,
    ReauthenticationRequiredError,
    RegistrationClosedError,
    TokenRefusedError,
    UnavailableError,
)
from token_server.logs import get_logger
from token_server.records import AuditEvent, AuditEventType, Client, Family, Secret, User
from token_server.runtime import Runtime
from token_server.services.bearer import Principal
from token_server.services.guessing import Door, Guess, admit_guess, note_failed, return_guess
from token_server.services.issuing import Authorization, Login, TokenResponse, issue
from token_server.services.request_context import RequestContext
from token_server.services.users import (
    NewUser,
    Registrar,
    authenticate_user,
    create_user,
    find_password_problem,
    find_problems,
)
from token_server.storage import audit, families, users

_log = get_logger(__name__)

RECENT_LOGIN_S = 300  # after which ending other sessions asks for the password again


@dataclass(frozen=True, slots=True)
class Credentials:
    """What somebody types to log in; `label` is what they call the session."""

    email: str
    password: Secret[str]
    label: str | None = None


@dataclass(frozen=True, slots=True)
class PasswordChange:
    current: Secret[str]
    new: Secret[str]


async def register(
    runtime: Runtime, new: NewUser, label: str | None, context: RequestContext
) -> TokenResponse | None:
    """Make an account and log in; None where REGISTRATION_SILENT says nothing.

    Problems of the request come first, whoever exists; a taken e-mail is found out only after
    the hash, by the row that could not be inserted.
    """
    settings = runtime.settings
    if settings.registration != "open":
        raise RegistrationClosedError("registration_closed")
    _require_clock(runtime)
    if not (await _account_client(runtime)).is_enabled:
        raise RegistrationClosedError("client_disabled")  # nobody is made who could not log in
    _check_label(label)
    problems = await find_problems(runtime, new)
    if problems:
        raise InvalidFieldError(problems[0].field, problems[0].text)
    # Whether an e-mail is taken can be found out here, one try at a time.
    guess = Guess(Door.REGISTRATION, new.email)
    is_silent = settings.registration_silent == "yes"
    registrar = Registrar("anonymous", is_active=not is_silent, context=context)
    with runtime.hasher.place(context.asker()) as place:
        await admit_guess(runtime, guess, context)
        try:
            user = await create_user(runtime, new, registrar, place)
        except UnavailableError:
            await return_guess(runtime, guess, context)
            raise
    if user is None:
        note_failed(runtime, guess)
    if is_silent:
        return None
    if user is None:
        raise EmailTakenError("email_taken")
    return await _start_session(runtime, user, label, context)


async def log_in(
    runtime: Runtime, credentials: Credentials, context: RequestContext
) -> TokenResponse:
    """Start a session; CredentialsRefusedError whatever was wrong."""
    _require_clock(runtime)
    _check_label(credentials.label)
    if not (await _account_client(runtime)).is_enabled:
        # Not looked at: what is right would be forgiven, and the budget would tell.
        raise CredentialsRefusedError("client_disabled")
    user = await authenticate_user(
        runtime,
        Guess(Door.LOGIN, credentials.email),
        credentials.password,
        context,
        ACCOUNT_CLIENT_ID,
    )
    if user is None:
        raise CredentialsRefusedError("user_credentials_refused")
    return await _start_session(runtime, user, credentials.label, context)


async def change_own_password(
    runtime: Runtime, principal: Principal, change: PasswordChange, context: RequestContext
) -> TokenResponse:
    """Another password for whoever gives the current one. All other sessions end; this one goes on
    under the same `sid` with a fresh pair of tokens, and nothing older can be used in it."""
    _require_clock(runtime)
    user = principal.user
    problem = await find_password_problem(runtime, change.new, user.email, user.name)
    if problem is None and _is_same(change.current, change.new):
        problem = "the new password is the old one"
    if problem is not None:
        raise InvalidFieldError("new_password", problem)
    guess = Guess(Door.CHANGE_PASSWORD, user.email)
    verified = await _verify_own_password(runtime, principal, guess, change.current, context)
    with runtime.hasher.place(context.asker()) as place:
        new = Secret(normalise_password(change.new.reveal()))
        password_hash = await runtime.hasher.hash(new, place)
    session = await _replace_password(runtime, principal, verified, password_hash, context)
    client = await _account_client(runtime)
    return await issue(runtime, _authorization(runtime, client, user.user_id, session), context)


async def require_recent_login(
    runtime: Runtime,
    principal: Principal,
    current_password: Secret[str] | None,
    context: RequestContext,
) -> None:
    """A stolen access token alone must not end its owner's sessions: the current password, or a
    login of the last five minutes."""
    if current_password is not None:
        guess = Guess(Door.REAUTHENTICATION, principal.user.email)
        await _verify_own_password(runtime, principal, guess, current_password, context)
    elif context.now - principal.session.auth_time > RECENT_LOGIN_S:
        raise ReauthenticationRequiredError("login_too_old")


async def _verify_own_password(
    runtime: Runtime,
    principal: Principal,
    guess: Guess,
    password: Secret[str],
    context: RequestContext,
) -> User:
    user = await authenticate_user(runtime, guess, password, context, ACCOUNT_CLIENT_ID)
    if user is None or user.user_id != principal.user.user_id:
        raise CredentialsRefusedError("current_password_wrong")
    return user


async def _replace_password(
    runtime: Runtime,
    principal: Principal,
    user: User,
    password_hash: Secret[str],
    context: RequestContext,
) -> Family:
    sid = principal.session.sid
    new = families.RenewedFamily(runtime.entropy.token_bytes(16), runtime.master_keys.current)
    is_changed, session, event = False, None, None
    async with runtime.store.write() as connection:
        # The user's row first: its lock orders this against a login that is about to commit.
        is_changed = await users.change_own_password(connection, user, password_hash, context.now)
        if is_changed:
            ended = await families.revoke_families_of_user(
                connection, user.user_id, "password_changed", context.now, except_sid=sid
            )
            session = await families.renew_family(connection, sid, new, context.now)
            event = AuditEvent(
                event=AuditEventType.USER_PASSWORD_CHANGED,
                at=context.now,
                actor=f"user:{user.user_id}",
                subject=user.user_id,
                client_id=ACCOUNT_CLIENT_ID,
                ip_address=context.ip_address,
                request_id=context.request_id,
                details={"sessions_ended": len(ended)},
            )
            await audit.insert_events(connection, [event])
    if event is None:
        raise CredentialsRefusedError("credentials_changed_meanwhile")
    runtime.audit.log(event)
    if session is None:
        # Ended by a logout in the same moment: the new password holds, and asks for a login.
        raise TokenRefusedError("session_ended_meanwhile")
    return session


async def _start_session(
    runtime: Runtime, user: User, label: str | None, context: RequestContext
) -> TokenResponse:
    client = await _account_client(runtime)
    login = Login(user, auth_time=context.now, label=label)
    try:
        return await issue(runtime, _authorization(runtime, client, user.user_id, login), context)
    except InvalidGrantError as error:
        raise CredentialsRefusedError(error.reason) from None


def _authorization(
    runtime: Runtime, client: Client, user_id: str, basis: Login | Family
) -> Authorization:
    audience = account_audience(runtime.settings)
    scope = basis.scope if isinstance(basis, Family) else client.scopes
    return Authorization(client, user_id, scope, audience, basis)


def account_audience(settings: Settings) -> tuple[str, ...]:
    """This server's own API, and what the operator's services expect."""
    return tuple(dict.fromkeys((settings.issuer, settings.default_audience)))


async def _account_client(runtime: Runtime) -> Client:
    client = runtime.clients.peek(ACCOUNT_CLIENT_ID)
    client = client or await runtime.clients.refresh(ACCOUNT_CLIENT_ID)
    if client is None:  # it comes with the schema and cannot be deleted
        _log.error("account_client_missing")
        raise UnavailableError("account_client_missing", 30)
    return client


def _require_clock(runtime: Runtime) -> None:
    if runtime.clock.is_stepped_back():
        # Tokens made now would live longer than they say (see SystemClock).
        raise UnavailableError("clock_stepped_back", 30)


def _check_label(label: str | None) -> None:
    if label is not None and (problem := name_problem(label)):
        raise InvalidFieldError("label", problem.replace("the name", "the label"))


def _is_same(current: Secret[str], new: Secret[str]) -> bool:
    # Both come from the same person in the same request: nothing to learn from the time.
    return normalise_password(current.reveal()) == normalise_password(new.reveal())
