"""Where a keyring rests: the shape that the key directory and the database both have.

Methods may be called from any task of any process. A keyring changes only by compare-and-set on
its generation, so of two changes from the same one exactly one is made (I5).
"""

from collections.abc import Hashable
from typing import Protocol

from token_server.core.key_policy import Serving
from token_server.records import StoredKey, StoredKeyring


class KeyringSeal(Protocol):
    """Whoever can write the store but has no master key cannot add a key or change an instant:
    he would have to make this."""

    def make(self, keyring: StoredKeyring) -> str:
        """The seal of the keyring as it is to be stored."""
        ...

    def problem(self, keyring: StoredKeyring, seal: str) -> str | None:
        """Why what was read cannot be trusted, and what to do; None when it is what was sealed."""
        ...


class KeyStore(Protocol):
    """A keyring at rest, read and written under one set of master keys."""

    async def load(self) -> StoredKeyring | None:
        """The keyring with its encrypted private halves, or None before the first start.
        OperatorError, naming every problem, when it cannot be trusted; UnavailableError when the
        store does not answer."""
        ...

    async def replace(self, keyring: StoredKeyring, expected_generation: int) -> bool:
        """Put `keyring` (generation expected + 1) in place of the expected generation (0: none
        yet); False when another was faster. OperatorError when the store refuses."""
        ...

    async def peek(self) -> Hashable:
        """A cheap look: another value than before when the keyring has changed. May raise as
        `load` does."""
        ...

    async def last_serving(self) -> Serving | None:
        """The newest word of a process that serves this keyring; None when there is none that
        can be read, which counts as never."""
        ...

    async def record_serving(self, serving: Serving) -> None:
        """Write down that a process serves this keyring now. OperatorError when the store
        refuses, UnavailableError when it does not answer."""
        ...

    def locate(self, stored: StoredKey) -> str:
        """Where the private half is, for messages to the operator."""
        ...
