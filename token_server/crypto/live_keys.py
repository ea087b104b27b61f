"""The keys of a running process: what was read last, signing with it, and every change to it.

Reads its store again when somebody else has changed it, and keeps what it has in memory while the
store is away, for at most half of KEY_LEAD: beyond that another instance may have rotated, and
signing stops (I3). Before a token lives beyond what the store knows of its key, the store is told
(I4). All changes go through `change`: decided, judged, made by compare-and-set (I5).
"""

import asyncio
import contextlib
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, replace
from functools import partial

from token_server.config import Settings
from token_server.core.key_changes import (
    Change,
    Decision,
    NewKey,
    Refused,
    Situation,
    Step,
    Unchanged,
    Violation,
)
from token_server.core.key_invariants import violations
from token_server.core.key_policy import KeyPolicy, Serving
from token_server.core.key_rotation import cover
from token_server.core.key_store import KeyStore
from token_server.crypto.applying import (
    ChangeTask,
    applied,
    as_large_as_newest,
    moved,
    named,
    require_successor,
)
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
from token_server.crypto.secrets import MasterKeys, version_of
from token_server.crypto.signing_pool import SigningPool
from token_server.crypto.store_problems import StoreOperation, StoreProblems
from token_server.crypto.whole import whole
from token_server.errors import OperatorError, UnavailableError
from token_server.records import StoredKey, StoredKeyring

Decide = Callable[[Situation], Decision]

_ATTEMPTS = 8  # at one change; each lost one means that another was made
_RETRY_AFTER_S = 5
_LEAST_PAUSE_S = 1.0  # between two attempts at a store that signing waits for


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What live keys need of the process around them."""

    settings: Settings
    now: Callable[[], int]
    monotonic: Callable[[], float]
    entropy: EntropySource
    stated: frozenset[str] = frozenset()  # what a command was told: KeyPolicy fields, key_bits
    count_problem: Callable[[StoreOperation], None] = lambda _operation: None
    signing: SigningPool = field(default_factory=SigningPool)


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
        self._read = opened.keyring  # as it was stored the last time that it was seen
        self._keyring = opened.keyring  # as it is acted on
        self._master_keys = opened.master_keys
        self._mark: Hashable = None
        self._serving: Serving | None = None
        self._own_policy = key_policy(surroundings.settings)
        self._confirmed_at = self._instant()
        self._tried_at = (float("-inf"), 0.0)
        self._not_covered_at = float("-inf")
        self._furthest_exp = ("", 0)
        self._problems = StoreProblems(surroundings.count_problem)
        self._lock = asyncio.Lock()  # one at a time reads the store or changes it
        self._covering = asyncio.Lock()

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
        """Why the store could not be read the last time; None while all is well."""
        return self._problems.get("read")

    @property
    def write_problem(self) -> str | None:
        """Why the store could not be written the last time; None while all is well."""
        return self._problems.get("write")

    @property
    def age_s(self) -> float:
        """Since when the keys in memory are not confirmed. Time in which the machine slept, which
        the monotonic clock leaves out, counts as well."""
        return self._elapsed_s(self._confirmed_at)

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
        instant = now
        for _ in range(_ATTEMPTS):
            keyring = self._keyring
            if not keyring.signs_at(instant):
                # The only key that signs begins at an instant of another clock, which may be ahead
                # of ours: an instance that made the first key, or replaced a compromised one.
                instant += self._own_policy.clock_skew_s
            kid = keyring.signer(instant).kid
            if expires_at <= keyring.covered_until(kid):
                furthest = self._furthest_exp
                if kid != furthest[0] or expires_at > furthest[1]:
                    self._furthest_exp = (kid, expires_at)
                return await self._around.signing.run(
                    partial(keyring.sign_compact, typ, payload, instant)
                )
            async with self._covering:  # who waits here together shares one write, or its failure
                if self._keyring is keyring:
                    await self._cover(kid, expires_at)
            instant = max(now, self._around.now())  # the switch may be what was waited for
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
            self._tried_at = self._instant()
            try:
                with self._problems.watching("read"):
                    await self._read_again()
            except (OperatorError, UnavailableError):
                return False
            return True

    async def keep_covered(self) -> None:
        """Raise the high-water mark ahead of need, so that no token waits for it."""
        signing = self.situation().signing
        kid, furthest_exp = self._furthest_exp
        if signing is None or signing.kid != kid:
            return
        mark = self._keyring.covered_until(kid)
        if furthest_exp > mark - self._own_policy.head_room_s // 2:
            until = max(mark + 1, furthest_exp)
            await self.change(lambda situation: cover(situation, kid, until))

    async def record_serving(self) -> None:
        """Leave word that this process serves the keyring, and by which policy."""
        serving = Serving(self._around.now(), self._own_policy)
        with self._problems.watching("write"):
            await self.store.record_serving(serving)
        self._serving = serving

    def assume(self, decide: Decide) -> None:
        """Act on a change of dates that the store could not take, in memory, until it can be read
        in another generation. What would need a new key or break a rule is not assumed."""
        situation = self.situation()
        decision = decide(situation)
        if not isinstance(decision, Change) or decision.new_keys or decision.erased:
            return
        if not violations(situation, decision):
            self._keyring = self._keyring.with_records(decision.keys)

    async def propose(self, decide: Decide) -> Proposal:
        """What `decide` would do, without doing it."""
        situation = await self._situation_of(await self._load())
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
        refuses to be written: then nothing has changed. A cancellation waits for the end of it.
        """
        return await whole(self._change(ChangeTask(decide, force, master_version, list(ready))))

    async def _change(self, task: ChangeTask) -> Outcome:
        for _ in range(_ATTEMPTS):
            async with self._lock:
                outcome = await self._attempt(task)
            if outcome is not None:
                return outcome
            if task.master_keys is not None and task.lacks_keys:
                # Not under the lock: a large key takes seconds, and signing may wait for it.
                task.made = [
                    await asyncio.to_thread(self._make_key, task.master_keys) for _ in task.wanted
                ]
        raise OperatorError("the keys were changed by others all the time: try again", exit_code=5)

    async def _attempt(self, task: ChangeTask) -> Outcome | None:
        """None when keys must be made first, or another change was faster."""
        seen_at = self._instant()
        stored = await self._load()
        situation = await self._situation_of(stored)
        decision = task.decide(situation)
        if not isinstance(decision, Change):
            return decision
        broken = violations(situation, decision)
        if broken and not task.force:
            return Refused(broken)
        version = task.master_version or version_of(stored.master_key_check)
        master_keys = self._master_keys.using(version)
        made = task.new_keys(decision, master_keys, situation)
        if made is None:
            return None
        keyring = applied(stored, decision, made)
        if task.master_version is not None:
            keyring = await asyncio.to_thread(moved, keyring, master_keys)
        with self._problems.watching("write"):
            if not await self.store.replace(keyring, stored.generation):
                return None
        self._adopt(await self._unlocked(keyring, master_keys), master_keys, seen_at)
        return Changed(keyring.generation, named(decision.steps, made), broken)

    def _make_key(self, master_keys: MasterKeys) -> StoredKey:
        settings = self._around.settings
        if settings.mode == "tool" and "key_bits" not in self._around.stated:
            settings = as_large_as_newest(settings, self._read)
        return make_key(master_keys, settings, NewKey(), self._around.now())

    async def _load(self) -> StoredKeyring:
        return require_successor(await self.store.load(), self._read)

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

    async def _read_again(self) -> None:
        seen_at, settings = self._instant(), self._around.settings
        problems = await asyncio.to_thread(key_problems, settings)
        if problems:
            raise problems_error(problems)
        master_keys = await asyncio.to_thread(read_master_keys, settings)
        store = self._store_for(master_keys)
        mark = await store.peek()
        stored = require_successor(await store.load(), self._read)
        # Which version is in use is the keyring's to say: all instances move at the same change.
        master_keys = master_keys.using(version_of(stored.master_key_check))
        keyring = None
        if stored.generation != self._read.generation:
            keyring = await self._unlocked(stored, master_keys)
        self._adopt(keyring, master_keys, seen_at)
        self._mark = mark

    async def _unlocked(self, stored: StoredKeyring, master_keys: MasterKeys) -> Keyring:
        store, known = self._store_for(master_keys), self._keyring.signers
        return await asyncio.to_thread(unlock, stored, master_keys, store, known)

    def _adopt(
        self, keyring: Keyring | None, master_keys: MasterKeys, seen_at: tuple[float, float]
    ) -> None:
        """All together, or nothing if something was wrong. No keyring: it is as before."""
        if keyring is not None:
            self._read = self._keyring = keyring
        self._master_keys = master_keys
        self._confirmed_at = seen_at

    async def _refresh_or_refuse(self) -> None:
        if self._lock.locked():  # the store is being read: what comes of it holds for all
            await self._wait_for_others()
        if self.is_stale and self._elapsed_s(self._tried_at) > _LEAST_PAUSE_S:
            await self.refresh()
        if self.is_stale:
            raise UnavailableError("keyring_stale", retry_after_s=_RETRY_AFTER_S)

    async def _wait_for_others(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_RETRY_AFTER_S), self._lock:
                pass

    async def _cover(self, kid: str, expires_at: int) -> None:
        if self._around.monotonic() - self._not_covered_at < _LEAST_PAUSE_S:
            raise UnavailableError("key_store_unwritable", retry_after_s=_RETRY_AFTER_S)
        before = self._keyring
        try:
            await self.change(lambda situation: cover(situation, kid, expires_at))
        except (OperatorError, UnavailableError):
            self._not_covered_at = self._around.monotonic()
            raise UnavailableError("key_store_unwritable", retry_after_s=_RETRY_AFTER_S) from None
        if self._keyring is before:
            await self.refresh()  # another key signs by now, or another instance was faster

    def _instant(self) -> tuple[float, float]:
        return self._around.monotonic(), float(self._around.now())

    def _elapsed_s(self, since: tuple[float, float]) -> float:
        monotonic, wall = self._instant()
        return max(monotonic - since[0], wall - since[1])
