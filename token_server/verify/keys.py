"""Public keys to verify with, by `kid`, loaded once and never changed (RFC 7517, RFC 7518 6.3).

One unusable entry of a JWKS is dropped with a warning, so that a new key type at the issuer breaks
nobody; a repeated `kid` refuses the whole set, since no choice between the two would be right.
Does no I/O: fetching and caching are another module's work.
"""

import hashlib
import json
import logging
from base64 import urlsafe_b64encode
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Self

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey, RSAPublicNumbers
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from token_server.verify.rsa_policy import rsa_problem
from token_server.verify.strict import StrictnessError, decode_base64url, decode_object

_log = logging.getLogger("token_server.verify")

_MAX_JWKS_BYTES = 256 * 1024
_PRIVATE_MEMBERS = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})
_PADDING = PKCS1v15()
# What precedes the digest in a signature with SHA-256 (RFC 8017 9.2, note 1).
_SHA256_DIGEST_INFO = bytes.fromhex("3031300d060960864801650304020105000420")


class KeySetError(ValueError):
    """The key set or key cannot be used; says what is wrong without showing key material."""


@dataclass(frozen=True, slots=True)
class VerificationKey:
    """One RSA public key for RS256. Raises KeySetError when the key is not fit for use."""

    kid: str
    public_key: RSAPublicKey = field(repr=False)

    def __post_init__(self) -> None:
        if not self.kid:
            raise KeySetError("kid is missing or empty")
        key: object = self.public_key
        if not isinstance(key, RSAPublicKey):
            raise KeySetError("not an RSA public key")
        numbers = self.public_key.public_numbers()
        problem = rsa_problem(numbers.n, numbers.e)
        if problem is not None:
            raise KeySetError(problem)

    def is_signed(self, signing_input: bytes, signature: bytes) -> bool:
        """Whether `signature` is RSASSA-PKCS1-v1_5 with SHA-256 over the input (RFC 7518 3.3)."""
        return self.is_digest_signed(hashlib.sha256(signing_input).digest(), signature)

    def is_digest_signed(self, digest: bytes, signature: bytes) -> bool:
        """As `is_signed`, for the SHA-256 of the input.

        RFC 8017 8.2.2 to the letter: the length first (step 1), then what the signature encodes
        (step 2, padding removed), and an exact comparison with what it has to encode (step 4). The
        same answer as `verify()` in 2 µs less, the overhead of its generality.
        """
        if len(signature) != self.public_key.key_size + 7 >> 3:
            return False
        try:
            encoded = self.public_key.recover_data_from_signature(signature, _PADDING, None)
        except InvalidSignature:
            return False
        return encoded == _SHA256_DIGEST_INFO + digest


class StaticKeySet:
    """Keys that were there at the start. Immutable, so safe to share between threads and tasks."""

    __slots__ = ("_by_kid",)

    def __init__(self, keys: Iterable[VerificationKey]) -> None:
        """Raises KeySetError when a `kid` occurs twice or no key is left."""
        listed = tuple(keys)
        self._by_kid = {key.kid: key for key in listed}
        if not listed:
            raise KeySetError("the key set holds no usable RS256 key")
        if len(self._by_kid) != len(listed):
            raise KeySetError("a kid occurs twice in the key set")

    @classmethod
    def from_jwks(cls, jwks: bytes | str | Mapping[str, object]) -> Self:
        """Read a JWK Set (RFC 7517 5); raises KeySetError when the set as a whole is unusable."""
        document = jwks if isinstance(jwks, Mapping) else _decode_document(jwks)
        entries = document.get("keys")
        if not isinstance(entries, list):
            raise KeySetError("the key set has no list `keys`")
        named = [entry["kid"] for entry in entries if isinstance(entry, dict) and "kid" in entry]
        kids = [kid for kid in named if isinstance(kid, str)]
        # Counted over all entries, the unusable ones too: the issuer's names are not to be trusted.
        if len(set(kids)) != len(kids):
            raise KeySetError("a kid occurs twice in the key set")
        return cls(_usable_keys(entries))

    @classmethod
    def from_pem(cls, pem: bytes | str, *, kid: str | None = None) -> Self:
        """One public key in PEM form; without `kid` its RFC 7638 thumbprint, as our issuer does."""
        data = pem.encode() if isinstance(pem, str) else pem
        if b"PRIVATE KEY" in data:
            raise KeySetError("this is a private key; a verifier wants the public half")
        if data.count(b"-----BEGIN ") != 1:
            raise KeySetError("expected exactly one PEM block")
        try:
            key = load_pem_public_key(data)
        except (ValueError, UnsupportedAlgorithm):
            raise KeySetError("not a public key in PEM form") from None
        if not isinstance(key, RSAPublicKey):
            raise KeySetError("not an RSA key")
        return cls([VerificationKey(kid=thumbprint(key) if kid is None else kid, public_key=key)])

    @classmethod
    def from_public_keys(cls, keys: Mapping[str, RSAPublicKey]) -> Self:
        """Loaded keys by `kid`; raises KeySetError when one of them is not fit for use."""
        return cls(VerificationKey(kid=kid, public_key=key) for kid, key in keys.items())

    def sharing(self, former: "StaticKeySet") -> "StaticKeySet":
        """The same keys, as the objects of a former set where they are equal to them: what was
        verified with a key that is still there stays recognisable by identity."""
        return StaticKeySet(
            former._by_kid[kid] if former._by_kid.get(kid) == key else key
            for kid, key in self._by_kid.items()
        )

    def find(self, kid: str) -> VerificationKey | None:
        return self._by_kid.get(kid)

    @property
    def only_key(self) -> VerificationKey | None:
        """The key of a set that holds exactly one; None otherwise."""
        return next(iter(self._by_kid.values())) if len(self._by_kid) == 1 else None

    @property
    def kids(self) -> tuple[str, ...]:
        return tuple(self._by_kid)

    def __repr__(self) -> str:
        return f"StaticKeySet(kids={self.kids!r})"


def thumbprint(key: RSAPublicKey) -> str:
    """RFC 7638 3: base64url of the SHA-256 of the required members in order."""
    numbers = key.public_numbers()
    required = {"e": _uint_text(numbers.e), "kty": "RSA", "n": _uint_text(numbers.n)}
    digest = hashlib.sha256(json.dumps(required, separators=(",", ":")).encode()).digest()
    return urlsafe_b64encode(digest).rstrip(b"=").decode()


def _uint_text(value: int) -> str:
    octets = value.to_bytes((value.bit_length() + 7) // 8, "big")
    return urlsafe_b64encode(octets).rstrip(b"=").decode()


def _decode_document(jwks: bytes | str) -> Mapping[str, object]:
    if len(jwks) > _MAX_JWKS_BYTES:
        raise KeySetError(f"the key set is larger than {_MAX_JWKS_BYTES} bytes")
    try:
        return decode_object(jwks.encode() if isinstance(jwks, str) else jwks)
    except StrictnessError as error:
        raise KeySetError(f"the key set is not strict JSON: {error.reason}") from None
    except UnicodeEncodeError:
        raise KeySetError("the key set is not strict JSON: lone surrogate") from None


def _usable_keys(entries: list[object]) -> list[VerificationKey]:
    keys: list[VerificationKey] = []
    for index, entry in enumerate(entries):
        try:
            keys.append(_read_entry(entry))
        except KeySetError as error:
            _log.warning("jwks_entry_dropped index=%d problem=%s", index, error)
    return keys


def _read_entry(entry: object) -> VerificationKey:
    """One JWK as a key for RS256; the messages of KeySetError never quote the entry."""
    if not isinstance(entry, dict):
        raise KeySetError("not an object")
    if entry.get("kty") != "RSA":
        raise KeySetError("kty is not RSA")
    if not _PRIVATE_MEMBERS.isdisjoint(entry):
        raise KeySetError("private members are published")
    if entry.get("use", "sig") != "sig":
        raise KeySetError("use is not sig")
    operations = entry.get("key_ops", ["verify"])
    if not isinstance(operations, list) or "verify" not in operations:
        raise KeySetError("key_ops lacks verify")
    if entry.get("alg", "RS256") != "RS256":
        raise KeySetError("alg is not RS256")
    kid = entry.get("kid")
    if not isinstance(kid, str):
        raise KeySetError("kid is missing or not a string")
    modulus, exponent = _read_uint(entry.get("n")), _read_uint(entry.get("e"))
    # Judged before it is built: OpenSSL refuses some of these with errors of its own.
    problem = rsa_problem(modulus, exponent)
    if problem is not None:
        raise KeySetError(problem)
    return VerificationKey(kid=kid, public_key=RSAPublicNumbers(exponent, modulus).public_key())


def _read_uint(value: object) -> int:
    """Base64urlUInt (RFC 7518 2): the shortest form, so no leading zero octet."""
    if not isinstance(value, str) or not value.isascii():
        raise KeySetError("n or e is not base64url")
    try:
        octets = decode_base64url(value.encode("ascii"))
    except StrictnessError:
        raise KeySetError("n or e is not base64url") from None
    if not octets or octets[0] == 0:
        raise KeySetError("n or e is not in its shortest form")
    return int.from_bytes(octets, "big")
