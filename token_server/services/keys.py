"""What an operator does with signing keys: make the first ones, and look at them.

With the key directory it needs that and the master key only, never the database, so that keys can
be made before there is one; with KEY_STORE=database nothing but the database. Whether both agree
is checked where both are opened. Never returns a private half.
"""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Literal

from token_server.config import Settings
from token_server.core.key_lifecycle import key_states
from token_server.crypto.keyring import Keyring
from token_server.crypto.keystore import MANIFEST_NAME
from token_server.crypto.live_keys import LiveKeys, Surroundings
from token_server.crypto.opening import OpenedKeys, open_keyring
from token_server.errors import OperatorError
from token_server.records import KeyState
from token_server.runtime import Clock, Entropy, database_keys
from token_server.services.maintenance import missing_file
from token_server.storage import migrations
from token_server.storage.engine import open_store


@dataclass(frozen=True, slots=True)
class KeyPlace:
    """Where keys are looked at: what the settings say, and which of them were stated."""

    settings: Settings
    clock: Clock
    entropy: Entropy
    stated: frozenset[str] = frozenset()  # as Surroundings.stated

    def live(self, opened: OpenedKeys) -> LiveKeys:
        """The opened keys, to be asked what would happen to them."""
        clock, entropy = self.clock, self.entropy
        around = Surroundings(
            self.settings, clock.now, clock.monotonic, entropy.token_bytes, self.stated
        )
        return LiveKeys(opened, around)


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
    key_store: Literal["directory", "database"]
    keys_dir: str | None  # None: they are in the database
    keys: tuple[KeyRow, ...]
    warnings: tuple[str, ...]


async def init_keys(place: KeyPlace) -> KeysReport:
    """Make the first keys, or check that the existing ones can all be read: safe to repeat.
    OperatorError lists every problem with its fix."""
    async with keys_opened(place, create=True) as opened:
        return _report(place, opened)


async def show_keys(place: KeyPlace) -> KeysReport:
    """The existing keyring; makes nothing. OperatorError with exit code 3 when there is none."""
    async with keys_opened(place) as opened:
        return _report(place, opened)


@contextlib.asynccontextmanager
async def keys_opened(place: KeyPlace, *, create: bool = False) -> AsyncIterator[OpenedKeys]:
    """The keys, and the database if they are kept there. OperatorError with exit code 3 when
    there are none and none may be made; UnavailableError when the database does not answer."""
    settings, clock, entropy = place.settings, place.clock, place.entropy
    now, token_bytes = clock.now(), entropy.token_bytes
    if settings.key_store == "directory":
        yield await open_keyring(settings, now=now, entropy=token_bytes, create=create)
        return
    if not create:
        _require_database(settings)
    store = await open_store(settings.database_url.reveal(), now=clock.now)
    try:
        if create:
            await migrations.upgrade(store)
        elif not (await migrations.schema_status(store)).is_current:
            raise OperatorError(
                "the database has the schema of another release: run `token-server db upgrade`"
            )
        database = await database_keys(store)
        yield await open_keyring(
            settings, now=now, entropy=token_bytes, create=create, database=database
        )
    finally:
        await store.close()


def require_keys(settings: Settings) -> None:
    """OperatorError with exit code 3 when there are no keys to work on: a command that changes
    keys must not make the first ones, and a database, in a wrong working directory."""
    if settings.key_store == "database":
        _require_database(settings)
    elif not (settings.keys_dir / MANIFEST_NAME).exists():
        raise OperatorError(
            f"there are no signing keys in {settings.keys_dir.absolute()}: name the directory "
            "(--keys-dir, TOKEN_SERVER_KEYS_DIR), or make keys with `token-server keys init`",
            exit_code=3,
        )


def _require_database(settings: Settings) -> None:
    missing = missing_file(settings)
    if missing is not None:
        raise OperatorError(f"there is no database at {missing}, and so no keys", exit_code=3)


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


def _report(place: KeyPlace, opened: OpenedKeys) -> KeysReport:
    keyring = opened.keyring
    return KeysReport(
        keyring_id=keyring.keyring_id,
        generation=keyring.generation,
        is_new=opened.is_new,
        key_store=place.settings.key_store,
        keys_dir=str(place.settings.keys_dir) if place.settings.key_store == "directory" else None,
        keys=list_keys(keyring, place.clock.now()),
        warnings=opened.warnings,
    )
