"""Rows of users, families and audit events in any number, as a server makes them over a month.

Number n (the family's `seq`) is the n-th login, each of another user: the first `expired` ones
ended long enough ago to be pruned, the others logged in during the last 24 days, most of them
refresh, and some have not for longer than the idle lifetime. What a row holds follows from its
number and the seed, so that a load can go on where it was interrupted. No secret is made here:
ids are random in form only.
"""

import base64
import random
from collections.abc import Iterator
from dataclasses import dataclass, field

from token_server.records import AuditEventType
from token_server.services.maintenance import FAMILY_MARGIN_S

DAY_S = 86400
IDLE_S, ABSOLUTE_S = 7 * DAY_S, 30 * DAY_S  # the defaults of the settings
ACTIVE_DAYS, EXPIRED_DAYS = 24, 8
CLIENT_ID = "growth-app"
AUDIENCE = "https://orders.example"
SCOPE = "orders:read orders:write"
BLOCK = 1000  # rows that share a source of randomness

USER_COLUMNS = (
    "user_id",
    "email",
    "email_canonical",
    "name",
    "password_hash",
    "is_active",
    "credential_version",
    "created_at",
    "updated_at",
    "password_changed_at",
    "last_login_at",
    "roles",
)
FAMILY_COLUMNS = (
    "seq",
    "family_id",
    "sid",
    "client_id",
    "user_id",
    "scope",
    "audience",
    "generation",
    "mac_version",
    "auth_time",
    "created_at",
    "rotated_at",
    "idle_expires_at",
    "absolute_expires_at",
    "revoked_at",
    "revoked_reason",
    "shadow_count",
    "ip_address",
    "user_agent",
)
AUDIT_COLUMNS = (
    "at",
    "event",
    "actor",
    "subject",
    "client_id",
    "ip_address",
    "request_id",
    "details",
)
_USER_AGENTS = (
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 Chrome/131.0.0.0 Safari/537.36",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 18_1 like Mac OS X) Version/18.1 Mobile/15E148 Safari/604",
    "Mozilla/5.0 (X11; Linux x86_64; rv:133.0) Gecko/20100101 Firefox/133.0",
    "orders-app/4.2 (Android 15)",
)

Values = tuple[object, ...]


@dataclass(frozen=True, slots=True)
class Shape:
    """What is loaded: `families` rows, of which `expired` can be pruned; `now` is the instant in
    epoch seconds by which they live. 0 for `revoked_every` is none."""

    families: int
    expired: int
    revoked_every: int
    now: int
    password_hash: str = field(repr=False)
    mac_version: int
    seed: int = 1


@dataclass(frozen=True, slots=True)
class Login:
    """One row of each table."""

    user: Values
    family: Values
    audit: Values


def logins(shape: Shape, first: int, last: int) -> Iterator[Login]:
    """The logins `first` to `last`, both of them; numbers begin at 1."""
    number = first
    while number <= last:
        block = (number - 1) // BLOCK
        source = random.Random(shape.seed << 40 | block)  # noqa: S311 - made-up people
        for candidate in range(block * BLOCK + 1, min((block + 1) * BLOCK, last) + 1):
            login = _login(shape, source, candidate)  # skipped ones, too: they use up randomness
            if candidate >= number:
                yield login
        number = (block + 1) * BLOCK + 1


@dataclass(frozen=True, slots=True)
class _Times:
    created_at: int
    generation: int
    rotated_at: int | None
    idle_expires_at: int
    absolute_expires_at: int


def _login(shape: Shape, source: random.Random, number: int) -> Login:
    times = _times(shape, source, number)
    user_id, sid = "usr_" + _text(source), "ses_" + _text(source)
    # Random at its beginning, as people's are: the order of logins is not that of the index.
    email = f"{source.getrandbits(40):010x}.{number}@example.org"
    address = ".".join(str(part) for part in source.randbytes(4))
    revoked_at = None
    if shape.revoked_every and number % shape.revoked_every == 0:
        since = times.rotated_at or times.created_at
        revoked_at = source.randint(since, min(shape.now, times.absolute_expires_at))
    user = (
        user_id,
        email,
        email,
        f"Person {number}",
        shape.password_hash,
        True,
        0,
        times.created_at - DAY_S,
        times.created_at - DAY_S,
        times.created_at - DAY_S,
        times.created_at,
        "",
    )
    family = (
        number,
        source.randbytes(16),
        sid,
        CLIENT_ID,
        user_id,
        SCOPE,
        AUDIENCE,
        times.generation,
        shape.mac_version,
        times.created_at,
        times.created_at,
        times.rotated_at,
        times.idle_expires_at,
        times.absolute_expires_at,
        revoked_at,
        None if revoked_at is None else "logout",
        0,
        address,
        source.choice(_USER_AGENTS),
    )
    audit = (
        times.created_at,
        AuditEventType.LOGIN_SUCCEEDED.value,
        f"user:{user_id}",
        sid,
        CLIENT_ID,
        address,
        _text(source),
        "{}",
    )
    return Login(user, family, audit)


def _times(shape: Shape, source: random.Random, number: int) -> _Times:
    if number <= shape.expired:
        before = shape.now - ABSOLUTE_S - FAMILY_MARGIN_S - 3600
        share = (shape.expired - number) / shape.expired
        created_at = before - int(share * EXPIRED_DAYS * DAY_S)
        used_until = created_at + ABSOLUTE_S
    else:
        share = (shape.families - number) / (shape.families - shape.expired)
        created_at = shape.now - int(share * ACTIVE_DAYS * DAY_S)
        used_until = shape.now
    generation, rotated_at = 0, None
    longest_s = used_until - created_at
    if longest_s > 3600 and source.random() < 0.8:
        # Used within the last days of its life, about every hour until then.
        rotated_at = used_until - source.randint(0, min(longest_s - 1, 8 * DAY_S))
        generation = 1 + (rotated_at - created_at) // 3600
    absolute_expires_at = created_at + ABSOLUTE_S
    idle_expires_at = min((rotated_at or created_at) + IDLE_S, absolute_expires_at)
    return _Times(created_at, generation, rotated_at, idle_expires_at, absolute_expires_at)


def _text(source: random.Random) -> str:
    return base64.urlsafe_b64encode(source.randbytes(16)).rstrip(b"=").decode("ascii")
