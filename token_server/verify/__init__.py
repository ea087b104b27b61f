"""Verify this server's access tokens in a resource service, with only the public keys.

    from token_server.verify import TokenError, Verifier
    verifier = Verifier(issuer="https://auth.example", audience="https://orders.example")
    claims = await verifier.verify(token)  # or verifier.verify_sync(token)

Stands alone: the standard library and cryptography, nothing of the server (RFC 9068 4, RFC 8725).
"""

from token_server.verify.bearer import read_bearer
from token_server.verify.claims import Claims
from token_server.verify.errors import (
    InsufficientScopeError,
    InvalidRequestError,
    KeysUnavailableError,
    Reason,
    StatusUnavailableError,
    TokenError,
    TokenMissingError,
    challenge,
)
from token_server.verify.fetch import Fetcher, FetchError, FetchResult
from token_server.verify.keys import KeySetError, StaticKeySet, VerificationKey
from token_server.verify.policy import Policy
from token_server.verify.remote import Fetching, KeySetStats, RemoteKeySet
from token_server.verify.status import StatusChecking, StatusStats
from token_server.verify.verifier import Verifier, VerifierStats, decode_unverified

__all__ = [
    "Claims",
    "FetchError",
    "FetchResult",
    "Fetcher",
    "Fetching",
    "InsufficientScopeError",
    "InvalidRequestError",
    "KeySetError",
    "KeySetStats",
    "KeysUnavailableError",
    "Policy",
    "Reason",
    "RemoteKeySet",
    "StaticKeySet",
    "StatusChecking",
    "StatusStats",
    "StatusUnavailableError",
    "TokenError",
    "TokenMissingError",
    "VerificationKey",
    "Verifier",
    "VerifierStats",
    "challenge",
    "decode_unverified",
    "read_bearer",
]
