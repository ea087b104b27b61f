"""The claims of an access token: what they must be, and the typed value that handlers get.

RFC 9068 2.2 and 4, RFC 7519 4.1, with every claim's type closed: a claim of the wrong type is
refused, never converted. Pure: the instant is passed in. Called only with a payload whose signature
has been checked.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from types import MappingProxyType
from typing import NamedTuple

from token_server.verify.errors import InsufficientScopeError, Reason, TokenError
from token_server.verify.strict import JsonObject, is_bounded

_LAST_INSTANT = 253402300799  # 9999-12-31T23:59:59Z
MAX_ACT_DEPTH = 8
_TYPED = frozenset(
    {"iss", "sub", "aud", "exp", "iat", "nbf", "jti", "client_id", "scope"}
    | {"sid", "roles", "auth_time"}
)
_NOTHING: Mapping[str, object] = MappingProxyType({})
_SCOPE = re.compile(r"[!#-\[\]-~]+(?: [!#-\[\]-~]+)*+")  # RFC 6749 3.3


class Claims(NamedTuple):
    """A verified access token. Instants are epoch seconds; `extra` is read-only
    all through: arrays in it are tuples.

    A person is identified by (`issuer`, `subject`) together, never by the subject alone.
    A NamedTuple and no frozen dataclass, because it is made for every request: 0.3 µs, not 2.6.
    """

    issuer: str
    subject: str
    client_id: str
    scopes: tuple[str, ...]
    audience: tuple[str, ...]
    expires_at: int
    issued_at: int
    token_id: str  # `jti`
    session_id: str | None  # `sid`; None for machine tokens
    roles: tuple[str, ...]
    auth_time: int | None
    extra: Mapping[str, object]  # all claims not named above

    @property
    def actors(self) -> tuple[str, ...]:
        """Who acts for the subject in an exchanged token, the current actor first, then whoever
        called it (`act`, RFC 8693 4.1); empty when the subject calls by itself. Only the first is
        for decisions, the others are for logs."""
        actors, act = [], self.extra.get("act")
        while isinstance(act, Mapping):
            actors.append(str(act["sub"]))
            act = act.get("act")
        return tuple(actors)

    def has_scope(self, scope: str) -> bool:
        """Whether this one scope was granted, compared exactly (RFC 6749 3.3)."""
        return scope in self.scopes

    def require(self, *scopes: str) -> None:
        """All of these scopes; raises InsufficientScopeError, a 403, when one is missing."""
        if not scopes:
            raise ValueError("require() without a scope would let everybody pass")
        if not set(scopes).issubset(self.scopes):
            raise InsufficientScopeError(" ".join(scopes))

    def require_any(self, *scopes: str) -> None:
        """One of these scopes at least; raises InsufficientScopeError."""
        if set(scopes).isdisjoint(self.scopes):
            raise InsufficientScopeError(" ".join(scopes) or None)

    def require_that(self, predicate: "Callable[[Claims], bool]") -> None:
        """Whatever else must hold, such as `lambda claims: "admin" in claims.roles`; raises
        InsufficientScopeError, whose challenge then names no scope."""
        if not predicate(self):
            raise InsufficientScopeError


@dataclass(frozen=True, slots=True)
class Expectations:
    """What one verifier demands of the claims."""

    issuer: str
    audience: str
    leeway_s: int
    iat_skew_s: int
    max_lifetime_s: int
    audiences: tuple[str, ...] = field(init=False)
    """The claim of a token for this audience alone: one tuple for all of them."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "audiences", (self.audience,))


def read_claims(claims: JsonObject, expected: Expectations, now: float) -> Claims:  # noqa: C901
    """Check every claim against the expectations; raises TokenError.

    A flat list of checks, written out: as calls, and with Claims by name, it takes half as long
    again, for every request.
    """
    get = claims.get
    if get("iss") != expected.issuer:
        raise TokenError(Reason.ISS_REFUSED)
    audience = expected.audiences
    if get("aud") != expected.audience:
        audience = _audience(get("aud"), expected.audience)
    issued_at, expires_at = _lifetime(claims, expected, now)
    # Proof of possession is another scheme than Bearer (RFC 9449 7.1): without its check, refuse.
    if "cnf" in claims:
        raise TokenError(Reason.CNF_UNPROVEN)
    if "act" in claims:
        _check_act(claims["act"])
    subject, client_id, token_id = get("sub"), get("client_id"), get("jti")
    if not (type(subject) is str and subject and subject.isprintable()):
        raise TokenError(Reason.SUB_INVALID)
    if not (type(client_id) is str and client_id and client_id.isprintable()):
        raise TokenError(Reason.CLIENT_ID_INVALID)
    scope = get("scope", "")
    if type(scope) is not str:
        raise TokenError(Reason.SCOPE_INVALID)
    if not (type(token_id) is str and token_id and token_id.isprintable()):
        raise TokenError(Reason.JTI_INVALID)
    session_id = auth_time = None
    roles: tuple[str, ...] = ()
    if "sid" in claims:
        session_id = _identifier(claims["sid"], Reason.SID_INVALID)
    if "roles" in claims:
        roles = _roles(claims["roles"])
    if "auth_time" in claims:
        auth_time = _instant(claims["auth_time"], Reason.AUTH_TIME_INVALID)
    extra = _NOTHING if _TYPED.issuperset(claims) else _extra(claims)
    return Claims(
        expected.issuer,
        subject,
        client_id,
        _scopes(scope),
        audience,
        expires_at,
        issued_at,
        token_id,
        session_id,
        roles,
        auth_time,
        extra,
    )


def valid_from(claims: JsonObject, expected: Expectations) -> int:
    """The first instant at which claims that `read_claims` took are not too early."""
    issued_at, not_before = claims["iat"], claims.get("nbf", 0)
    if not isinstance(issued_at, int) or not isinstance(not_before, int):
        raise TypeError("valid_from is for claims that were read")
    return max(issued_at - expected.iat_skew_s, not_before) - expected.leeway_s


def _extra(claims: JsonObject) -> Mapping[str, object]:
    extra = {name: _frozen(claims[name]) for name in claims if name not in _TYPED}
    return MappingProxyType(extra)


def _frozen(value: object) -> object:
    """Claims are shared by all requests with the same token: none may change them for the others.
    Depth is bounded by the decoder."""
    if isinstance(value, dict):
        return MappingProxyType({name: _frozen(member) for name, member in value.items()})
    if isinstance(value, list):
        return tuple([_frozen(member) for member in value])
    if type(value) is int and not is_bounded(value):
        raise TokenError(Reason.NUMBER_UNBOUNDED)
    return value


def _lifetime(claims: JsonObject, expected: Expectations, now: float) -> tuple[int, int]:
    """`iat` and `exp` of a token that is alive. Each test asks for the good case: NaN fails it."""
    expires_at, issued_at = claims.get("exp"), claims.get("iat")
    if type(expires_at) is not int or not 0 <= expires_at <= _LAST_INSTANT:
        raise TokenError(Reason.EXP_INVALID)
    if not expires_at > now - expected.leeway_s:
        raise TokenError(Reason.EXPIRED)
    if type(issued_at) is not int or not 0 <= issued_at <= expires_at:
        raise TokenError(Reason.IAT_INVALID)
    latest = now + expected.leeway_s
    if not issued_at <= latest + expected.iat_skew_s:
        raise TokenError(Reason.IAT_IN_FUTURE)
    # A token for a hundred years is an issuer's bug or a stolen key at work, not an access token.
    if expires_at - issued_at > expected.max_lifetime_s:
        raise TokenError(Reason.LIFETIME_TOO_LONG)
    if "nbf" in claims and not _instant(claims["nbf"], Reason.NBF_INVALID) <= latest:
        raise TokenError(Reason.NOT_YET_VALID)
    return issued_at, expires_at


# Types are compared, not asked with isinstance: the decoder makes no subclasses, and it is faster.


def _instant(value: object, reason: Reason) -> int:
    """A NumericDate as our issuer writes it: an integer. `True` is an int to Python, not to us."""
    if type(value) is int and 0 <= value <= _LAST_INSTANT:
        return value
    raise TokenError(reason)


def _identifier(value: object, reason: Reason) -> str:
    """A non-empty string that can be logged and compared: no control or invisible characters."""
    if type(value) is str and value and value.isprintable():
        return value
    raise TokenError(reason)


def _audience(value: object, expected: str) -> tuple[str, ...]:
    """RFC 7519 4.1.3: a list of strings, ours among them, compared exactly."""
    if type(value) is not list or expected not in value:
        raise TokenError(Reason.AUD_REFUSED)
    if not all(isinstance(member, str) for member in value):
        raise TokenError(Reason.AUD_REFUSED)
    return tuple(value)


@lru_cache(maxsize=256)  # of signed tokens only, and a service sees few different ones
def _scopes(scope: str) -> tuple[str, ...]:
    """RFC 6749 3.3. The empty string grants nothing, so it is let through as no scope at all."""
    if scope == "":
        return ()
    if _SCOPE.fullmatch(scope) is None:
        raise TokenError(Reason.SCOPE_INVALID)
    return tuple(scope.split(" "))


def _roles(value: object) -> tuple[str, ...]:
    if type(value) is not list:
        raise TokenError(Reason.ROLES_INVALID)
    for role in value:
        if not (type(role) is str and role and role.isprintable()):
            raise TokenError(Reason.ROLES_INVALID)
    return tuple(value)


def _check_act(value: object) -> None:
    """RFC 8693 4.1: actors nest; a long chain is an attack on whoever walks it, and one without a
    name cannot be told from nobody."""
    for _ in range(MAX_ACT_DEPTH):
        if not isinstance(value, dict):
            break
        _identifier(value.get("sub"), Reason.ACT_INVALID)
        if "act" not in value:
            return
        value = value["act"]
    raise TokenError(Reason.ACT_INVALID)
