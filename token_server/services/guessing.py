"""The guessing budget: every check of a password, client secret or API key is counted first.

Counted per (account, network) and per network, in SQL, so that all processes share the count and
restarts keep it. A refused guess costs nothing and locks nobody out; a success gives back what it
took. An unknown account is counted exactly like a known one, by the name as typed. A new door
joins by a line in Door and one call of `admit_guess` before it looks at anything.
"""

import enum
import hmac
import math
from base64 import urlsafe_b64encode
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import assert_never

from token_server.core import guess_budget
from token_server.core.identifiers import IdentifierError, canonical_email
from token_server.core.throttle import Bucket, Budget, Done, GiveBack, Refused, Take
from token_server.errors import UnavailableError
from token_server.logs import get_logger
from token_server.records import AuditEvent, AuditEventType
from token_server.runtime import Runtime
from token_server.services.request_context import RequestContext

_log = get_logger(__name__)

_DIGEST_BYTES = 16


class Door(enum.StrEnum):
    """Where something can be guessed. Passwords have one count, whatever the door."""

    PASSWORD_GRANT = "password_grant"
    LOGIN = "login"
    CHANGE_PASSWORD = "change_password"
    REAUTHENTICATION = "reauthentication"  # before other sessions or API keys are touched
    REGISTRATION = "registration"
    CLIENT_SECRET = "client_secret"
    API_KEY = "api_key"


# Nobody types these and nothing forgives their guesses, and a right one is let through whatever
# was guessed before: what is refused stays so until there is a use again.
_MACHINE_DOORS = {
    Door.CLIENT_SECRET: AuditEventType.CLIENT_AUTHENTICATION_THROTTLED,
    Door.API_KEY: AuditEventType.API_KEY_THROTTLED,
}


@dataclass(frozen=True, slots=True)
class Guess:
    """`account` is the e-mail, client id or id of an API key as it was sent: anything at all."""

    door: Door
    account: str = field(repr=False)  # may be a password in the wrong field


@dataclass(frozen=True, slots=True)
class _Buckets:
    group: str
    account: tuple[Bucket, ...]
    network: tuple[Bucket, ...]


async def admit_guess(runtime: Runtime, guess: Guess, context: RequestContext) -> None:
    """Count the guess, durably and before it is looked at.

    Raises UnavailableError: throttled (429) when the account or the network has none left now,
    else (503) when the database is away, since what cannot be counted is not let through.
    """
    buckets = _buckets_of(runtime, guess, context)
    take = Take(buckets.group, buckets.account + buckets.network, context.now)
    decision = await runtime.guesses.submit(take)
    match decision:
        case Done():
            runtime.metrics.guess(guess.door, "admitted")
        case Refused(bucket, retry_after_s):
            if guess.door in _MACHINE_DOORS:
                until = runtime.clock.monotonic() + retry_after_s
                runtime.refused_guesses.remember(buckets.account[0].name, until)
            is_account = bucket in buckets.account
            reason = "account_budget_spent" if is_account else "network_budget_spent"
            raise _refuse(runtime, guess, context, reason, retry_after_s)
        case _:
            assert_never(decision)


def note_failed(runtime: Runtime, guess: Guess) -> None:
    """After an admitted guess that was wrong, or right where nobody may come in: for the metrics
    and for the alarm over all doors (services/guess_watch.py)."""
    runtime.metrics.guess(guess.door, "failed")
    runtime.failed_guesses.add(guess.door.value)


async def forgive_guess(runtime: Runtime, guess: Guess, context: RequestContext) -> None:
    """After a success: the account starts anew from this network, which gets its own use back
    and no more, so that an attacker's own account buys nothing."""
    buckets = _buckets_of(runtime, guess, context)
    step = GiveBack(buckets.group, buckets.network, buckets.account, context.now)
    await _submit_give_back(runtime, guess, step, "forgiven")


async def return_guess(runtime: Runtime, guess: Guess, context: RequestContext) -> None:
    """After an admitted guess that nobody looked at: no time, no database."""
    buckets = _buckets_of(runtime, guess, context)
    step = GiveBack(buckets.group, buckets.network + buckets.account, (), context.now)
    await _submit_give_back(runtime, guess, step, "returned")


async def _submit_give_back(runtime: Runtime, guess: Guess, step: GiveBack, outcome: str) -> None:
    try:
        await runtime.guesses.submit(step)
    except UnavailableError as error:
        # What the guess led to counts; the uses come back by themselves, with time.
        _log.warning("guess_not_given_back", outcome=outcome, reason=error.reason)
    else:
        runtime.metrics.guess(guess.door, outcome)


def is_known_refused(runtime: Runtime, guess: Guess, context: RequestContext) -> bool:
    """Whether this process knows, without a query, that `admit_guess` would refuse."""
    return _known_wait_s(runtime, guess, context) is not None


def refuse_known(runtime: Runtime, guess: Guess, context: RequestContext) -> None:
    """Raise like `admit_guess`, without a write, while this process knows that it would refuse.

    Only for client secrets and API keys, whose guesses nothing forgives: a flood costs no
    transaction each.
    """
    wait_s = _known_wait_s(runtime, guess, context)
    if wait_s is not None:
        raise _refuse(runtime, guess, context, "budget_still_spent", wait_s)


def _known_wait_s(runtime: Runtime, guess: Guess, context: RequestContext) -> float | None:
    if not runtime.refused_guesses:
        return None
    name = _buckets_of(runtime, guess, context).account[0].name
    return runtime.refused_guesses.wait_s(name, runtime.clock.monotonic())


def _refuse(
    runtime: Runtime, guess: Guess, context: RequestContext, reason: str, wait_s: float
) -> UnavailableError:
    retry_after_s = max(1, math.ceil(wait_s))
    runtime.metrics.guess(guess.door, "throttled")
    runtime.audit.record(
        AuditEvent(
            event=_MACHINE_DOORS.get(guess.door, AuditEventType.LOGIN_THROTTLED),
            at=context.now,
            actor="anonymous",
            # Neither account nor client: what was typed may be a secret, and is not looked up.
            reason=reason,
            ip_address=context.ip_address,
            request_id=context.request_id,
            details={"door": guess.door.value, "retry_after_s": retry_after_s},
        )
    )
    return UnavailableError("guess_budget_spent", retry_after_s, is_throttled=True)


def _buckets_of(runtime: Runtime, guess: Guess, context: RequestContext) -> _Buckets:
    key = runtime.master_keys.guess_bucket_key()
    networks = guess_budget.networks_of(context.ip_address)
    if guess.door in _MACHINE_DOORS:
        is_client = guess.door is Door.CLIENT_SECRET
        digest = _digest(key, "client" if is_client else "key", networks.narrow, guess.account)
        account = _buckets(
            digest,
            guess_budget.CLIENT_SECRET_BUDGETS if is_client else guess_budget.API_KEY_BUDGETS,
        )
    else:
        digest = _digest(key, "user", networks.narrow, _canonical(guess.account))
        account = _buckets(digest, guess_budget.PASSWORD_BUDGETS)
    narrow = _digest(key, "network", networks.narrow)
    network = _buckets(narrow, guess_budget.NETWORK_BUDGETS)
    group = narrow
    if networks.wide is not None:
        group = _digest(key, "network", networks.wide)
        network += _buckets(group, guess_budget.WIDE_NETWORK_BUDGETS)
    return _Buckets(group, account, network)


def _canonical(email: str) -> str:
    """All spellings of an e-mail are one; what is none shares one count for each network."""
    try:
        return canonical_email(email)
    except IdentifierError:
        return ""


def _buckets(digest: str, budgets: Sequence[Budget]) -> tuple[Bucket, ...]:
    return tuple(
        Bucket(f"{digest}.{number}", budget) for number, budget in enumerate(budgets, start=1)
    )


def _digest(key: bytes, *parts: str) -> str:
    """A name that tells nothing without the master key. No part but the last may hold NUL."""
    message = "\0".join(parts).encode("utf-8", "surrogatepass")
    digest = hmac.digest(key, message, "sha256")[:_DIGEST_BYTES]
    return urlsafe_b64encode(digest).decode("ascii").rstrip("=")
