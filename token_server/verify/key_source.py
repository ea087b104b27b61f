"""What a verifier asks of its keys, whether they are local or fetched.

`RemoteKeySet` answers by fetching; `LocalKeys` answers for a `StaticKeySet`, which never changes,
so there is never anything to wait for.
"""

from typing import Protocol

from token_server.verify.flight import Flight
from token_server.verify.keys import StaticKeySet, VerificationKey
from token_server.verify.remote import KeySetStats


class KeySource(Protocol):
    """Asked in this order: `ready`; if that is None, wait for `flight`, then `available`. A `kid`
    that the set lacks: wait for `flight_for`, look again, and `note_absent` if still in vain."""

    def find(self, kid: str) -> VerificationKey | None:
        """This key of the set that is ready: the shortest way, for every token."""

    def ready(self) -> StaticKeySet | None: ...

    def flight(self) -> Flight | None: ...

    def available(self) -> StaticKeySet: ...

    def flight_for(self, kid: str) -> Flight | None: ...

    def note_absent(self, kid: str) -> None: ...

    def close(self) -> None: ...

    def stats(self) -> KeySetStats | None: ...


class LocalKeys:
    """A `StaticKeySet` as a source: it is what it is."""

    __slots__ = ("_keys", "find")

    def __init__(self, keys: StaticKeySet) -> None:
        self._keys = keys
        self.find = keys.find

    def ready(self) -> StaticKeySet:
        return self._keys

    def available(self) -> StaticKeySet:
        return self._keys

    def flight(self) -> None:
        return None

    def flight_for(self, _kid: str) -> None:
        return None

    def note_absent(self, _kid: str) -> None:
        return None

    def close(self) -> None:
        return None

    def stats(self) -> None:
        return None
