"""What a service does without asking: tokens and status lists are verified by the published keys.

By `token_server.verify` over what was fetched from the server itself (RFC 9068 §4, status lists
§8.3), with the clock of the server that issued the token: not a second later may it be refused.
"""

from dataclasses import dataclass, field

from tests.model.calls import ISSUER
from token_server.verify import Claims, StaticKeySet, TokenError, Verifier
from token_server.verify.status_list import (
    ListExpectations,
    StatusList,
    StatusListError,
    read_status_list,
)
from token_server.verify.verifier import decode_unverified

AUDIENCE = "https://orders.example"


@dataclass(slots=True)
class Published:
    """One server's key set, as it was fetched last."""

    now: int = 0
    kids: frozenset[str] = frozenset()
    _body: bytes = b""
    _keys: StaticKeySet | None = None
    _verifiers: dict[str, Verifier] = field(default_factory=dict)

    def take(self, body: bytes, kids: frozenset[str]) -> None:
        if body == self._body:
            return
        keys = self._keys = StaticKeySet.from_jwks(body)
        self._body, self.kids = body, kids
        self._verifiers = {
            audience: Verifier(
                issuer=ISSUER, audience=audience, keys=keys, clock=lambda: float(self.now)
            )
            for audience in (ISSUER, AUDIENCE)
        }

    def verify(self, token: str, now: int) -> tuple[Claims, str]:
        """The claims and the `kid`; TokenError for a token that no service would take."""
        self.now = now
        header, claims = decode_unverified(token)
        audience = claims.get("aud")
        verifier = self._verifiers.get(str(audience), self._verifiers[ISSUER])
        return verifier.verify_sync(token), str(header["kid"])

    def is_known(self, token: str) -> bool:
        return decode_unverified(token)[0].get("kid") in self.kids

    def read_list(self, body: bytes, uri: str, now: int) -> StatusList:
        """StatusListError for one that no service would take."""
        assert self._keys is not None
        expected = ListExpectations(uri, ISSUER, now, skew_s=10, not_before=0)
        return read_status_list(body, expected, self._keys.find)


__all__ = ["AUDIENCE", "Published", "StatusListError", "TokenError"]
