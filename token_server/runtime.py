"""What a running process is made of: one frozen Runtime, built in one place, passed down.

`open_runtime` is the only place that builds things: the HTTP server, the command line and the
tests' fixture all use it. There is no container and no module state.
"""

import contextlib
import os
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Protocol

from token_server.config import Settings
from token_server.core.guess_alarm import FailedGuesses
from token_server.core.guess_budget import RefusedGuesses
from token_server.core.key_store import KeyStore
from token_server.core.recently_used import RecentlyUsed
from token_server.core.replay_ledger import ReplayLedger
from token_server.crypto.argon2id import Argon2Cost
from token_server.crypto.hash_queue import HashCapacity
from token_server.crypto.keyring import Keyring
from token_server.crypto.live_keys import LiveKeys, Surroundings
from token_server.crypto.opening import DatabaseKeys, OpenedKeys, open_keyring
from token_server.crypto.passwords import HashObserver, PasswordHasher
from token_server.crypto.secrets import KEY_BYTES, MasterKeys
from token_server.crypto.signing_pool import SigningPool, helpers_for
from token_server.errors import OperatorError
from token_server.logs import get_logger
from token_server.metrics import Metrics
from token_server.records import AuditEvent, AuditEventType, Family
from token_server.storage import audit, meta, migrations
from token_server.storage.background import AuditTrail, BackgroundWriter
from token_server.storage.batch import Batcher, RotationEntry
from token_server.storage.client_cache import ClientCache
from token_server.storage.engine import Store, open_store
from token_server.storage.logins import NewLogin, login_batcher
from token_server.storage.revocations import Revocation, revocation_batcher
from token_server.storage.rotation import rotation_batcher
from token_server.storage.signing_keys import sealed_store
from token_server.storage.status_cache import StatusCache, ensure_status_key
from token_server.storage.throttle import Decision, Step, step_batcher
from token_server.verify import Claims

_log = get_logger(__name__)

# Two clocks that are read one after the other differ by microseconds, also with CLOCK_SKEW=0.
_LEAST_TOLERANCE_S = 1
_VERIFIED_TOKENS = 4096
_ENTROPY_BYTES = 4096

# By the SHA-256 of a token that is good: the key set that it was verified by, and its claims.
VerifiedTokens = RecentlyUsed[bytes, tuple[bytes, Claims]]


class Clock(Protocol):
    """Where instants and durations come from; tests pass a manual one."""

    def now(self) -> int:
        """Wall clock in whole epoch seconds: for claims and stored instants."""
        ...

    def monotonic(self) -> float:
        """Seconds that never go back: for durations and the ages of caches."""
        ...

    def is_stepped_back(self) -> bool:
        """True while the wall clock stands clearly before where it has been: issuing stops."""
        ...

    def behind_s(self) -> float:
        """How far the wall clock stands before where it has been; 0 when it does not."""
        ...


class SystemClock:
    """The machine's clock, with a guard against steps back.

    A wall clock that is set back would let everything live longer than it says. Within
    `tolerance_s` of the furthest instant seen the wall clock is followed; beyond it time goes on
    by the monotonic clock, so that nothing is stretched, and `is_stepped_back` says so until
    the wall clock has caught up or the process is restarted.
    """

    def __init__(self, tolerance_s: int = 10) -> None:
        self._tolerance_s = tolerance_s
        self._anchor_wall = time.time()  # noqa: TID251 - the one place that may
        self._anchor_monotonic = time.monotonic()

    def now(self) -> int:
        wall, expected = self._read()
        return int(wall if wall >= expected - self._tolerance_s else expected)

    def monotonic(self) -> float:
        return time.monotonic()

    def is_stepped_back(self) -> bool:
        wall, expected = self._read()
        return wall < expected - self._tolerance_s

    def behind_s(self) -> float:
        wall, expected = self._read()
        return expected - wall

    def _read(self) -> tuple[float, float]:
        wall = time.time()  # noqa: TID251 - the one place that may
        monotonic = time.monotonic()
        expected = self._anchor_wall + (monotonic - self._anchor_monotonic)
        if wall > expected:  # set forward, or the monotonic clock slept with the machine
            self._anchor_wall, self._anchor_monotonic = wall, monotonic
            expected = wall
        return wall, expected


class Entropy(Protocol):
    """Where unguessable bytes come from."""

    def token_bytes(self, length: int) -> bytes: ...


class SystemEntropy:
    """The kernel's, fetched 4 KiB at a time: a system call for each token id costs more than the
    rest of the id. What was given out is not kept, and a forked process begins anew."""

    def __init__(self) -> None:
        self._left = bytearray()
        os.register_at_fork(after_in_child=self._left.clear)

    def token_bytes(self, length: int) -> bytes:
        left = self._left
        if len(left) < length:
            left[:] = os.urandom(max(_ENTROPY_BYTES, length))
        taken = bytes(left[-length:])
        del left[-length:]
        return taken


@dataclass(frozen=True, slots=True)
class Runtime:
    """Everything that services need, open and ready."""

    settings: Settings
    clock: Clock
    entropy: Entropy
    store: Store
    keys: LiveKeys
    hasher: PasswordHasher
    rotations: Batcher[RotationEntry, Family | None]
    clients: ClientCache
    replays: ReplayLedger
    status: StatusCache
    logins: Batcher[NewLogin, Family | None]
    revocations: Batcher[Revocation, bool]
    guesses: Batcher[Step, Decision]
    refused_guesses: RefusedGuesses
    failed_guesses: FailedGuesses
    verified_tokens: VerifiedTokens
    background: BackgroundWriter
    audit: AuditTrail
    metrics: Metrics
    epochs: "LiveEpoch"

    @property
    def keyring(self) -> Keyring:
        """The signing keys as they are now."""
        return self.keys.keyring

    @property
    def master_keys(self) -> MasterKeys:
        return self.keys.master_keys

    @property
    def epoch(self) -> int:
        """Raised by `db restored`; part of every refresh token's MAC."""
        return self.epochs.current


class LiveEpoch:
    """The epoch of refresh tokens as the database has it, read again while the process runs."""

    def __init__(self, store: Store, epoch: int) -> None:
        self._store = store
        self.current = epoch

    async def refresh(self) -> None:
        """UnavailableError when the database does not answer; then the last one stays."""
        self.current = await _read_epoch(self._store)


@contextlib.asynccontextmanager
async def open_runtime(
    settings: Settings,
    *,
    clock: Clock | None = None,
    entropy: Entropy | None = None,
    with_keys: bool = True,
    stated: frozenset[str] = frozenset(),
) -> AsyncIterator[Runtime]:
    """Open the database (migrated), the keys (made on first start) and what works on them;
    close everything at the end, pending writes first.

    `with_keys=False` is for commands that need only the database; `stated` names what a
    command was given itself (crypto/live_keys.py). Raises OperatorError for what
    the operator can mend and UnavailableError when the database does not answer.
    """
    clock = clock or SystemClock(max(_LEAST_TOLERANCE_S, settings.clock_skew_s))
    entropy = entropy or SystemEntropy()
    async with contextlib.AsyncExitStack() as stack:
        store = await open_store(settings.database_url.reveal(), now=clock.now)
        stack.push_async_callback(store.close)
        await migrations.upgrade(store)
        epoch = await _read_epoch(store)
        if with_keys:
            opened = await open_keyring(
                settings,
                now=clock.now(),
                entropy=entropy.token_bytes,
                database=await database_keys(store),
            )
            await _remember_keyring(store, opened, settings, clock.now())
        else:
            # Thrown away with the command: whatever it made under this key would be junk.
            throw_away = MasterKeys({1: entropy.token_bytes(KEY_BYTES)})
            opened = OpenedKeys(
                throw_away, Keyring.empty(), _no_key_store, is_new=False, warnings=()
            )
        metrics = Metrics()
        if settings.mode != "tool":
            store.watch(metrics)
        signing = SigningPool(helpers_for(settings.workers))
        stack.callback(signing.close)
        surroundings = Surroundings(
            settings,
            clock.now,
            clock.monotonic,
            entropy.token_bytes,
            stated,
            metrics.key_store_problem,
            signing,
        )
        status_key = await ensure_status_key(store, entropy.token_bytes)
        hasher = PasswordHasher(
            Argon2Cost(
                settings.argon2_memory_kib,
                settings.argon2_time_cost,
                settings.argon2_parallelism,
            ),
            HashCapacity(settings.password_hash_slots, settings.password_hash_queue),
            token_bytes=entropy.token_bytes,
            monotonic=clock.monotonic,
            observer=HashObserver(metrics.hash_duration, metrics.hash_wait, metrics.hash_refused),
        )
        stack.push_async_callback(hasher.close)
        background = BackgroundWriter(store, clock.monotonic, metrics.audit_dropped)
        stack.push_async_callback(background.close)
        rotations = rotation_batcher(store)
        stack.push_async_callback(rotations.close)
        logins = login_batcher(store)
        stack.push_async_callback(logins.close)
        revocations = revocation_batcher(store)
        stack.push_async_callback(revocations.close)
        guesses = step_batcher(store)
        stack.push_async_callback(guesses.close)
        status = StatusCache(store, status_key, clock.monotonic)
        stack.push_async_callback(status.close)
        yield Runtime(
            settings=settings,
            clock=clock,
            entropy=entropy,
            store=store,
            keys=LiveKeys(opened, surroundings),
            hasher=hasher,
            rotations=rotations,
            logins=logins,
            revocations=revocations,
            clients=ClientCache(store, clock.monotonic),
            replays=ReplayLedger(),
            status=status,
            guesses=guesses,
            refused_guesses=RefusedGuesses(),
            failed_guesses=FailedGuesses(),
            verified_tokens=RecentlyUsed(_VERIFIED_TOKENS),
            background=background,
            audit=AuditTrail(background),
            metrics=metrics,
            epochs=LiveEpoch(store, epoch),
        )


def _no_key_store(_master_keys: MasterKeys) -> KeyStore:
    raise AssertionError("opened without keys")


async def database_keys(store: Store) -> DatabaseKeys:
    """What a database with the current schema says of the signing keys."""
    async with store.read() as connection:
        keyring_id = await meta.get(connection, meta.KEYRING_ID)
        place = await meta.get(connection, meta.KEY_STORE)
    is_here = place == "database"
    return DatabaseKeys(keyring_id, "database" if is_here else "directory", sealed_store(store))


async def _read_epoch(store: Store) -> int:
    async with store.read() as connection:
        return int(await meta.get(connection, meta.EPOCH) or 0)


async def _remember_keyring(store: Store, opened: OpenedKeys, settings: Settings, now: int) -> None:
    """From now on this database belongs to this keyring, kept at this place: another one is
    refused at start."""
    for warning in opened.warnings:
        _log.warning("key_directory_unsafe", problem=warning)
    keyring_id, place = opened.keyring.keyring_id, settings.key_store
    known = await database_keys(store)
    if known.known_keyring_id is None:
        created = AuditEvent(
            AuditEventType.KEYRING_CREATED, at=now, actor="operator", subject=keyring_id
        )
        async with store.write() as connection:
            if await meta.insert_if_absent(connection, meta.KEYRING_ID, keyring_id):
                await meta.insert_if_absent(connection, meta.KEY_STORE, place)
                await audit.insert_events(connection, [created])
        known = await database_keys(store)
    if (known.known_keyring_id, known.place) != (keyring_id, place):
        # Two first starts at once, each with keys of its own.
        raise OperatorError(
            f"The database belongs to keyring {known.known_keyring_id} in the {known.place}, not "
            f"to {keyring_id}: every instance needs the same KEY_STORE and KEYS_DIR."
        )
