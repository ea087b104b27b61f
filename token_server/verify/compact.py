"""The compact form and the signature: text in, bytes signed by a known key out (RFC 7515).

Decides the form, the header (closed sets for `alg` and `typ`, no member that brings its own key or
changes the rules: RFC 8725 3.1 to 3.11) and the RSA signature, in this order, cheapest first.
Must not look at the claims and must not fetch anything.
"""

from typing import TypeAlias

from token_server.verify.errors import Reason, TokenError
from token_server.verify.keys import StaticKeySet, VerificationKey
from token_server.verify.strict import JsonObject, decode_base64url, decode_object

ALG = "RS256"  # the one algorithm; never read from a token (RFC 8725 3.1)

# Bounds what a stranger can make us parse before the signature is checked.
_MAX_HEADER_CHARACTERS = 2048
_KNOWN_MEMBERS = frozenset({"alg", "typ", "kid"})
# RFC 7515 4 wants unknown members ignored, and an issuer may add one without asking us; so we do.
# Refused is what names an outside key, changes how the payload is read, or belongs to a JWE.
_REFUSED_MEMBERS = frozenset(
    {"jku", "jwk", "x5u", "x5c", "x5t", "x5t#s256", "crit", "b64", "cty", "zip"}
    | {"enc", "epk", "apu", "apv", "iv", "tag", "p2s", "p2c"}
)


# Header, payload, signature and signing input, all still encoded. A bare tuple: one is made for
# every token.
Segments: TypeAlias = tuple[bytes, bytes, bytes, bytes]


def split_token(token: object, max_bytes: int) -> Segments:
    """Take a JWS in compact form apart (RFC 7515 7.1), bounded; raises TokenError."""
    if not isinstance(token, str):
        raise TokenError(Reason.NOT_TEXT)
    if len(token) > max_bytes:
        raise TokenError(Reason.TOO_LARGE)
    if not token.isascii():
        raise TokenError(Reason.MALFORMED)
    signing_input, dot, signature = token.encode("ascii").rpartition(b".")
    header, other_dot, payload = signing_input.partition(b".")
    # The five-part JWE has more dots, and so has a megabyte of them.
    if not dot or not other_dot or b"." in payload:
        raise TokenError(Reason.MALFORMED)
    if len(header) > _MAX_HEADER_CHARACTERS:
        raise TokenError(Reason.TOO_LARGE)
    return header, payload, signature, signing_input


def decode_segment(segment: bytes) -> JsonObject:
    """Header or claims as one strict JSON object; raises StrictnessError."""
    return decode_object(decode_base64url(segment))


def check_header(header: JsonObject) -> None:
    """Refuse every algorithm but ours, and members that would change the meaning of the rest."""
    if header.get("alg") != ALG:
        raise TokenError(Reason.ALG_REFUSED)
    if header.keys() == _KNOWN_MEMBERS:
        return
    for name in header.keys() - _KNOWN_MEMBERS:
        folded = name.lower()
        # "Alg" beside "alg": a reader that folds case (Go's does) would see another header.
        if folded in _REFUSED_MEMBERS or folded in _KNOWN_MEMBERS:
            raise TokenError(Reason.HEADER_REFUSED)


def check_typ(header: JsonObject, media_types: frozenset[str]) -> None:
    """Explicit typing (RFC 8725 3.11): `media_types` in lower case, with and without the prefix."""
    typ = header.get("typ")
    if not isinstance(typ, str) or typ.lower() not in media_types:
        raise TokenError(Reason.TYP_REFUSED)


def read_kid(header: JsonObject) -> str | None:
    """The `kid`, None when the header has none; raises TokenError for another type."""
    if "kid" not in header:
        return None
    kid = header["kid"]
    if not isinstance(kid, str):
        raise TokenError(Reason.KID_UNKNOWN)
    return kid


def find_key(kid: str | None, keys: StaticKeySet, *, allow_missing_kid: bool) -> VerificationKey:
    """The one key that is meant: a dictionary look-up, never a trial of several keys."""
    if kid is None:
        only = keys.only_key if allow_missing_kid else None
        if only is None:
            raise TokenError(Reason.KID_MISSING)
        return only
    key = keys.find(kid)
    if key is None:
        raise TokenError(Reason.KID_UNKNOWN)
    return key
