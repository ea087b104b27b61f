"""Revocation for a test issuer: positions, the list as it is served, and the answer at once.

draft-ietf-oauth-status-list-21 §4, §5.1. As the real server does it, each session has a position,
which all of its tokens carry.
"""

import zlib
from collections.abc import Sequence

from token_server.verify.claims import Claims
from token_server.verify.errors import Reason, TokenError
from token_server.verify.status import Reference, StatusStats, read_reference
from token_server.verify.testing.signing import SigningKeys, encode_base64url, sign

LISTS_PATH = "/oauth2/status-lists"
_TTL_S = 1  # tests wait for it
_LIFETIME_S = 100
_MIN_BYTES = 1024


class Revocations:
    """Which positions were given to whom, and which of them are revoked."""

    def __init__(self) -> None:
        self._positions: dict[str, int] = {}
        self.revoked: set[int] = set()

    def claim(self, session: str, issuer: str) -> dict[str, object]:
        """The claim `status` for the tokens of this session."""
        index = self._positions.setdefault(session, len(self._positions))
        return {"status_list": {"idx": index, "uri": list_uri(issuer)}}

    def list_token(self, issuer: str, keys: SigningKeys, now: int) -> bytes:
        """The one list, signed by the key that signs tokens."""
        entries = bytearray(max(_MIN_BYTES, len(self._positions) // 8 + 1))
        for index in self.revoked:
            entries[index >> 3] |= 1 << (index & 7)
        lst = encode_base64url(zlib.compress(bytes(entries), 9))
        key = keys.current()
        payload: dict[str, object] = {
            "iss": issuer,
            "sub": list_uri(issuer),
            "iat": now,
            "exp": now + _LIFETIME_S,
            "ttl": _TTL_S,
            "status_list": {
                "bits": 1,
                "lst": lst,
                "aggregation_uri": issuer.rstrip("/") + LISTS_PATH,
            },
            "revoked_kids": keys.compromised(),
        }
        header = {"alg": "RS256", "kid": key.kid, "typ": "statuslist+jwt"}
        return sign(header, payload, key).encode("ascii")


class LiveStatus:
    """The positions as they are at each look: no fetch, no `ttl` to wait for."""

    def __init__(self, issuer: str, revocations: Revocations) -> None:
        self._issuer = issuer
        self._revocations = revocations

    def reference(self, claims: Claims) -> Reference | None:
        return read_reference(claims, self._issuer)

    def check(self, _kid: str, reference: Reference | None, _waited: Sequence[object]) -> None:
        if reference is not None and reference[1] in self._revocations.revoked:
            raise TokenError(Reason.STATUS_REVOKED)

    def poll(self, _waited: Sequence[object]) -> None:
        return None

    def close(self) -> None:
        return None

    def stats(self) -> StatusStats | None:
        return None


def list_uri(issuer: str) -> str:
    return f"{issuer.rstrip('/')}{LISTS_PATH}/s0"
