"""What a keyring becomes by a change: its records, private halves, and new keys.

Pure but for `moved`, which encrypts. Nothing here decides whether a change is good, or stores it.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import msgspec

from token_server.config import Settings
from token_server.core.key_changes import (
    Change,
    Decision,
    NewKey,
    Situation,
    Step,
    StepKind,
)
from token_server.crypto.keyring import Keyring
from token_server.crypto.opening import as_wanted
from token_server.crypto.rewrapping import rewrapped
from token_server.crypto.rsa_keys import KeyUnusableError
from token_server.crypto.secrets import MasterKeys
from token_server.errors import OperatorError
from token_server.records import SigningKey, StoredKey, StoredKeyring


@dataclass(slots=True)
class ChangeTask:
    """One change on its way, over all of its attempts."""

    decide: Callable[[Situation], Decision]
    force: bool
    master_version: int | None  # move everything under this one
    made: list[StoredKey]  # keys for it: ready ones, or made after an attempt
    wanted: tuple[NewKey, ...] = ()
    master_keys: MasterKeys | None = field(default=None, repr=False)

    @property
    def lacks_keys(self) -> bool:
        return len(self.made) != len(self.wanted)

    def new_keys(
        self, change: Change, master_keys: MasterKeys, situation: Situation
    ) -> list[StoredKey] | None:
        """The keys that `change` asks for, dated as it asks; None when they are still to be made,
        under `master_keys`."""
        self.wanted, self.master_keys = change.new_keys, master_keys
        if any(entry.master_version not in master_keys.versions for entry in self.made):
            self.made = []  # the master key was replaced while they were made
        if self.lacks_keys:
            return None
        return [
            as_wanted(entry, new, situation.now, situation.policy)
            for entry, new in zip(self.made, self.wanted, strict=True)
        ]


def applied(stored: StoredKeyring, change: Change, made: Sequence[StoredKey]) -> StoredKeyring:
    """The next generation of `stored`; `made` are the keys that the change asks for."""
    held = {entry.key.kid: entry for entry in stored.keys}
    kept = (_with_record(held[key.kid], key, change.erased) for key in change.keys)
    return replace(stored, generation=stored.generation + 1, keys=(*kept, *made))


def moved(keyring: StoredKeyring, master_keys: MasterKeys) -> StoredKeyring:
    """`keyring` under another version of the master key. Blocks for 0.1 s or more per key.
    OperatorError when a private half cannot be opened."""
    try:
        return rewrapped(keyring, master_keys)
    except KeyUnusableError as err:
        raise OperatorError(f"a private key cannot be read: {err}") from None


def named(steps: Sequence[Step], made: Sequence[StoredKey]) -> tuple[Step, ...]:
    """The steps with the names of the keys that were made."""
    kids = itertools.chain((entry.key.kid for entry in made), itertools.repeat(None))
    return tuple(
        replace(step, kid=next(kids)) if step.kind is StepKind.MADE else step for step in steps
    )


def as_large_as_newest(settings: Settings, keyring: Keyring) -> Settings:
    """For a command that was not told KEY_BITS: in a shell without the server's settings it would
    shrink the keys unnoticed."""
    newest = max(keyring.keys, key=lambda key: key.created_at)
    return msgspec.structs.replace(settings, key_bits=newest.bits)


def require_successor(stored: StoredKeyring | None, keyring: Keyring) -> StoredKeyring:
    """What was read, if it is `keyring` or what became of it. OperatorError otherwise: keys that
    were called compromised could come back with a backup."""
    if stored is None:
        raise OperatorError("the signing keys are gone")
    if stored.keyring_id != keyring.keyring_id:
        raise OperatorError("another keyring has taken the place of this one")
    if stored.generation < keyring.generation:
        raise OperatorError("the signing keys are older than those in memory")
    if stored.generation == keyring.generation and _is_fork(stored, keyring):
        raise OperatorError("a backup of the signing keys was put back: restart the server")
    return stored


def _is_fork(stored: StoredKeyring, keyring: Keyring) -> bool:
    return {entry.key for entry in stored.keys} != set(keyring.keys)


def _with_record(entry: StoredKey, key: SigningKey, erased: frozenset[str]) -> StoredKey:
    if key.kid in erased:
        return StoredKey(key, None, None)
    return replace(entry, key=key)
