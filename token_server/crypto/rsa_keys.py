"""RSA signing keys: making, naming (RFC 7638), encrypting at rest, loading, signing RS256.

A private half at rest is encrypted PKCS#8 (PBES2, AES-256) that `openssl pkey` reads with the
pass phrase derived from the master key. Loading checks the key in full, so it is done once.
Sizes 2048, 3072 and 4096 with e = 65537; RS256 only (RFC 7518 3.3). Never prints a number.
"""

import hashlib
import json
import re
from dataclasses import dataclass, field
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from token_server.crypto.secrets import encode_base64url

ALG: Final = "RS256"
PUBLIC_EXPONENT = 65537
ALLOWED_BITS = frozenset({2048, 3072, 4096})

# One block, our line ends, nothing before or after: a half, doubled or converted file is refused
# before a parser that is more forgiving than us sees it.
_ENCRYPTED_PEM = re.compile(
    rb"-----BEGIN ENCRYPTED PRIVATE KEY-----\n(?:[A-Za-z0-9+/=]{1,76}\n)+"
    rb"-----END ENCRYPTED PRIVATE KEY-----\n"
)
_PADDING = padding.PKCS1v15()
_SHA256 = hashes.SHA256()

# Primes by which Infineon's faulty generator shows itself (CVE-2017-15361, "ROCA"): its moduli
# are powers of 65537 modulo every one of them.
_ROCA_PRIMES = (
    3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79, 83, 89, 97,
    101, 103, 107, 109, 113, 127, 131, 137, 139, 149, 151, 157, 163, 167,
)  # fmt: skip


class KeyUnusableError(Exception):
    """A key that must not be used; the text says why and holds nothing of the key."""


@dataclass(frozen=True, slots=True)
class PublicHalf:
    """What everyone may know of a key."""

    kid: str
    bits: int
    n: int = field(repr=False)
    e: int


class RsaSigner:
    """A loaded private half; signs and does nothing else."""

    __slots__ = ("_private", "kid")

    alg = ALG

    def __init__(self, kid: str, private: rsa.RSAPrivateKey) -> None:
        self.kid = kid
        self._private = private

    def sign(self, content: bytes) -> bytes:
        """RSASSA-PKCS1-v1_5 with SHA-256 (RFC 7518 3.3): 0.4 ms at 2048 bits, without the GIL."""
        return self._private.sign(content, _PADDING, _SHA256)

    def __repr__(self) -> str:
        return f"RsaSigner(kid={self.kid!r})"


def generate(bits: int) -> rsa.RSAPrivateKey:
    """A new key. Takes 0.03 s to several seconds of CPU: call it in a thread."""
    if bits not in ALLOWED_BITS:
        raise ValueError("RSA keys have 2048, 3072 or 4096 bits")
    return rsa.generate_private_key(public_exponent=PUBLIC_EXPONENT, key_size=bits)


def public_half(public: rsa.RSAPublicKey) -> PublicHalf:
    numbers = public.public_numbers()
    return PublicHalf(thumbprint(numbers.n, numbers.e), public.key_size, numbers.n, numbers.e)


def public_jwk(kid: str, n: int, e: int) -> dict[str, str]:
    """The public JWK: exactly the members that a verifier needs (RFC 7517 4, RFC 7518 6.3.1)."""
    return {
        "kty": "RSA",
        "use": "sig",
        "alg": ALG,
        "kid": kid,
        "n": encode_uint(n),
        "e": encode_uint(e),
    }


def thumbprint(n: int, e: int) -> str:
    """The key's name: RFC 7638 SHA-256 thumbprint over e, kty, n in that order, no white space."""
    members = {"e": encode_uint(e), "kty": "RSA", "n": encode_uint(n)}
    canonical = json.dumps(members, separators=(",", ":")).encode("ascii")
    return encode_base64url(hashlib.sha256(canonical).digest())


def encode_uint(number: int) -> str:
    """Base64urlUInt without leading zero octets (RFC 7518 2)."""
    return encode_base64url(number.to_bytes((number.bit_length() + 7) // 8, "big"))


def check_public(public: PublicHalf) -> None:
    """KeyUnusableError for a size, an exponent or a modulus that is not safe to sign with."""
    if public.bits not in ALLOWED_BITS or public.n.bit_length() != public.bits:
        raise KeyUnusableError("its size is not 2048, 3072 or 4096 bits")
    if public.e != PUBLIC_EXPONENT:
        raise KeyUnusableError("its public exponent is not 65537")
    if public.n % 2 == 0:
        raise KeyUnusableError("its modulus is even")
    if all(_is_power_of_65537(public.n % prime, prime) for prime in _ROCA_PRIMES):
        raise KeyUnusableError("its modulus has the shape of CVE-2017-15361 (ROCA)")


def _is_power_of_65537(residue: int, prime: int) -> bool:
    power = 1
    while True:
        if power == residue:
            return True
        power = power * PUBLIC_EXPONENT % prime
        if power == 1:
            return False


def encrypt_private(private: rsa.RSAPrivateKey, key_encryption_key: bytes) -> bytes:
    """Encrypted PKCS#8 in PEM."""
    return private.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(pass_phrase(key_encryption_key)),
    )


def pass_phrase(key_encryption_key: bytes) -> bytes:
    """What `openssl pkey -passin` takes: base64url of the key-encryption key."""
    return encode_base64url(key_encryption_key).encode("ascii")


def check_form(pem: bytes) -> None:
    """KeyUnusableError unless the bytes are one whole encrypted PKCS#8 block."""
    if not pem:
        raise KeyUnusableError("it is empty")
    if _ENCRYPTED_PEM.fullmatch(pem) is None:
        raise KeyUnusableError("it is not one whole encrypted PKCS#8 private key")


def load_private(pem: bytes, key_encryption_key: bytes) -> rsa.RSAPrivateKey:
    """Decrypt and check a private half. KeyUnusableError, never with a cause that could carry
    bytes of the key. Takes 50 ms or more: call it in a thread, once per key."""
    check_form(pem)
    try:
        # Validation stays on: a key with a damaged factor gives its modulus away by signing.
        private = serialization.load_pem_private_key(pem, pass_phrase(key_encryption_key))
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise KeyUnusableError("it is damaged, or encrypted under another master key") from None
    if not isinstance(private, rsa.RSAPrivateKey):
        raise KeyUnusableError("it is not an RSA key")
    return private


class PassPhraseError(KeyUnusableError):
    """The key is encrypted, and the pass phrase is missing or wrong."""


def read_private(pem: bytes, given: bytes | None) -> rsa.RSAPrivateKey:
    """A private key that somebody else made: PKCS#8 or PKCS#1 in PEM, under the pass phrase
    `given` or none. PassPhraseError and KeyUnusableError say why it is not taken."""
    is_encrypted = b"ENCRYPTED" in pem
    if is_encrypted and not given:
        raise PassPhraseError("it is encrypted: give its pass phrase")
    try:
        private = serialization.load_pem_private_key(pem, given if is_encrypted else None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        if is_encrypted:
            raise PassPhraseError("the pass phrase is wrong, or the key is damaged") from None
        raise KeyUnusableError("it is not a private key in PEM (PKCS#8 or PKCS#1)") from None
    if not isinstance(private, rsa.RSAPrivateKey):
        raise KeyUnusableError("it is not an RSA key")
    check_public(public_half(private.public_key()))
    return private


def public_pem(n: int, e: int) -> str:
    """The public half as SubjectPublicKeyInfo in PEM (RFC 7468 13)."""
    return (
        rsa.RSAPublicNumbers(e, n)
        .public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        .decode("ascii")
    )
