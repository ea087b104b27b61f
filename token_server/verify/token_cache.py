"""Tokens that have been verified, for as long as they would be again.

By the SHA-256 of the token, so that no token text is kept; only good tokens come in, so that
strangers cannot fill it. Bounded: two generations, of which the older is dropped at once when the
younger is half the size, and what is used moves to the younger. Needs no lock, and so no care in a
fork: every step is one operation on a dict.
"""

from typing import NamedTuple

from token_server.verify.claims import Claims
from token_server.verify.key_source import KeySource
from token_server.verify.keys import VerificationKey


class Verified(NamedTuple):
    """A good token: what it says, and what has to hold for that to stay true."""

    claims: Claims
    key: VerificationKey
    source: KeySource
    valid_from: int  # epoch seconds; `iat` and `nbf`, less what the policy allows
    valid_until: int  # `exp`, plus what the policy allows; not valid at this instant itself


class TokenCache:
    """At most `size` tokens; 0 keeps none."""

    __slots__ = ("_half", "_older", "_younger")

    def __init__(self, size: int) -> None:
        if type(size) is not int or not 0 <= size <= 1_000_000:
            raise ValueError("cache_size is an integer from 0 to 1000000")
        self._half = (size + 1) // 2
        self._younger: dict[bytes, Verified] = {}
        self._older: dict[bytes, Verified] = {}

    def find(self, digest: bytes) -> Verified | None:
        found = self._younger.get(digest)
        if found is None:
            found = self._older.get(digest)
            if found is not None:
                self.keep(digest, found)
        return found

    def keep(self, digest: bytes, verified: Verified) -> None:
        if len(self._younger) >= self._half:
            self._older = self._younger
            self._younger = {}
        self._younger[digest] = verified

    def forget(self, digest: bytes) -> None:
        self._younger.pop(digest, None)
        self._older.pop(digest, None)

    def __len__(self) -> int:
        return len(self._younger) + len(self._older)
