"""Verify this server's access tokens in a resource service, with only the public keys.

    from token_server.verify import StaticKeySet, TokenError, Verifier
    verifier = Verifier(issuer=ISSUER, audience=AUDIENCE, keys=StaticKeySet.from_jwks(jwks))
    claims = verifier.verify_sync(token)  # or await verifier.verify(token)

Stands alone: the standard library and cryptography, nothing of the server (RFC 9068 4, RFC 8725).
"""

from token_server.verify.claims import Claims
from token_server.verify.errors import Reason, TokenError
from token_server.verify.keys import KeySetError, StaticKeySet, VerificationKey
from token_server.verify.verifier import Policy, Verifier, decode_unverified

__all__ = [
    "Claims",
    "KeySetError",
    "Policy",
    "Reason",
    "StaticKeySet",
    "TokenError",
    "VerificationKey",
    "Verifier",
    "decode_unverified",
]
