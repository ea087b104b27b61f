"""Password hashing: Argon2id (RFC 9106) in a bounded pool of threads behind a bounded queue.

A flood of logins costs at most `slots` times the memory of one hash and never blocks the event
loop (hash_queue.py). An unknown user and a damaged stored hash cost one hash with today's
parameters; a cheaper old one is padded to the same work. A dearer old one, or one that only
argon2-cffi computes (argon2id.py), costs its own time until its owner's next login: levelling up
would keep every login as slow. Passwords come normalised (core/password_policy.py).
"""

import asyncio
import contextlib
import hmac
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TypeVar

from token_server.crypto.argon2id import (
    SALT_BYTES,
    TAG_BYTES,
    Argon2Cost,
    StoredHash,
    derive,
    format_phc,
    parse_phc,
)
from token_server.crypto.hash_queue import Asker, HashCapacity, HashQueue, Place
from token_server.records import Secret

T = TypeVar("T")

_DUMMY_SALT = bytes(SALT_BYTES)
# A stored hash that asks for more is refused before any work: one row must not stop the server.
_MAX_MEMORY_KIB = 256 * 1024
_MAX_TIME_COST = 10
_MAX_PARALLELISM = 16
_NICENESS = 10  # the figures are in docs/benchmarks.md


@dataclass(frozen=True, slots=True)
class Verification:
    """`unusable`: the stored hash could not be read or exceeds the ceiling; worth an alarm."""

    ok: bool
    needs_rehash: bool = False
    unusable: bool = False


def _ignore(_value: object) -> None:
    pass


@dataclass(frozen=True, slots=True)
class HashObserver:
    """Who wants to know: the seconds of each job and of its wait, the reason of each refusal."""

    duration: Callable[[float], None] = _ignore
    wait: Callable[[float], None] = _ignore
    refused: Callable[[str], None] = _ignore


class PasswordHasher:
    """Hashes and verifies for one event loop."""

    def __init__(
        self,
        cost: Argon2Cost,
        capacity: HashCapacity,
        *,
        token_bytes: Callable[[int], bytes],
        monotonic: Callable[[], float],
        observer: HashObserver | None = None,
    ) -> None:
        self._cost = cost
        self._token_bytes = token_bytes
        self._monotonic = monotonic
        self._observer = observer or HashObserver()
        self._queue = HashQueue(capacity, self._observer.refused)
        self._executor = ThreadPoolExecutor(
            capacity.slots, thread_name_prefix="argon2", initializer=_give_way
        )

    @property
    def queue_depth(self) -> int:
        """How many callers wait for a slot; the running ones are not counted."""
        return self._queue.depth

    def place(self, asker: Asker) -> AbstractContextManager[Place]:
        """A place in the queue, for whoever has work to do before the hash, so that nothing is
        done for what cannot be looked at. UnavailableError at once when there is none."""
        return self._queue.place(asker)

    async def hash(self, password: Secret[str], place: Place | None = None) -> Secret[str]:
        """The PHC text to store. UnavailableError when the queue is full or the server closes."""
        salt = self._token_bytes(SALT_BYTES)
        return Secret(await self._run(lambda: _hash(password, salt, self._cost), place))

    async def verify(
        self, stored: Secret[str] | None, password: Secret[str], place: Place | None = None
    ) -> Verification:
        """Whether the password is the stored one; `stored` None (unknown user) is a plain no.

        UnavailableError as for `hash`: never to be answered like a wrong password.
        """
        return await self._run(lambda: _verify(stored, password, self._cost), place)

    async def close(self) -> None:
        """Fails those who wait with UnavailableError and returns when the running jobs ended."""
        self._queue.close()
        await asyncio.to_thread(self._executor.shutdown)

    async def _run(self, job: Callable[[], T], place: Place | None) -> T:
        if place is not None:
            return await self._run_in_turn(job, place)
        with self.place(Asker()) as own:
            return await self._run_in_turn(job, own)

    async def _run_in_turn(self, job: Callable[[], T], place: Place) -> T:
        asked = self._monotonic()
        await self._queue.take_slot(place)
        started = self._monotonic()
        self._observer.wait(started - asked)
        running = asyncio.get_running_loop().run_in_executor(self._executor, job)

        def finish(done: asyncio.Future[T]) -> None:
            self._queue.release_slot()
            seconds = self._monotonic() - started
            self._queue.learn_duration(seconds)
            self._observer.duration(seconds)
            done.exception()  # read here too: after a cancellation nobody else does

        running.add_done_callback(finish)
        # A thread cannot be stopped: whoever goes away leaves the slot taken until the job ends.
        return await asyncio.shield(running)


def _give_way() -> None:
    """Lets the event loop run first where cores are short: a login can wait, all else cannot.

    Linux has a priority for each thread; elsewhere it would be that of the whole process.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError):  # a sandbox that forbids it: slower, not broken
            own = os.getpriority(os.PRIO_PROCESS, 0)
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), own + _NICENESS)


def _hash(password: Secret[str], salt: bytes, cost: Argon2Cost) -> str:
    tag = derive(_encode(password), salt, cost, TAG_BYTES)
    return format_phc(StoredHash(cost, salt, tag))


def _verify(stored: Secret[str] | None, password: Secret[str], current: Argon2Cost) -> Verification:
    parsed = None if stored is None else _parse(stored.reveal(), current)
    typed = _encode(password)
    if parsed is None:
        derive(typed, _DUMMY_SALT, current, TAG_BYTES)
        return Verification(ok=False, unusable=stored is not None)
    tag = derive(typed, parsed.salt, parsed.cost, len(parsed.tag))
    ok = hmac.compare_digest(tag, parsed.tag)
    _pad(typed, parsed.cost, current)
    is_current = (parsed.cost, len(parsed.salt), len(parsed.tag)) == (
        current,
        SALT_BYTES,
        TAG_BYTES,
    )
    return Verification(ok=ok, needs_rehash=not is_current)


def _pad(typed: bytes, spent: Argon2Cost, current: Argon2Cost) -> None:
    """Spends what a cheaper hash left over: work is memory x passes.

    Time follows work only roughly (small memories fit the CPU's caches: measured up to 15 % less),
    until the rehash at the owner's next login makes it exact.
    """
    left_kib = current.memory_kib - spent.memory_kib * spent.time_cost // current.time_cost
    if left_kib >= 8 * current.parallelism:  # the least that Argon2 takes (RFC 9106 §3.1)
        cost = Argon2Cost(left_kib, current.time_cost, current.parallelism)
        derive(typed, _DUMMY_SALT, cost, TAG_BYTES)


def _parse(text: str, current: Argon2Cost) -> StoredHash | None:
    """None for what cannot be read, and for a cost beyond the ceiling."""
    stored = parse_phc(text)
    if stored is None:
        return None
    cost = stored.cost
    # Today's own parameters are always within: the operator chose them.
    is_within = (
        cost.memory_kib <= max(_MAX_MEMORY_KIB, current.memory_kib)
        and cost.time_cost <= max(_MAX_TIME_COST, current.time_cost)
        and cost.parallelism <= max(_MAX_PARALLELISM, current.parallelism)
    )
    return stored if is_within else None


def _encode(password: Secret[str]) -> bytes:
    # Lone surrogates can arrive at a login only, where they are simply wrong: not an error.
    return password.reveal().encode("utf-8", "surrogatepass")
