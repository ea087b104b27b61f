"""The keys of a running process: what was read last, signing with it, and every change to it.

Reads its store again when somebody else has changed it, and keeps what it has in memory while the
store is away, for at most half of KEY_LEAD: beyond that another instance may have rotated, and
signing stops (I3). Before a token lives beyond what the store knows of its key, the store is told
(I4). All changes go through `change`: decided, judged, made by compare-and-set (I5).
"""

import asyncio
import contextlib
import itertools
from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace

import msgspec

from token_server.config import Settings
from token_server.core.key_changes import (
    Change,
    Decision,
    NewKey,
    Refused,
    Situation,
    Step,
    StepKind,
    Unchanged,
    Violation,
)
from token_server.core.key_invariants import violations
from token_server.core.key_policy import KeyPolicy, Serving
from token_server.core.key_rotation import cover
from token_server.core.key_store import KeyStore
from token_server.crypto.keyring import Keyring
from token_server.crypto.keystore import problems_error
from token_server.crypto.opening import (
    OpenedKeys,
    key_policy,
    key_problems,
    make_key,
    read_master_keys,
    unlock,
)
from token_server.crypto.private_files import EntropySource
from token_server.crypto.rewrapping import rewrapped
from token_server.crypto.rsa_keys import KeyUnusableError
from token_server.crypto.secrets import MasterKeys, version_of
from token_server.errors import OperatorError, UnavailableError
from token_server.logs import get_logger
from token_server.records import SigningKey, StoredKey, StoredKeyring

_log = get_logger(__name__)

Decide = Callable[[Situation], Decision]

_ATTEMPTS = 8  # at one change; each lost one means that another was made
_RETRY_AFTER_S = 5
_LEAST_PAUSE_S = 1.0  # between two attempts to read a store that signing waits for


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What live keys need of the process around them."""

    settings: Settings
    now: Callable[[], int]
    monotonic: Callable[[], float]
    entropy: EntropySource
    stated: frozenset[str] = frozenset()  # what a command was told: KeyPolicy fields, key_bits


@dataclass(frozen=True, slots=True)
class Changed:
    """A change that was made: its steps name the new keys, and `forced` the rules it broke."""

    generation: int
    steps: tuple[Step, ...]
    forced: tuple[Violation, ...]


Outcome = Changed | Unchanged | Refused


@dataclass(frozen=True, slots=True)
class Proposal:
    """What a decision would do to the keyring as it is stored now."""

    situation: Situation
    decision: Decision
    violations: tuple[Violation, ...]


class LiveKeys:
    """The keyring and the master keys of this process, as they are now."""

    def __init__(self, opened: OpenedKeys, surroundings: Surroundings) -> None:
        self._around = surroundings
        self._store_for = opened.store_for
        self._keyring = opened.keyring
        self._master_keys = opened.master_keys
        self._mark: Hashable = None
        self._serving: Serving | None = None
        self._own_policy = key_policy(surroundings.settings)
        self._confirmed_at = surroundings.monotonic()
        self._tried_at = float("-inf")
        self._furthest_exp = 0
        self._problem: str | None = None
        self._lock = asyncio.Lock()

    @property
    def keyring(self) -> Keyring:
        return self._keyring

    @property
    def master_keys(self) -> MasterKeys:
        return self._master_keys

    @property
    def store(self) -> KeyStore:
        """Where they rest, read under the master keys as they are now."""
        return self._store_for(self._master_keys)

    @property
    def problem(self) -> str | None:
        """Why the store could not be read or written the last time; None while all is well."""
        return self._problem

    @property
    def age_s(self) -> float:
        """Since when the keys in memory are not confirmed."""
        return self._around.monotonic() - self._confirmed_at

    @property
    def is_stale(self) -> bool:
        """Whether signing has stopped because the keys could not be read for too long (I3)."""
        return self.age_s > self._own_policy.max_age_s

    @property
    def policy(self) -> KeyPolicy:
        """What is planned by. A command plans with that of the processes that serve these keys,
        but for what was stated to it."""
        if self._around.settings.mode != "tool" or self._serving is None:
            return self._own_policy
        names = self._around.stated - {"key_bits"}
        stated = {name: getattr(self._own_policy, name) for name in names}
        return replace(self._serving.policy, **stated)

    def situation(self) -> Situation:
        """What decisions would look at, from memory."""
        keyring = self._keyring
        return Situation(
            keys=keyring.keys,
            usable=frozenset(keyring.signers),
            now=self._around.now(),
            policy=self.policy,
            serving=self._serving,
        )

    async def sign_compact(
        self, typ: str, payload: bytes, *, now: int, expires_at: int
    ) -> tuple[str, str]:
        """As `Keyring.sign_compact`, for a token that lives until `expires_at`.

        UnavailableError when no key may sign: none is active, the keys are too old to be trusted,
        or the store cannot be told how long the token lives.
        """
        if self.is_stale:
            await self._refresh_or_refuse()
        for _ in range(_ATTEMPTS):
            kid = self._keyring.signer(now).kid
            if expires_at <= self._keyring.covered_until(kid):
                self._furthest_exp = max(self._furthest_exp, expires_at)
                return self._keyring.sign_compact(typ, payload, now)
            await self._cover(kid, expires_at)
        raise UnavailableError("keyring_unsettled", retry_after_s=_RETRY_AFTER_S)

    async def look(self) -> None:
        """See whether the store has changed, and read it if so. Cheap when it has not."""
        try:
            mark = await self.store.peek()
        except (OperatorError, UnavailableError):
            return  # the next refresh says why
        if mark != self._mark:
            await self.refresh()

    async def refresh(self) -> bool:
        """Read master keys and keyring again; False, with `problem` saying why, when they cannot
        be had or are not what they were: then the ones in memory stay."""
        async with self._lock:
            self._tried_at = self._around.monotonic()
            try:
                await self._read_again()
            except (OperatorError, UnavailableError) as error:
                self._note_problem(str(error))
                return False
            self._note_problem(None)
            return True

    async def keep_covered(self) -> None:
        """Raise the high-water mark ahead of need, so that no token waits for it."""
        signing = self.situation().signing
        if signing is None or not self._furthest_exp:
            return
        mark = self._keyring.covered_until(signing.kid)
        if self._furthest_exp > mark - self._own_policy.head_room_s // 2:
            kid, until = signing.kid, max(mark + 1, self._furthest_exp)
            await self.change(lambda situation: cover(situation, kid, until))

    async def record_serving(self) -> None:
        """Leave word that this process serves the keyring, and by which policy."""
        serving = Serving(self._around.now(), self._own_policy)
        await self.store.record_serving(serving)
        self._serving = serving

    async def propose(self, decide: Decide) -> Proposal:
        """What `decide` would do, without doing it."""
        stored = await self._load()
        situation = await self._situation_of(stored)
        decision = decide(situation)
        broken = violations(situation, decision) if isinstance(decision, Change) else ()
        return Proposal(situation, decision, broken)

    async def change(
        self,
        decide: Decide,
        *,
        force: bool = False,
        ready: tuple[StoredKey, ...] = (),
        master_version: int | None = None,
    ) -> Outcome:
        """Decide on what is stored now, and make it so. Decides anew when another was faster.

        `ready` are the new keys that `decide` asks for, if they exist already (an import);
        `master_version` moves everything under that version of the master key. Refused when the
        change would break a rule, unless forced. OperatorError when the store cannot be read or
        refuses to be written: then nothing has changed.
        """
        made = list(ready)
        async with self._lock:
            for _ in range(_ATTEMPTS):
                stored = await self._load()
                situation = await self._situation_of(stored)
                decision = decide(situation)
                if not isinstance(decision, Change):
                    return decision
                broken = violations(situation, decision)
                if broken and not force:
                    return Refused(broken)
                master_keys = self._master_keys.using(
                    master_version or version_of(stored.master_key_check)
                )
                made = await self._make(decision.new_keys, made, master_keys, situation.now)
                keyring = _apply(stored, decision, made)
                if master_version is not None:
                    keyring = await asyncio.to_thread(_moved, keyring, master_keys)
                if await self.store.replace(keyring, stored.generation):
                    await self._adopt(keyring, master_keys)
                    return Changed(keyring.generation, _named(decision.steps, made), broken)
        raise OperatorError("the keys were changed by others all the time: try again", exit_code=5)

    async def _load(self) -> StoredKeyring:
        stored = await self.store.load()
        if stored is None or stored.keyring_id != self._keyring.keyring_id:
            raise OperatorError("the signing keys are gone, or others have taken their place")
        return stored

    async def _situation_of(self, stored: StoredKeyring) -> Situation:
        self._serving = await self.store.last_serving()
        return Situation(
            keys=tuple(entry.key for entry in stored.keys),
            usable=frozenset(
                entry.key.kid for entry in stored.keys if entry.master_version is not None
            ),
            now=self._around.now(),
            policy=self.policy,
            serving=self._serving,
        )

    async def _make(
        self, wanted: tuple[NewKey, ...], made: list[StoredKey], master_keys: MasterKeys, now: int
    ) -> list[StoredKey]:
        """One key for each wanted one; what is ready or a lost attempt made is used."""
        if [entry.key.activate_at for entry in made] == [new.activate_at for new in wanted]:
            return made
        settings = self._settings_for_new_keys()
        return [
            await asyncio.to_thread(make_key, master_keys, settings, new, now) for new in wanted
        ]

    def _settings_for_new_keys(self) -> Settings:
        """A command that was not told KEY_BITS makes keys as large as the newest one: in a shell
        without the server's settings it would shrink them unnoticed."""
        around = self._around
        if around.settings.mode != "tool" or "key_bits" in around.stated:
            return around.settings
        newest = max(self._keyring.keys, key=lambda key: key.created_at)
        return msgspec.structs.replace(around.settings, key_bits=newest.bits)

    async def _read_again(self) -> None:
        settings = self._around.settings
        problems = await asyncio.to_thread(key_problems, settings)
        if problems:
            raise problems_error(problems)
        master_keys = await asyncio.to_thread(read_master_keys, settings)
        store = self._store_for(master_keys)
        mark = await store.peek()
        stored = await store.load()
        if stored is None:
            raise OperatorError("the signing keys are gone")
        if stored.keyring_id != self._keyring.keyring_id:
            raise OperatorError("another keyring has taken the place of this one")
        if stored.generation < self._keyring.generation:
            raise OperatorError("the signing keys are older than those in memory")
        if stored.generation == self._keyring.generation and _is_fork(stored, self._keyring):
            raise OperatorError("a backup of the signing keys was put back: restart the server")
        # Which version is in use is the keyring's to say: all instances move at the same change.
        master_keys = master_keys.using(version_of(stored.master_key_check))
        if stored.generation != self._keyring.generation:
            await self._adopt(stored, master_keys)
        self._master_keys = master_keys
        self._mark = mark
        self._confirmed_at = self._around.monotonic()

    async def _adopt(self, stored: StoredKeyring, master_keys: MasterKeys) -> None:
        self._keyring = await asyncio.to_thread(
            unlock, stored, master_keys, self.store, self._keyring.signers
        )
        self._master_keys = master_keys
        self._confirmed_at = self._around.monotonic()

    async def _refresh_or_refuse(self) -> None:
        if self._lock.locked():  # the store is being read: what comes of it holds for all
            await self._wait_for_others()
        if self.is_stale and self._around.monotonic() - self._tried_at > _LEAST_PAUSE_S:
            await self.refresh()
        if self.is_stale:
            raise UnavailableError("keyring_stale", retry_after_s=_RETRY_AFTER_S)

    async def _wait_for_others(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_RETRY_AFTER_S), self._lock:
                pass

    async def _cover(self, kid: str, expires_at: int) -> None:
        try:
            await self.change(lambda situation: cover(situation, kid, expires_at))
        except (OperatorError, UnavailableError) as error:
            self._note_problem(str(error))
            raise UnavailableError("key_store_unwritable", retry_after_s=_RETRY_AFTER_S) from None
        if expires_at > self._keyring.covered_until(kid):
            await self.refresh()  # another key signs by now

    def _note_problem(self, problem: str | None) -> None:
        if problem == self._problem:
            return
        self._problem = problem
        if problem is None:
            _log.info("signing_keys_readable_again")
        else:
            _log.warning("signing_keys_unreadable", problem=problem)


def _moved(keyring: StoredKeyring, master_keys: MasterKeys) -> StoredKeyring:
    try:
        return rewrapped(keyring, master_keys)
    except KeyUnusableError as err:
        raise OperatorError(f"a private key cannot be read: {err}") from None


def _is_fork(stored: StoredKeyring, keyring: Keyring) -> bool:
    return {entry.key for entry in stored.keys} != set(keyring.keys)


def _apply(stored: StoredKeyring, change: Change, made: list[StoredKey]) -> StoredKeyring:
    held = {entry.key.kid: entry for entry in stored.keys}
    kept = (_with_record(held[key.kid], key, change.erased) for key in change.keys)
    return replace(stored, generation=stored.generation + 1, keys=(*kept, *made))


def _with_record(entry: StoredKey, key: SigningKey, erased: frozenset[str]) -> StoredKey:
    if key.kid in erased:
        return StoredKey(key, None, None)
    return replace(entry, key=key)


def _named(steps: tuple[Step, ...], made: list[StoredKey]) -> tuple[Step, ...]:
    kids = itertools.chain((entry.key.kid for entry in made), itertools.repeat(None))
    return tuple(
        replace(step, kid=next(kids)) if step.kind is StepKind.MADE else step for step in steps
    )
