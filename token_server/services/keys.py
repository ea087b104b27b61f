"""What an operator does with signing keys: make the first ones, and look at them.

Needs the key directory and the master key only, never the database, so that keys can be made
before there is one. Whether the database agrees with them is checked where both are opened.
Never returns a private half.
"""

from dataclasses import dataclass

from token_server.config import Settings
from token_server.core.key_lifecycle import key_states
from token_server.crypto.keyring import Keyring
from token_server.crypto.keystore import MANIFEST_NAME
from token_server.crypto.opening import OpenedKeys, open_keyring
from token_server.crypto.private_files import EntropySource
from token_server.errors import OperatorError
from token_server.records import KeyState


@dataclass(frozen=True, slots=True)
class KeyRow:
    """One signing key as people and scripts see it."""

    kid: str
    state: KeyState
    alg: str
    bits: int
    created_at: int
    published_at: int | None
    activate_at: int | None
    retire_at: int | None
    compromised_at: int | None


@dataclass(frozen=True, slots=True)
class KeysReport:
    """A keyring with its keys, in the order of the JWKS."""

    keyring_id: str
    generation: int
    is_new: bool  # this very call made it
    keys_dir: str
    keys: tuple[KeyRow, ...]
    warnings: tuple[str, ...]


async def init_keys(settings: Settings, *, now: int, entropy: EntropySource) -> KeysReport:
    """Make the first keys, or check that the existing ones can all be read: safe to repeat.
    OperatorError lists every problem with its fix."""
    opened = await open_keyring(settings, now=now, entropy=entropy)
    return _report(settings, opened, now)


async def show_keys(settings: Settings, *, now: int, entropy: EntropySource) -> KeysReport:
    """The existing keyring; makes nothing. OperatorError with exit code 3 when there is none."""
    opened = await open_keyring(settings, now=now, entropy=entropy, create=False)
    return _report(settings, opened, now)


def require_keys(settings: Settings) -> None:
    """OperatorError with exit code 3 when there is no key directory to work on: a command that
    changes keys must not make the first ones, and a database, in a wrong working directory."""
    if settings.key_store == "directory" and not (settings.keys_dir / MANIFEST_NAME).exists():
        raise OperatorError(
            f"there are no signing keys in {settings.keys_dir}: name the directory (--keys-dir, "
            "TOKEN_SERVER_KEYS_DIR), or make keys with `token-server keys init`",
            exit_code=3,
        )


def list_keys(keyring: Keyring, now: int) -> tuple[KeyRow, ...]:
    """Every key of an open keyring with its state at `now`."""
    states = key_states(keyring.keys, now)
    return tuple(
        KeyRow(
            kid=key.kid,
            state=states[key.kid],
            alg=key.alg,
            bits=key.bits,
            created_at=key.created_at,
            published_at=key.published_at,
            activate_at=key.activate_at,
            retire_at=key.retire_at,
            compromised_at=key.compromised_at,
        )
        for key in keyring.keys
    )


def _report(settings: Settings, opened: OpenedKeys, now: int) -> KeysReport:
    keyring = opened.keyring
    return KeysReport(
        keyring_id=keyring.keyring_id,
        generation=keyring.generation,
        is_new=opened.is_new,
        keys_dir=str(settings.keys_dir),
        keys=list_keys(keyring, now),
        warnings=opened.warnings,
    )
