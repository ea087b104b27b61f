"""The examination of one token that is not remembered: header, key, signature, claims.

Which issuer a token claims decides whose keys are asked when several are trusted: a key of one
issuer says nothing about tokens of another (RFC 8725 3.8). Remembers good tokens and their headers,
and no others, so that strangers cannot push them out. Waits for nothing: says so, MustWaitError.
"""

from collections import OrderedDict
from collections.abc import Sequence
from hashlib import sha256
from typing import NamedTuple, TypeAlias

from token_server.verify.claims import Claims, Expectations, read_claims, valid_from
from token_server.verify.compact import (
    Segments,
    check_header,
    check_typ,
    decode_segment,
    find_key,
    read_kid,
    split_token,
)
from token_server.verify.errors import Reason, TokenError
from token_server.verify.flight import MustWaitError, value_now
from token_server.verify.key_source import KeySource
from token_server.verify.keys import VerificationKey
from token_server.verify.policy import Policy
from token_server.verify.status import Reference, StatusSource
from token_server.verify.strict import JsonObject, decode_base64url, decode_object

_REMEMBERED_HEADERS = 64
_MAX_CACHE_SIZE = 1_000_000


class Trust(NamedTuple):
    """An issuer, the keys that speak for it, and what says which of its tokens were revoked."""

    issuer: str
    source: KeySource
    status: StatusSource


# A good token: what it says, and what has to hold for that to stay true: its key, whose key it is,
# the epoch seconds from which and until before which it is valid, as the policy allows, and where
# its status stands. A bare tuple: one is made for every token, and a type with names costs three
# times as much.
_Verified: TypeAlias = tuple[
    Claims, VerificationKey, KeySource, int, int, StatusSource, Reference | None
]


class Examiner:
    """Holds what one verifier demands, and what it has verified. Safe for threads and tasks: each
    step on what is remembered is one operation on a dict, and needs no lock."""

    def __init__(
        self, trusted: Sequence[Trust], audience: str, policy: Policy, cache_size: int
    ) -> None:
        if type(cache_size) is not int or not 0 <= cache_size <= _MAX_CACHE_SIZE:
            raise ValueError(f"cache_size is an integer from 0 to {_MAX_CACHE_SIZE}")
        self._by_issuer = {
            issuer: (
                Expectations(
                    issuer=issuer,
                    audience=audience,
                    leeway_s=policy.leeway_s,
                    iat_skew_s=policy.iat_skew_s,
                    max_lifetime_s=policy.max_lifetime_s,
                ),
                source,
                status,
            )
            for issuer, source, status in trusted
        }
        self._only = next(iter(self._by_issuer.values())) if len(self._by_issuer) == 1 else None
        self._policy = policy
        self._max_bytes = policy.max_token_bytes
        self._early_s = policy.iat_skew_s + policy.leeway_s
        self._media_types = policy.media_types
        self._headers: dict[bytes, tuple[str | None]] = {}
        self._cache_size = cache_size
        # By the SHA-256 of the token: no token text is kept. Only good tokens come in: strangers
        # cannot fill it. The least recently used one goes first.
        self._cache: OrderedDict[bytes, _Verified] = OrderedDict()
        self.hits = 0

    @property
    def cached_tokens(self) -> int:
        """How many verified tokens are remembered."""
        return len(self._cache)

    def examine(self, token: str, now: float, waited: Sequence[object] = ()) -> Claims:
        """The claims of a good token. TokenError, StrictnessError, KeysUnavailableError for any
        other; MustWaitError for what has to be fetched first and is not among those `waited` for:
        three times at most for a token, for the keys, the newest status list and its own."""
        segments = split_token(token, self._max_bytes)
        hashed = sha256(segments[3])
        signed_digest = hashed.digest()
        if self._cache_size == 0:
            verified = self._prove(segments, signed_digest, now, waited)
        else:
            hashed.update(b"." + segments[2])  # and so it is the SHA-256 of the token
            digest = hashed.digest()
            found = self._cache.get(digest)
            # Asked at each use: clocks are set back, and keys are withdrawn.
            if found and found[3] <= now < found[4] and found[2].find(found[1].kid) is found[1]:
                verified = found
                self._use(digest)
            else:
                verified = self._prove(segments, signed_digest, now, waited)
                self._cache[digest] = verified
                if len(self._cache) > self._cache_size:
                    self._cache.popitem(last=False)
        # Every good token passes here, remembered or not: what may change in the meantime and is
        # not the key or the time.
        verified[5].check(verified[1].kid, verified[6], waited)
        return verified[0]

    def _use(self, digest: bytes) -> None:
        self.hits += 1
        try:
            self._cache.move_to_end(digest)
        except KeyError:  # another thread has just made room
            return

    def _prove(
        self, segments: Segments, signed_digest: bytes, now: float, waited: Sequence[object]
    ) -> _Verified:
        """Signature first, and then the claims."""
        header, payload, signature, _ = segments
        seen = self._headers.get(header)
        kid = self._read_header(header) if seen is None else seen[0]
        claimed = None
        if self._only is None:
            claimed = decode_object(decode_base64url(payload), bounds_integers=False)
        expected, source, status = self._only or self._claimed(claimed)
        key = None if kid is None else source.find(kid)
        if key is None:
            key = self._find_key(source, kid, waited)
        if not key.is_digest_signed(signed_digest, decode_base64url(signature)):
            raise TokenError(Reason.SIGNATURE_WRONG)
        if claimed is None:
            claimed = decode_object(decode_base64url(payload), bounds_integers=False)
        claims = read_claims(claimed, expected, now)
        if seen is None:
            self._remember_header(header, kid)
        since = claims.issued_at - self._early_s
        if "nbf" in claimed:
            since = valid_from(claimed, expected)
        until = claims.expires_at + expected.leeway_s
        return claims, key, source, since, until, status, status.reference(claims)

    def _read_header(self, segment: bytes) -> str | None:
        header = decode_segment(segment)
        check_header(header)
        check_typ(header, self._media_types)
        return read_kid(header)

    def _remember_header(self, segment: bytes, kid: str | None) -> None:
        """All tokens of one key share one header text. What it says depends on the text alone."""
        if len(self._headers) >= _REMEMBERED_HEADERS:
            self._headers.clear()
        self._headers[segment] = (kid,)

    def _claimed(self, payload: JsonObject | None) -> tuple[Expectations, KeySource, StatusSource]:
        """Of the issuer that the unverified payload names. It only chooses among those trusted."""
        issuer = None if payload is None else payload.get("iss")
        trusted = self._by_issuer.get(issuer) if isinstance(issuer, str) else None
        if trusted is None:
            raise TokenError(Reason.ISS_REFUSED)
        return trusted

    def _find_key(
        self, source: KeySource, kid: str | None, waited: Sequence[object]
    ) -> VerificationKey:
        """When the key is not simply there: what to wait for, or why it is refused."""
        keys = value_now(source, waited)
        if kid is None or keys.find(kid) is not None:
            return find_key(kid, keys, allow_missing_kid=self._policy.allow_missing_kid)
        if source in waited:
            source.note_absent(kid)
            raise TokenError(Reason.KID_UNKNOWN)
        flight = source.flight_for(kid)
        if flight is not None:
            raise MustWaitError(flight, source)
        # Another one's fetch may have landed just now.
        return find_key(kid, source.available(), allow_missing_kid=False)
