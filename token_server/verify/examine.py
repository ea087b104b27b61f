"""The examination of one token that is not remembered: header, key, signature, claims.

Which issuer a token claims decides whose keys are asked when several are trusted: a key of one
issuer says nothing about tokens of another (RFC 8725 3.8). Remembers headers of good tokens only,
so that strangers' headers cannot push them out. Waits for nothing: says so with MustWaitError.
"""

from collections.abc import Sequence
from typing import NamedTuple

from token_server.verify.claims import Expectations, read_claims, valid_from
from token_server.verify.compact import (
    check_header,
    check_signature,
    check_typ,
    decode_segment,
    find_key,
    read_kid,
    split_token,
)
from token_server.verify.errors import Reason, TokenError
from token_server.verify.flight import Flight
from token_server.verify.key_source import KeySource
from token_server.verify.keys import StaticKeySet, VerificationKey
from token_server.verify.policy import Policy
from token_server.verify.strict import JsonObject
from token_server.verify.token_cache import Verified

_REMEMBERED_HEADERS = 64


class Trust(NamedTuple):
    """An issuer, and the keys that speak for it."""

    issuer: str
    source: KeySource


class MustWaitError(Exception):
    """Not an answer yet: examine again when the flight has landed."""

    def __init__(self, flight: Flight) -> None:
        super().__init__("keys are being fetched")
        self.flight = flight


class Examiner:
    """Holds what one verifier demands. Safe for threads and tasks."""

    __slots__ = ("_by_issuer", "_headers", "_media_types", "_only", "_policy")

    def __init__(self, trusted: Sequence[Trust], audience: str, policy: Policy) -> None:
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
            )
            for issuer, source in trusted
        }
        self._only = next(iter(self._by_issuer.values())) if len(self._by_issuer) == 1 else None
        self._policy = policy
        self._media_types = policy.media_types
        self._headers: dict[bytes, tuple[str | None]] = {}

    def examine(self, octets: bytes, now: float, *, has_waited: bool) -> Verified:
        """The token, verified. TokenError, StrictnessError, KeysUnavailableError; MustWaitError at
        most once for one token, namely while `has_waited` is False."""
        segments = split_token(octets)
        seen = self._headers.get(segments.header)
        kid = self._read_header(segments.header) if seen is None else seen[0]
        if self._only is None:
            payload = decode_segment(segments.payload)
            expected, source = self._claimed(payload)
            key = self._find_key(source, kid, has_waited=has_waited)
            check_signature(segments, key)
        else:
            expected, source = self._only
            key = self._find_key(source, kid, has_waited=has_waited)
            check_signature(segments, key)
            payload = decode_segment(segments.payload)
        claims = read_claims(payload, expected, now)
        if seen is None:
            self._remember(segments.header, kid)
        return Verified(
            claims,
            key,
            source,
            valid_from(payload, expected),
            claims.expires_at + expected.leeway_s,
        )

    def _read_header(self, segment: bytes) -> str | None:
        header = decode_segment(segment)
        check_header(header)
        check_typ(header, self._media_types)
        return read_kid(header)

    def _remember(self, segment: bytes, kid: str | None) -> None:
        """All tokens of one key share one header text. What it says depends on the text alone."""
        if len(self._headers) >= _REMEMBERED_HEADERS:
            self._headers.clear()
        self._headers[segment] = (kid,)

    def _claimed(self, payload: JsonObject) -> tuple[Expectations, KeySource]:
        """Of the issuer that the unverified payload names. It only chooses among those trusted."""
        issuer = payload.get("iss")
        trusted = self._by_issuer.get(issuer) if isinstance(issuer, str) else None
        if trusted is None:
            raise TokenError(Reason.ISS_REFUSED)
        return trusted

    def _find_key(self, source: KeySource, kid: str | None, *, has_waited: bool) -> VerificationKey:
        keys = source.available() if has_waited else _keys_now(source)
        key = None if kid is None else keys.find(kid)
        if key is not None:
            return key
        if kid is not None:
            if has_waited:
                source.note_absent(kid)
            else:
                flight = source.flight_for(kid)
                if flight is not None:
                    raise MustWaitError(flight)
                keys = source.available()  # another one's fetch may have landed just now
        return find_key(kid, keys, allow_missing_kid=self._policy.allow_missing_kid)


def _keys_now(source: KeySource) -> StaticKeySet:
    keys = source.ready()
    if keys is not None:
        return keys
    flight = source.flight()
    if flight is not None and not flight.is_overdue:
        raise MustWaitError(flight)
    return source.available()
