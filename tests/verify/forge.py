"""Makes tokens for the verifier's tests: good ones, and bad ones signed with the good key.

A refusal proves something only when the flaw under test is the token's only flaw, so whatever the
tests change, the signature is made over the changed text.
"""

import json
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from functools import cache

import pytest
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256, HashAlgorithm

from token_server.verify import Policy, Reason, StaticKeySet, TokenError, Verifier
from token_server.verify.keys import thumbprint

ISSUER = "https://auth.example"
AUDIENCE = "https://orders.example"
NOW = 1_800_000_000
REMOVED = object()  # as a value in `header` or `claims`: leave this member out

_DEFAULT = Policy()


@cache
def private_key(name: str) -> rsa.RSAPrivateKey:
    """A 2048-bit key for each name; "good" is the one in the verifier's key set."""
    assert name
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def kid() -> str:
    return thumbprint(private_key("good").public_key())


def b64(octets: bytes) -> str:
    return urlsafe_b64encode(octets).rstrip(b"=").decode()


def compact_json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def changed(base: Mapping[str, object], changes: Mapping[str, object]) -> dict[str, object]:
    merged = {**base, **changes}
    return {name: value for name, value in merged.items() if value is not REMOVED}


def header(**changes: object) -> dict[str, object]:
    return changed({"alg": "RS256", "typ": "at+jwt", "kid": kid()}, changes)


def claims(**changes: object) -> dict[str, object]:
    base = {
        "iss": ISSUER,
        "sub": "usr_7vY0cQ2mS8dK4pL1xW3nZa",
        "aud": AUDIENCE,
        "exp": NOW + 900,
        "iat": NOW,
        "jti": "Zk3vH0sQb1mN8rT5yU2wXg",
        "client_id": "web-shop",
        "scope": "orders:read orders:write",
        "sid": "ses_4fG6hJ8kL0zX2cV4bN6mQw",
        "auth_time": NOW - 60,
        "roles": ["clerk"],
    }
    return changed(base, changes)


def sign(text: str, *, key: str = "good", algorithm: HashAlgorithm | None = None) -> bytes:
    chosen = SHA256() if algorithm is None else algorithm
    return private_key(key).sign(text.encode(), padding.PKCS1v15(), chosen)


def seal(header_segment: str, payload_segment: str, *, key: str = "good") -> str:
    """Sign two segments exactly as they stand, however odd."""
    signing_input = f"{header_segment}.{payload_segment}"
    return f"{signing_input}.{b64(sign(signing_input, key=key))}"


def seal_bytes(header_bytes: bytes, payload_bytes: bytes, *, key: str = "good") -> str:
    return seal(b64(header_bytes), b64(payload_bytes), key=key)


def token(
    changes: Mapping[str, object] | None = None,
    /,
    *,
    header_changes: Mapping[str, object] | None = None,
    key: str = "good",
    **more: object,
) -> str:
    """A good token but for the changes of its claims and its header."""
    return seal_bytes(
        compact_json(header(**(header_changes or {}))),
        compact_json(claims(**(changes or {}), **more)),
        key=key,
    )


def key_set() -> StaticKeySet:
    return StaticKeySet.from_public_keys({kid(): private_key("good").public_key()})


def verifier(*, policy: Policy = _DEFAULT, now: float = NOW) -> Verifier:
    return Verifier(
        issuer=ISSUER, audience=AUDIENCE, keys=key_set(), policy=policy, clock=lambda: now
    )


def refusal(text: str, *, policy: Policy = _DEFAULT, now: float = NOW) -> Reason:
    """The reason for which the verifier refuses; the test fails when it does not."""
    with pytest.raises(TokenError) as caught:
        verifier(policy=policy, now=now).verify_sync(text)
    return caught.value.reason
