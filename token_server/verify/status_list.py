"""One status list token: text in, a bounded array of statuses out.

draft-ietf-oauth-status-list-21. Decides whether a list is the one that was asked for (§5.1, §8.3)
and reads its entries (§4.1). The signature is checked with the access tokens' own keys. Bounded
before and after inflating; fetches nothing, remembers nothing.
"""

import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field

from token_server.verify.compact import (
    check_header,
    check_typ,
    decode_segment,
    read_kid,
    split_token,
)
from token_server.verify.errors import TokenError
from token_server.verify.fetch import MAX_BODY_BYTES
from token_server.verify.keys import VerificationKey
from token_server.verify.strict import JsonObject, StrictnessError, decode_base64url

MAX_LIST_BYTES = 256 * 1024  # inflated: two million entries of one bit; our server's have 16 KiB
_MEDIA_TYPES = frozenset({"statuslist+jwt", "application/statuslist+jwt"})
_MAX_REVOKED_KIDS = 1024
_MAX_KID_CHARACTERS = 256
_MIN_TTL_S, _MAX_TTL_S = 1.0, 3600.0
_DEFAULT_TTL_S = 60.0


class StatusListError(ValueError):
    """The list cannot be used; says why without quoting it."""


@dataclass(frozen=True, slots=True)
class StatusList:
    """The entries of a list whose signature is good, and what it says of itself."""

    statuses: bytes = field(repr=False)
    bits: int
    kid: str
    """Of the key that signed it."""
    issued_at: float
    expires_at: float
    ttl_s: float
    revoked_kids: frozenset[str]

    def find(self, index: int) -> int | None:
        """The status at this position, 0 for a token that is good; None beyond the end (§8.3)."""
        at = index * self.bits
        if at >> 3 >= len(self.statuses):
            return None
        return self.statuses[at >> 3] >> (at & 7) & ((1 << self.bits) - 1)


@dataclass(frozen=True, slots=True)
class ListExpectations:
    """What a list has to be."""

    uri: str
    issuer: str
    now: float
    """Epoch seconds."""
    skew_s: int
    not_before: float
    """`iat` of the list before: lists of one URI do not go back in time."""


def read_status_list(
    body: bytes, expected: ListExpectations, find_key: Callable[[str], VerificationKey | None]
) -> StatusList:
    """The list; StatusListError for any that is not exactly what is expected."""
    try:
        text = body.decode("ascii")
        header_segment, payload_segment, signature, signing_input = split_token(
            text, MAX_BODY_BYTES
        )
        header = decode_segment(header_segment)
        check_header(header)
        check_typ(header, _MEDIA_TYPES)
        kid = read_kid(header)
        key = None if kid is None else find_key(kid)
        if key is None:
            raise StatusListError("signed by no key of the issuer")
        if not key.is_signed(signing_input, decode_base64url(signature)):
            raise StatusListError("signature wrong")
        payload = decode_segment(payload_segment)
    except UnicodeDecodeError:
        raise StatusListError("not a status list token") from None
    except (TokenError, StrictnessError) as error:
        raise StatusListError(f"not a status list token: {error.reason}") from None
    return _read(payload, key.kid, expected)


def _read(payload: JsonObject, kid: str, expected: ListExpectations) -> StatusList:
    if payload.get("sub") != expected.uri:
        raise StatusListError("sub is not the URI that was fetched")
    if payload.get("iss", expected.issuer) != expected.issuer:
        raise StatusListError("of another issuer")
    issued_at = _number(payload, "iat", None)
    if issued_at > expected.now + expected.skew_s:
        raise StatusListError("issued in the future")
    if issued_at < expected.not_before:
        raise StatusListError("older than the one before")
    expires_at = _number(payload, "exp", math.inf)
    if expires_at <= expected.now:
        raise StatusListError("expired")
    ttl_s = _number(payload, "ttl", _DEFAULT_TTL_S)
    if ttl_s <= 0:
        raise StatusListError("ttl is not positive")
    listed = payload.get("status_list")
    if not isinstance(listed, dict):
        raise StatusListError("no status_list")
    bits = listed.get("bits")
    if type(bits) is not int or bits not in {1, 2, 4, 8}:
        raise StatusListError("bits is not 1, 2, 4 or 8")
    return StatusList(
        statuses=_inflate(listed.get("lst")),
        bits=bits,
        kid=kid,
        issued_at=issued_at,
        expires_at=expires_at,
        ttl_s=max(_MIN_TTL_S, min(ttl_s, _MAX_TTL_S)),
        revoked_kids=_kids(payload.get("revoked_kids", [])),
    )


def _number(payload: JsonObject, name: str, default: float | None) -> float:
    """A JSON number; `default` when the member is left out and may be."""
    value = payload.get(name, default)
    if type(value) not in {int, float} or not isinstance(value, int | float):
        raise StatusListError(f"{name} is missing or not a number")
    return value


def _inflate(lst: object) -> bytes:
    """DEFLATE in ZLIB format (§4.1), whole, nothing behind it, and never more than the bound."""
    if not isinstance(lst, str) or not lst.isascii():
        raise StatusListError("lst is not base64url")
    try:
        packed = decode_base64url(lst.encode("ascii"))
        inflater = zlib.decompressobj()
        statuses = inflater.decompress(packed, MAX_LIST_BYTES + 1)
    except StrictnessError:
        raise StatusListError("lst is not base64url") from None
    except zlib.error:
        raise StatusListError("lst is not ZLIB data") from None
    if len(statuses) > MAX_LIST_BYTES:
        raise StatusListError(f"lst is larger than {MAX_LIST_BYTES} bytes")
    if not inflater.eof or inflater.unused_data:
        raise StatusListError("lst is cut short or followed by something")
    return statuses


def _kids(value: object) -> frozenset[str]:
    """Our server's member: signing keys that others may have."""
    if not isinstance(value, list) or len(value) > _MAX_REVOKED_KIDS:
        raise StatusListError("revoked_kids is no list, or too long")
    kids = {kid for kid in value if isinstance(kid, str) and 0 < len(kid) <= _MAX_KID_CHARACTERS}
    if len(kids) != len(value):
        raise StatusListError("revoked_kids holds other than different names of keys")
    return frozenset(kids)
