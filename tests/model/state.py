"""The reference model: what exists, and what it is worth at an instant.

Written from refresh.md, revocation.md and the RFCs, not from the server. A state never changes:
each step makes another one, so that several may be true at once until an answer tells them apart.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

SKEW_S = 10
ACCESS_TTL_S = 900
IDLE_TTL_S = 8 * 3600
ABSOLUTE_TTL_S = 3 * 86400
PRUNED_AFTER_S = 7 * 86400
ACCOUNT = "account"


@dataclass(frozen=True, slots=True)
class User:
    """`version` grows with whatever must end a login that is under way."""

    email: str
    password: str
    user_id: str | None = None  # until a token has told it
    is_active: bool = True
    version: int = 0


@dataclass(frozen=True, slots=True)
class Doors:
    """What decides whether a client is let in: its secrets, each with its end, and a switch."""

    is_enabled: bool = True
    secrets: tuple[tuple[str, int | None], ...] = ()

    def open_for(self, secret: str | None, now: int) -> bool:
        if not self.secrets or secret is None:
            return self.is_enabled and not self.secrets and secret is None
        return self.is_enabled and any(
            text == secret and (ends_at is None or now < ends_at) for text, ends_at in self.secrets
        )


@dataclass(frozen=True, slots=True)
class Client:
    client_id: str
    doors: Doors
    scopes: tuple[str, ...] = ()
    audience: str = ""
    serves: str = ""
    access_ttl_s: int = ACCESS_TTL_S
    idle_ttl_s: int = IDLE_TTL_S
    absolute_ttl_s: int = ABSOLUTE_TTL_S
    window_s: int = 30
    is_listed: bool = False  # its machine tokens have a place in a status list
    # As it was, and until when by the uptime: a server may know no better for five seconds.
    former: tuple[tuple[Doors, int], ...] = ()

    def with_doors(self, doors: Doors, uptime_ms: int) -> "Client":
        return replace(self, doors=doors, former=((self.doors, uptime_ms), *self.former[:3]))


@dataclass(frozen=True, slots=True)
class RefreshRef:
    """One refresh token: which family's, of which life of it, which generation."""

    family: str
    life: int  # a password change begins the session again
    generation: int


@dataclass(frozen=True, slots=True)
class Family:
    key: str
    email: str
    client_id: str
    scope: tuple[str, ...]
    audience: str
    auth_time: int
    created_at: int
    idle_expires_at: int
    absolute_expires_at: int
    sid: str | None = None  # until a token has told it
    life: int = 0
    generation: int = 0
    rotated_at: int | None = None
    is_revoked: bool = False

    def is_live(self, now: int) -> bool:
        return not self.is_revoked and now < min(self.idle_expires_at, self.absolute_expires_at)

    @property
    def current(self) -> RefreshRef:
        return RefreshRef(self.key, self.life, self.generation)

    @property
    def used_at(self) -> int:
        return self.created_at if self.rotated_at is None else self.rotated_at


@dataclass(frozen=True, slots=True)
class Access:
    """One access token, as it must have been issued, and what only its text tells."""

    client_id: str
    subject: str
    audience: str
    scope: tuple[str, ...]
    issued_at: int
    expires_at: int
    family: str | None = None
    auth_time: int | None = None
    issued_ms: int = 0  # by the uptime, which no wall clock moves
    kid: str = ""
    jti: str = ""
    place: tuple[str, int] = ("", 0)  # which status list, and where in it; "": in none


@dataclass(frozen=True)
class State:
    users: Mapping[str, User] = field(default_factory=dict)
    clients: Mapping[str, Client] = field(default_factory=dict)
    families: Mapping[str, Family] = field(default_factory=dict)
    access: Mapping[str, Access] = field(default_factory=dict)  # by their texts
    refresh: Mapping[str, RefreshRef] = field(default_factory=dict)  # by their texts
    texts: Mapping[RefreshRef, str] = field(default_factory=dict)
    given_back: frozenset[str] = frozenset()  # machine tokens that were revoked
    compromised: frozenset[str] = frozenset()  # kids

    def with_user(self, user: User) -> "State":
        return replace(self, users={**self.users, user.email: user})

    def with_client(self, client: Client) -> "State":
        return replace(self, clients={**self.clients, client.client_id: client})

    def with_family(self, family: Family) -> "State":
        return replace(self, families={**self.families, family.key: family})

    def with_access(self, text: str, access: Access) -> "State":
        return replace(self, access={**self.access, text: access})

    def with_refresh(self, text: str, ref: RefreshRef) -> "State":
        return replace(self, refresh={**self.refresh, text: ref}, texts={**self.texts, ref: text})

    def ending(self, family: Family) -> "State":
        return self.with_family(replace(family, is_revoked=True))

    def ending_all(
        self, *, email: str | None = None, client_id: str | None = None, but: str | None = None
    ) -> "State":
        """All sessions of a user or of a client, but one."""
        families = {
            key: replace(each, is_revoked=True)
            if (email in (None, each.email) and client_id in (None, each.client_id) and key != but)
            else each
            for key, each in self.families.items()
        }
        return replace(self, families=families)

    def find_session(self, sid: str) -> Family | None:
        return next((each for each in self.families.values() if each.sid == sid), None)

    def find_ref(self, text: str) -> tuple[RefreshRef, Family] | None:
        """What a refresh token belongs to; None for junk, for a session whose row was pruned, and
        for one that a password change has begun again since."""
        ref = self.refresh.get(text)
        family = None if ref is None else self.families.get(ref.family)
        if ref is None or family is None or family.life != ref.life:
            return None
        return ref, family

    def is_readable(self, access: Access, now: int) -> bool:
        """By signature and dates alone."""
        is_current = access.issued_at - SKEW_S <= now < access.expires_at
        return is_current and access.kid not in self.compromised

    def is_good(self, text: str, now: int) -> bool:
        """Whether this access token is worth anything, whoever asks."""
        access = self.access.get(text)
        if access is None or not self.is_readable(access, now):
            return False
        if not self.clients[access.client_id].doors.is_enabled or text in self.given_back:
            return False
        if access.family is None:
            return True
        family = self.families.get(access.family)
        if family is None or not self.users[family.email].is_active:
            return False
        return family.is_live(now) and family.auth_time == access.auth_time
