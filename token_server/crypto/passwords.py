"""Password hashing: Argon2id (RFC 9106) in a bounded pool of threads with a bounded queue.

Beyond the queue callers are told to come back, so a flood of logins costs at most `slots` times
the memory of one hash and never blocks the event loop. An unknown user and a damaged stored hash
cost one hash with today's parameters; a cheaper old one is padded to the same work. A dearer old
one (the operator lowered them) costs its own time until its owner's next login: levelling up to
it would keep every login as slow as before. Passwords come normalised (core/password_policy.py).
"""

import asyncio
import base64
import binascii
import contextlib
import hmac
import math
import re
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from argon2.exceptions import HashingError
from argon2.low_level import ARGON2_VERSION, Type, hash_secret, hash_secret_raw

from token_server.errors import UnavailableError
from token_server.records import Secret

T = TypeVar("T")

_SALT_BYTES = 16
_TAG_BYTES = 32
_DUMMY_SALT = bytes(_SALT_BYTES)
# A stored hash that asks for more is refused before any work: one row must not stop the server.
_MAX_MEMORY_KIB = 256 * 1024
_MAX_TIME_COST = 10
_MAX_PARALLELISM = 16
_QUEUE_PER_SLOT = 32
_MAX_RETRY_AFTER_S = 30
_MEAN_WEIGHT = 0.1  # of the newest measurement

_PHC = re.compile(
    rf"\$argon2id\$v={ARGON2_VERSION}"
    r"\$m=([1-9][0-9]{0,9}),t=([1-9][0-9]{0,9}),p=([1-9][0-9]{0,9})"
    r"\$([A-Za-z0-9+/]{11,86})\$([A-Za-z0-9+/]{22,86})",  # salt 8 to 64, tag 16 to 64 bytes
    re.ASCII,
)


@dataclass(frozen=True, slots=True)
class Argon2Cost:
    memory_kib: int
    time_cost: int
    parallelism: int


@dataclass(frozen=True, slots=True)
class HashCapacity:
    """How many hash at once (best no wider than the cores) and how many may wait for it."""

    slots: int
    queue: int

    @classmethod
    def of_slots(cls, slots: int) -> "HashCapacity":
        """The usual queue: about a second of waiting at the default cost."""
        return cls(slots, slots * _QUEUE_PER_SLOT)


@dataclass(frozen=True, slots=True)
class Verification:
    """`unusable`: the stored hash could not be read or exceeds the ceiling; worth an alarm."""

    ok: bool
    needs_rehash: bool = False
    unusable: bool = False


@dataclass(frozen=True, slots=True)
class _StoredHash:
    cost: Argon2Cost
    salt: bytes
    tag: bytes


class PasswordHasher:
    """Hashes and verifies for one event loop."""

    def __init__(
        self,
        cost: Argon2Cost,
        capacity: HashCapacity,
        *,
        token_bytes: Callable[[int], bytes],
        monotonic: Callable[[], float],
        observe: Callable[[float], None] | None = None,
    ) -> None:
        """`observe` is told the seconds that each job took."""
        if capacity.slots < 1:
            raise ValueError("at least one slot is needed")
        self._cost = cost
        self._capacity = capacity
        self._token_bytes = token_bytes
        self._monotonic = monotonic
        self._observe = observe
        self._executor = ThreadPoolExecutor(capacity.slots, thread_name_prefix="argon2")
        self._taken = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._mean_s = 0.0
        self._is_closed = False

    @property
    def queue_depth(self) -> int:
        """How many callers wait for a slot; the running ones are not counted."""
        return len(self._waiting)

    async def hash(self, password: Secret[str]) -> Secret[str]:
        """The PHC text to store. UnavailableError when the queue is full or the server closes."""
        salt = self._token_bytes(_SALT_BYTES)
        return Secret(await self._run(lambda: _hash(password, salt, self._cost)))

    async def verify(self, stored: Secret[str] | None, password: Secret[str]) -> Verification:
        """Whether the password is the stored one; `stored` None (unknown user) is a plain no.

        UnavailableError as for `hash`: never to be answered like a wrong password.
        """
        return await self._run(lambda: _verify(stored, password, self._cost))

    async def close(self) -> None:
        """Fails those who wait with UnavailableError and returns when the running jobs ended."""
        self._is_closed = True
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_exception(UnavailableError("shutting_down"))
        await asyncio.to_thread(self._executor.shutdown)

    async def _run(self, job: Callable[[], T]) -> T:
        await self._take_slot()
        if self._is_closed:  # since the turn was given
            self._release_slot()
            raise UnavailableError("shutting_down")
        started = self._monotonic()
        running = asyncio.get_running_loop().run_in_executor(self._executor, job)

        def finish(done: asyncio.Future[T]) -> None:
            self._release_slot()
            self._measure(self._monotonic() - started)
            done.exception()  # read here too: after a cancellation nobody else does

        running.add_done_callback(finish)
        # A thread cannot be stopped: whoever goes away leaves the slot taken until the job ends.
        return await asyncio.shield(running)

    async def _take_slot(self) -> None:
        if self._taken < self._capacity.slots:
            self._taken += 1
            return
        if len(self._waiting) >= self._capacity.queue:
            raise UnavailableError("hash_queue_full", self._retry_after_s())
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                with contextlib.suppress(ValueError):  # a slot may have passed over it already
                    self._waiting.remove(turn)
            elif turn.exception() is None:  # got the slot and was cancelled in the same moment
                self._release_slot()
            raise

    def _release_slot(self) -> None:
        """Passes the slot on to the one who waits longest, who need not take it again."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._taken -= 1

    def _measure(self, seconds: float) -> None:
        if self._mean_s == 0.0:
            self._mean_s = seconds
        self._mean_s += _MEAN_WEIGHT * (seconds - self._mean_s)
        if self._observe is not None:
            self._observe(seconds)

    def _retry_after_s(self) -> int:
        wait_s = self._mean_s * (self._taken + len(self._waiting)) / self._capacity.slots
        return min(max(1, math.ceil(wait_s)), _MAX_RETRY_AFTER_S)


def _hash(password: Secret[str], salt: bytes, cost: Argon2Cost) -> str:
    try:
        return hash_secret(
            _encode(password),
            salt,
            time_cost=cost.time_cost,
            memory_cost=cost.memory_kib,
            parallelism=cost.parallelism,
            hash_len=_TAG_BYTES,
            type=Type.ID,
        ).decode("ascii")
    except HashingError as error:  # no memory for it, in all likelihood
        raise UnavailableError("hash_failed") from error


def _verify(stored: Secret[str] | None, password: Secret[str], current: Argon2Cost) -> Verification:
    parsed = None if stored is None else _parse(stored.reveal(), current)
    if parsed is None:
        _tag(password, _DUMMY_SALT, current, _TAG_BYTES)
        return Verification(ok=False, unusable=stored is not None)
    tag = _tag(password, parsed.salt, parsed.cost, len(parsed.tag))
    ok = hmac.compare_digest(tag, parsed.tag)
    _pad(password, parsed.cost, current)
    is_current = (parsed.cost, len(parsed.salt), len(parsed.tag)) == (
        current,
        _SALT_BYTES,
        _TAG_BYTES,
    )
    return Verification(ok=ok, needs_rehash=not is_current)


def _pad(password: Secret[str], spent: Argon2Cost, current: Argon2Cost) -> None:
    """Spends what a cheaper hash left over: work is memory x passes.

    Time follows work only roughly (small memories fit the CPU's caches: measured up to 15 % less),
    until the rehash at the owner's next login makes it exact.
    """
    left_kib = current.memory_kib - spent.memory_kib * spent.time_cost // current.time_cost
    if left_kib >= 8 * current.parallelism:  # the least that Argon2 takes (RFC 9106 §3.1)
        cost = Argon2Cost(left_kib, current.time_cost, current.parallelism)
        _tag(password, _DUMMY_SALT, cost, _TAG_BYTES)


def _tag(password: Secret[str], salt: bytes, cost: Argon2Cost, length: int) -> bytes:
    try:
        return hash_secret_raw(
            _encode(password),
            salt,
            time_cost=cost.time_cost,
            memory_cost=cost.memory_kib,
            parallelism=cost.parallelism,
            hash_len=length,
            type=Type.ID,
        )
    except HashingError as error:
        raise UnavailableError("hash_failed") from error


def _parse(text: str, current: Argon2Cost) -> _StoredHash | None:
    """Reads a PHC text; None for damage, another scheme, or a cost beyond the ceiling."""
    match = _PHC.fullmatch(text)
    if match is None:
        return None
    memory_kib, time_cost, parallelism = (int(match[group]) for group in (1, 2, 3))
    # Today's own parameters are always within: the operator chose them.
    if (
        memory_kib > max(_MAX_MEMORY_KIB, current.memory_kib)
        or time_cost > max(_MAX_TIME_COST, current.time_cost)
        or parallelism > max(_MAX_PARALLELISM, current.parallelism)
        or memory_kib < 8 * parallelism
    ):
        return None
    try:
        salt, tag = (_unpadded_base64(match[group]) for group in (4, 5))
    except binascii.Error:
        return None
    return _StoredHash(Argon2Cost(memory_kib, time_cost, parallelism), salt, tag)


def _unpadded_base64(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)


def _encode(password: Secret[str]) -> bytes:
    # Lone surrogates can arrive at a login only, where they are simply wrong: not an error.
    return password.reveal().encode("utf-8", "surrogatepass")
