"""The private half of a test issuer: RSA keys and the signature, good or deliberately not.

Keys are made when first needed (some 0.1 s each) and live as long as the process: tests that name
the same issuer share them, and different issuers never do. RFC 7515 7.1, RFC 7517 4.
"""

import hmac
import json
import os
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache

from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from token_server.verify.keys import StaticKeySet, VerificationKey, thumbprint


@dataclass(frozen=True, slots=True)
class SigningKey:
    """One key pair, and its public half in all the forms that are asked for."""

    private: RSAPrivateKey = field(repr=False)
    public: VerificationKey

    @property
    def kid(self) -> str:
        return self.public.kid

    @property
    def jwk(self) -> dict[str, str]:
        """The members that the real server publishes, in its order."""
        numbers = self.public.public_key.public_numbers()
        members = {"kty": "RSA", "use": "sig", "alg": "RS256", "kid": self.kid}
        return members | {"n": encode_uint(numbers.n), "e": encode_uint(numbers.e)}


class SigningKeys:
    """The keys of one issuer over time: the last one signs, withdrawn ones are not published."""

    def __init__(self, issuer: str) -> None:
        self._issuer = issuer
        self._made = 0
        self._published: list[SigningKey] = []
        self._compromised: list[str] = []

    def published(self) -> list[SigningKey]:
        if not self._published:
            self.rotate()
        return list(self._published)

    def current(self) -> SigningKey:
        return self.published()[-1]

    def compromised(self) -> list[str]:
        """The `kid`s of the keys that were withdrawn."""
        return list(self._compromised)

    def rotate(self, *, is_compromised: bool = False) -> None:
        """A new key signs from now on; all before it are withdrawn when one has leaked."""
        if is_compromised:
            self._compromised += [key.kid for key in self._published]
            self._published.clear()
        self._published.append(signing_key(self._issuer, self._made))
        self._made += 1


class LiveKeySet(StaticKeySet):
    """The published keys of an issuer, as they are at each look: no fetch, and nothing stale."""

    __slots__ = ("_keys",)

    def __init__(self, keys: SigningKeys) -> None:
        super().__init__([key.public for key in keys.published()])
        self._keys = keys

    def find(self, kid: str) -> VerificationKey | None:
        return next((key.public for key in self._keys.published() if key.kid == kid), None)

    @property
    def only_key(self) -> VerificationKey | None:
        published = self._keys.published()
        return published[0].public if len(published) == 1 else None

    @property
    def kids(self) -> tuple[str, ...]:
        return tuple(key.kid for key in self._keys.published())


@cache
def signing_key(issuer: str, number: int) -> SigningKey:  # noqa: ARG001 - the cache's key
    """The key of that name; `number` counts rotations, and -1 is a stranger's key."""
    private = generate_private_key(public_exponent=65537, key_size=2048)
    public = private.public_key()
    return SigningKey(private, VerificationKey(kid=thumbprint(public), public_key=public))


def sign(header: Mapping[str, object], claims: Mapping[str, object], key: SigningKey) -> str:
    """A compact JWS; whatever the header says, the signature is RS256 by this key."""
    content = f"{encode_json(header)}.{encode_json(claims)}"
    signature = key.private.sign(content.encode("ascii"), PKCS1v15(), SHA256())
    return f"{content}.{encode_base64url(signature)}"


def sign_by_public_key(claims: Mapping[str, object], key: SigningKey) -> str:
    """HS256 with the public key as the shared secret: the attack on verifiers that believe `alg`
    (RFC 8725 2.1)."""
    header = {"alg": "HS256", "kid": key.kid, "typ": "at+jwt"}
    content = f"{encode_json(header)}.{encode_json(claims)}"
    secret = key.public.public_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return f"{content}.{encode_base64url(hmac.digest(secret, content.encode('ascii'), 'sha256'))}"


def random_text() -> str:
    """As the real server's `jti`: 128 bits."""
    return encode_base64url(os.urandom(16))


def encode_json(value: Mapping[str, object]) -> str:
    return encode_base64url(json.dumps(value, separators=(",", ":")).encode("utf-8"))


def encode_uint(number: int) -> str:
    return encode_base64url(number.to_bytes((number.bit_length() + 7) // 8, "big"))


def encode_base64url(octets: bytes) -> str:
    return urlsafe_b64encode(octets).rstrip(b"=").decode("ascii")
