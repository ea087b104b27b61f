"""Frozen records as read from storage, and the wrapper for values that must not be printed.

Shapes only: no behaviour beyond reading their own fields, no I/O. Instants are integer epoch
seconds and end in `_at`; durations are integer seconds and end in `_s`; stored forms of secrets
end in `_digest` or `_hash`.
"""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T", bound=str | bytes)


class Secret(Generic[T]):
    """A value that `repr`, `str`, `%s` and loggers must not show; `reveal()` is the one way out."""

    __slots__ = ("_value",)

    def __init__(self, value: T) -> None:
        self._value = value

    def reveal(self) -> T:
        return self._value

    def __repr__(self) -> str:
        return "Secret(***)"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        # An accidental `==` would be a comparison in data-dependent time: compare digests instead.
        raise TypeError("secrets are compared with hmac.compare_digest on their digests")

    __hash__ = None  # type: ignore[assignment]  # a secret is not a dictionary key

    def __reduce__(self) -> str:
        raise TypeError("a Secret is not pickled")


@dataclass(frozen=True, slots=True)
class ClientSecret:
    """One live secret of a client; several may overlap while clients move to the new one."""

    secret_id: str  # "cs_" + 16 base64url characters; names the secret in commands and logs
    secret_digest: bytes  # SHA-256 of the secret's text (generated, >= 256 bits)
    label: str
    created_at: int
    expires_at: int | None
    last_used_at: int | None


@dataclass(frozen=True, slots=True)
class Client:
    """A registered client (RFC 6749 §2) with its policy; `None` means the server's setting."""

    client_id: str
    name: str
    is_public: bool  # True: token_endpoint_auth_method "none", and no secrets
    is_enabled: bool
    grant_types: frozenset[str]
    scopes: tuple[str, ...]  # what it may be granted; also the default when none is asked for
    audiences: tuple[str, ...]  # what `resource` (RFC 8707) may name
    default_audience: tuple[str, ...]  # when no `resource` is sent; empty: DEFAULT_AUDIENCE
    access_token_ttl_s: int | None
    access_token_typ: str | None
    refresh_idle_ttl_s: int | None
    refresh_absolute_ttl_s: int | None
    refresh_replay_window_s: int | None  # 0 is strict mode
    shadow_limit: int | None
    created_at: int
    updated_at: int
    secrets: tuple[ClientSecret, ...] = ()
    serves_audiences: tuple[str, ...] = ()  # what it is as a resource server: it may introspect
    exchange_audiences: tuple[str, ...] = ()  # for which it may act (RFC 8693)
    is_revocable: bool = False  # its machine tokens have a position in a status list


@dataclass(frozen=True, slots=True)
class User:
    """A person who logs in; `credential_version` rises with each password change or disabling."""

    user_id: str  # "usr_" + 22 base64url characters, random, never used again
    email: str  # as written by its owner
    email_canonical: str  # unique; see core/identifiers.py
    name: str
    password_hash: Secret[str]  # Argon2id in PHC form
    is_active: bool
    credential_version: int
    created_at: int
    updated_at: int
    password_changed_at: int
    last_login_at: int | None
    roles: tuple[str, ...] = ()  # the `roles` claim (RFC 9068 §2.2.3.1)


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A credential that its owner's programs present; the secret itself is stored nowhere."""

    key_id: str  # "key_" + 16 base64url characters; the key's text names it
    user_id: str
    name: str
    secret_digest: bytes = field(repr=False)  # SHA-256 of the key's whole text
    scope: tuple[str, ...]  # as asked for at its creation; what counts is decided at each use
    created_at: int
    expires_at: int | None
    last_used_at: int | None
    revoked_at: int | None


@dataclass(frozen=True, slots=True)
class Family:
    """All refresh tokens of one login, as one row (docs/design of refresh: one row per family)."""

    seq: int  # grows by one per login; also the position in the status list
    family_id: bytes = field(repr=False)  # 16 random bytes; leaves only inside the refresh token
    sid: (
        str  # "ses_" + 22 base64url characters: the `sid` claim and the session id in APIs and logs
    )
    client_id: str
    user_id: str
    scope: tuple[str, ...]
    audience: tuple[str, ...]
    generation: int  # of the one refresh token that is current; the first is 0
    mac_version: int  # master-key version under which this family's tokens are MACed
    auth_time: int
    created_at: int
    rotated_at: int | None  # instant of the last rotation; None while generation is 0
    idle_expires_at: int
    absolute_expires_at: int
    revoked_at: int | None
    revoked_reason: str | None
    replayed_generation: int | None  # newest generation that was replayed
    shadow_count: int  # replays in consecutive generations, in a row
    label: str | None
    ip_address: str | None
    user_agent: str | None
    roles: tuple[str, ...] = ()  # of the user, as they are now; read together with the row


class KeyState(enum.StrEnum):
    """States of a signing key; a function of its instants and the clock (core/key_lifecycle.py)."""

    NEXT = "next"
    ACTIVE = "active"
    RETIRING = "retiring"
    RETIRED = "retired"
    COMPROMISED = "compromised"


@dataclass(frozen=True, slots=True)
class SigningKey:
    """What the keyring's manifest says of one key; the private half is elsewhere."""

    kid: str  # RFC 7638 SHA-256 thumbprint
    alg: str  # "RS256"
    bits: int
    n: int = field(repr=False)  # public modulus
    e: int
    created_at: int
    published_at: int | None  # first served in a JWKS
    activate_at: int | None  # None: no date yet
    retire_at: int | None  # leaves the JWKS
    exp_high_water: int | None  # largest `exp` signed with this key, with head-room
    compromised_at: int | None


@dataclass(frozen=True, slots=True)
class StoredKey:
    """A signing key as a key store holds it: its record and its private half, encrypted."""

    key: SigningKey
    master_version: int | None  # master key version it is encrypted under; None: erased
    private_pem: bytes | None = field(repr=False)  # encrypted PKCS#8


@dataclass(frozen=True, slots=True)
class StoredKeyring:
    """All keys of one installation; changes only by compare-and-set on its generation."""

    keyring_id: str  # "kr_" + 22 base64url characters
    generation: int  # of the keyring as a whole; the first complete one is 1
    master_key_check: str  # `MasterKeys.check_value()` of the version it was last written under
    keys: tuple[StoredKey, ...]


class AuditEventType(enum.StrEnum):
    """The closed list of audit events; each security-relevant branch has exactly one."""

    LOGIN_SUCCEEDED = "login.succeeded"
    LOGIN_FAILED = "login.failed"
    LOGIN_THROTTLED = "login.throttled"
    CLIENT_AUTHENTICATION_FAILED = "client.authentication_failed"
    CLIENT_AUTHENTICATION_THROTTLED = "client.authentication_throttled"
    GRANT_REFUSED = "grant.refused"
    REFRESH_TOKEN_REUSED = "refresh_token.reused"
    REFRESH_TOKEN_SHADOWED = "refresh_token.shadowed"
    REFRESH_TOKEN_REFUSED = "refresh_token.refused"
    REFRESH_TOKEN_FROM_FUTURE = "refresh_token.from_future"
    SESSION_REVOKED = "session.revoked"
    TOKEN_REVOKED = "token.revoked"
    TOKEN_EXCHANGE_REFUSED = "token_exchange.refused"
    USER_CREATED = "user.created"
    USER_CHANGED = "user.changed"
    USER_ROLES_CHANGED = "user.roles_changed"
    REGISTRATION_REFUSED = "user.registration_refused"
    USER_PASSWORD_CHANGED = "user.password_changed"
    USER_DISABLED = "user.disabled"
    USER_ENABLED = "user.enabled"
    API_KEY_CREATED = "api_key.created"
    API_KEY_REVOKED = "api_key.revoked"
    API_KEY_REFUSED = "api_key.refused"
    API_KEY_THROTTLED = "api_key.throttled"
    PASSWORD_HASH_UNUSABLE = "user.password_hash_unusable"
    CLIENT_CREATED = "client.created"
    CLIENT_CHANGED = "client.changed"
    CLIENT_SECRET_CREATED = "client.secret_created"
    CLIENT_SECRET_REVOKED = "client.secret_revoked"
    CLIENT_DISABLED = "client.disabled"
    CLIENT_ENABLED = "client.enabled"
    CLIENT_DELETED = "client.deleted"
    KEYRING_CREATED = "keyring.created"
    KEY_MADE = "key.made"
    KEY_SCHEDULED = "key.scheduled"
    KEY_ACTIVATED = "key.activated"
    KEY_POSTPONED = "key.postponed"
    KEY_CANCELLED = "key.cancelled"
    KEY_ROLLED_BACK = "key.rolled_back"
    KEY_RETIREMENT_SET = "key.retirement_set"
    KEY_ERASED = "key.erased"
    KEY_FORGOTTEN = "key.forgotten"
    KEY_COMPROMISED = "key.compromised"
    KEY_IMPORTED = "key.imported"
    KEY_REWRAPPED = "key.rewrapped"
    KEYRING_COMPROMISED = "keyring.compromised"
    KEYRING_EXPORTED = "keyring.exported"
    KEYRING_IMPORTED = "keyring.imported"
    GUESS_ALARM_RAISED = "guess_alarm.raised"
    GUESS_ALARM_ENDED = "guess_alarm.ended"
    DATABASE_UPGRADED = "database.upgraded"
    DATABASE_PRUNED = "database.pruned"
    DATABASE_RESTORED = "database.restored"


@dataclass(frozen=True, slots=True)
class AuditEvent:
    """One line of the audit trail: ids only, never tokens, digests, e-mails or headers."""

    event: AuditEventType
    at: int
    actor: str  # "user:usr_…", "client:…", "operator" (command line) or "anonymous"
    subject: str | None = None  # the thing acted on: user id, client id, sid or kid
    client_id: str | None = None
    reason: str | None = None  # private reason code
    ip_address: str | None = None
    request_id: str | None = None
    details: Mapping[str, str | int] = field(default_factory=dict)
