"""The verifier: one token in, typed claims or one TokenError out (RFC 9068 4, RFC 8725 3).

Order, cheapest first: size, form, header, key, signature, and only then the claims. One verifier
serves all threads and tasks: no call leaves anything behind that could change the next one's
outcome. Does no I/O.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from token_server.verify.claims import Claims, Expectations, read_claims
from token_server.verify.compact import (
    check_header,
    check_signature,
    check_typ,
    decode_segment,
    find_key,
    read_kid,
    split_token,
)
from token_server.verify.errors import TokenError
from token_server.verify.keys import StaticKeySet
from token_server.verify.strict import JsonObject, StrictnessError, decode_base64url

_log = logging.getLogger("token_server.verify")

_MAX_TOKEN_BYTES = 16 * 1024
_MAX_LEEWAY_S = 60
_REMEMBERED_HEADERS = 32
_TYPS = frozenset({"at+jwt", "jwt"})


@dataclass(frozen=True, slots=True)
class Policy:
    """How strict; the defaults fit this server. Raises ValueError for a setting out of bounds."""

    accept_typ: tuple[str, ...] = ("at+jwt",)
    """("at+jwt", "JWT") where the server runs with ACCESS_TOKEN_TYP=JWT."""
    leeway_s: int = 0
    """Added to `exp`, `nbf` and `iat` in the token's favour; at most 60."""
    iat_skew_s: int = 10
    """How far the issuer's clock may be ahead of ours: the server's CLOCK_SKEW; at most 60."""
    max_lifetime_s: int = 86_400
    """`exp` minus `iat` at most; raise it where the server's ACCESS_TOKEN_TTL is longer."""
    max_token_bytes: int = _MAX_TOKEN_BYTES
    allow_missing_kid: bool = False
    """Take a token without `kid` when the set holds exactly one key."""

    def __post_init__(self) -> None:
        if not self.accept_typ or not _TYPS.issuperset(typ.lower() for typ in self.accept_typ):
            raise ValueError("accept_typ is a tuple of at+jwt and JWT")
        for name, value, highest in (
            ("leeway_s", self.leeway_s, _MAX_LEEWAY_S),
            ("iat_skew_s", self.iat_skew_s, _MAX_LEEWAY_S),
            ("max_lifetime_s", self.max_lifetime_s, 2**31),
            ("max_token_bytes", self.max_token_bytes, 2**20),
        ):
            if type(value) is not int or not 0 <= value <= highest:
                raise ValueError(f"{name} is an integer from 0 to {highest}")


_DEFAULT_POLICY = Policy()


class Verifier:
    """Verifies access tokens of one issuer for one audience."""

    __slots__ = ("_clock", "_expected", "_keys", "_policy", "_read_kid")

    def __init__(
        self,
        *,
        issuer: str,
        audience: str,
        keys: StaticKeySet,
        policy: Policy = _DEFAULT_POLICY,
        clock: Callable[[], float] = time.time,  # noqa: TID251 - stands alone: no Runtime here
    ) -> None:
        """`issuer` and `audience` are compared exactly; `clock` gives epoch seconds."""
        if not issuer or not audience:
            raise ValueError("issuer and audience are non-empty strings")
        self._keys = keys
        self._policy = policy
        self._clock = clock
        self._read_kid = _kid_reader(
            frozenset(
                prefix + typ.lower() for typ in policy.accept_typ for prefix in ("", "application/")
            )
        )
        self._expected = Expectations(
            issuer=issuer,
            audience=audience,
            leeway_s=policy.leeway_s,
            iat_skew_s=policy.iat_skew_s,
            max_lifetime_s=policy.max_lifetime_s,
        )

    async def verify(self, token: str) -> Claims:
        """As `verify_sync`: with local keys there is nothing to wait for, some 40 µs of CPU."""
        return self.verify_sync(token)

    def verify_sync(self, token: str) -> Claims:
        """The claims of a good token; raises TokenError for every other."""
        policy = self._policy
        try:
            segments = split_token(token, policy.max_token_bytes)
            kid = self._read_kid(segments.header)
            key = find_key(kid, self._keys, allow_missing_kid=policy.allow_missing_kid)
            check_signature(segments, key)
            return read_claims(decode_segment(segments.payload), self._expected, self._clock())
        except (TokenError, StrictnessError) as error:
            reason = error.reason
        _log.info("access_token_refused reason=%s", reason)
        # A fresh error: the first one's traceback and context lead to the token's text.
        raise TokenError(reason)


def decode_unverified(token: str) -> tuple[JsonObject, JsonObject]:
    """Header and claims of a token that NOBODY has checked: to look at, never to decide by.

    Bounded and strict as verification is; raises TokenError when the token cannot be read.
    """
    try:
        segments = split_token(token, _MAX_TOKEN_BYTES)
        decode_base64url(segments.signature)
        return decode_segment(segments.header), decode_segment(segments.payload)
    except (TokenError, StrictnessError) as error:
        reason = error.reason
    raise TokenError(reason)


def _kid_reader(media_types: frozenset[str]) -> Callable[[bytes], str | None]:
    """Reads and checks a header. All tokens of one key share one header text, so a few are
    remembered: the outcome depends on the text alone, and a refusal is not remembered."""

    @lru_cache(maxsize=_REMEMBERED_HEADERS)
    def kid_of(segment: bytes) -> str | None:
        header = decode_segment(segment)
        check_header(header)
        check_typ(header, media_types)
        return read_kid(header)

    return kid_of
