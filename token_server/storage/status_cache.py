"""The bits of all status lists in memory, following what any instance revokes.

Read when somebody asks and the last look is older than half a second, so nobody's polling costs
a query each, and a server that nobody asks does nothing. Followed by `revoked_at`, which is the
instant of a request and not of its commit: what comes late, or from a clock that goes wrong, by
less than OVERLAP_S is found by counting. So whoever revokes in many transactions gives each its
own instant. A bit that is set stays set.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field

from sqlalchemy.ext.asyncio import AsyncConnection

from token_server.core.status_list import (
    BLOCK_SIZE,
    LIST_SIZE,
    BitArray,
    Kind,
    ListName,
    Position,
    number_of,
    position_of,
)
from token_server.storage import meta, status
from token_server.storage.engine import Store
from token_server.storage.machine_numbers import MachineNumbers
from token_server.storage.shared_work import SharedWork
from token_server.storage.status import Numbers, Revoked

KEY_BYTES = 32
FOLLOW_S = 0.5
URGENT_S = 0.05  # for a list that is not known yet: bounded, since anyone may ask for one
PAGE = 1000  # the permutation of a page keeps the event loop for some 10 ms
# Longer than a request may take from its instant to its commit, plus the clocks' difference.
OVERLAP_S = 60
# A start reads what was revoked since then and not the millions before: no access token lives for
# more than a day (config.py), and the other day is for clocks that differ.
HORIZON_S = 2 * 86400


@dataclass(slots=True)
class StatusList:
    """One list; its bits have changed when `version` has. 0 is a list without a revocation."""

    bits: BitArray
    version: int = 0


@dataclass(slots=True)
class _Followed:
    """One kind of entry: how far it was followed, and which lists exist."""

    kind: Kind
    reached: Revoked
    reached_at: float = float("-inf")  # monotonic: when something new was last found
    recent: dict[int, int] = field(default_factory=dict)  # what may not be all yet: revoked when
    trim_at: int = 0  # length of `recent` at which it is worth while to forget older ones
    floor: int = 0  # numbers below were ended by `db restored`
    first_list: int = 0
    last_list: int = 0


class StatusCache:
    """All lists of this installation, as this process knows them."""

    def __init__(self, store: Store, key: bytes, monotonic: Callable[[], float]) -> None:
        self._store = store
        self._key = key
        self._monotonic = monotonic
        self._sessions = _Followed("s", self._horizon())
        self._machines = _Followed("m", self._horizon())
        self._numbers = MachineNumbers(store)
        self._lists: dict[ListName, StatusList] = {}
        self._versions = itertools.count(1)
        self._ended = StatusList(BitArray(is_full=True), next(self._versions))
        self._followed_at = float("-inf")
        self._following = SharedWork(self._follow)

    @property
    def age_s(self) -> float:
        """How long ago the lists were up to date; infinite before they were read."""
        return self._monotonic() - self._followed_at

    def session_position(self, seq: int) -> Position:
        return position_of("s", seq, self._key)

    def machine_position(self, number: int) -> Position:
        return position_of("m", number, self._key)

    async def machine_number(self, now: int) -> int:
        """As MachineNumbers.take."""
        return await self._numbers.take(now)

    def number_at(self, position: Position) -> int:
        """The `seq` of a session, or the number of a machine token, that stands there."""
        return number_of(position, self._key)

    async def follow(self, *, at_once: bool = False) -> None:
        """Bring the lists up to date, unless that was done just now. Concurrent callers share one
        look. UnavailableError when the database does not answer; no bit is lost."""
        if self.age_s >= (URGENT_S if at_once else FOLLOW_S):
            await self._following.join()

    def names(self) -> list[ListName]:
        """The lists that good tokens may name, the newest session list last."""
        return [
            ListName(followed.kind, number)
            for followed in (self._machines, self._sessions)
            for number in range(followed.first_list, followed.last_list + 1)
        ]

    def find(self, name: ListName) -> StatusList | None:
        """The list; None for one that was never one, or whose tokens have all expired. The list
        after the newest exists already: another instance may be giving out its first position."""
        followed = self._sessions if name.kind == "s" else self._machines
        if name.number < followed.floor // LIST_SIZE:
            return self._ended
        if not followed.first_list <= name.number <= followed.last_list + 1:
            return None
        return self._list(name)

    async def close(self) -> None:
        await self._following.close()
        await self._numbers.close()

    async def _follow(self) -> None:
        begun_at = self._monotonic()
        async with self._store.read() as connection:
            for followed, floor_name in (
                (self._sessions, meta.SESSIONS_FLOOR),
                (self._machines, meta.MACHINES_FLOOR),
            ):
                floor = int(await meta.get(connection, floor_name) or 0)
                if floor != followed.floor:
                    self._start_over(followed, floor)
            _set_range(self._sessions, await status.session_numbers(connection), 1)
            _set_range(self._machines, await status.block_numbers(connection), BLOCK_SIZE)
            for followed in (self._sessions, self._machines):
                await self._read_revoked(connection, followed)
        for name in [name for name in self._lists if self.find(name) is None]:
            del self._lists[name]
        self._followed_at = begun_at

    async def _read_revoked(self, connection: AsyncConnection, followed: _Followed) -> None:
        """What is new; then, unless nothing can come late any more, what was late."""
        if await self._read_after(connection, followed, followed.reached):
            followed.reached_at = self._monotonic()
        since = self._trim(followed)
        quiet_s = min(
            self._store.now() - followed.reached.revoked_at,
            self._monotonic() - followed.reached_at,
        )
        if quiet_s > OVERLAP_S:
            return
        known = (len(followed.recent), sum(followed.recent))
        if known != await status.revoked_since(connection, followed.kind, since):
            await self._read_after(connection, followed, Revoked(since, -1))

    async def _read_after(
        self, connection: AsyncConnection, followed: _Followed, after: Revoked
    ) -> bool:
        """True when there was something that was not known."""
        is_new = False
        while True:
            found = await status.revoked_after(connection, followed.kind, after, PAGE)
            for revoked_at, number in found:
                if number not in followed.recent:
                    is_new = True
                    followed.recent[number] = revoked_at
                    self._mark(followed.kind, number)
            if found:
                after = found[-1]
                followed.reached = max(followed.reached, after)
            if len(followed.recent) > followed.trim_at:
                self._trim(followed)
            if len(found) < PAGE:
                return is_new

    def _trim(self, followed: _Followed) -> int:
        """Forget what is older than anything that may come late; since when that is."""
        # Not behind a clock that goes fast: what others revoke meanwhile is to be found as well.
        since = max(0, min(followed.reached.revoked_at, self._store.now()) - OVERLAP_S)
        followed.recent = {n: at for n, at in followed.recent.items() if at >= since}
        followed.trim_at = 2 * len(followed.recent) + 50 * PAGE
        return since

    def _mark(self, kind: Kind, number: int) -> None:
        followed = self._sessions if kind == "s" else self._machines
        if number < followed.floor:
            return  # its whole list has ended
        position = position_of(kind, number, self._key)
        entry = self._list(position.name)
        if entry.bits.set(position.index):
            entry.version = next(self._versions)

    def _start_over(self, followed: _Followed, floor: int) -> None:
        """A restored backup: lists have ended as a whole, and rows may have gone back in time."""
        followed.floor, followed.reached, followed.recent = floor, self._horizon(), {}
        for name in [name for name in self._lists if name.kind == followed.kind]:
            del self._lists[name]
        self._numbers.drop()

    def _horizon(self) -> Revoked:
        return Revoked(max(0, self._store.now() - HORIZON_S), -1)

    def _list(self, name: ListName) -> StatusList:
        entry = self._lists.get(name)
        if entry is None:
            entry = self._lists[name] = StatusList(BitArray())
        return entry


def _set_range(followed: _Followed, numbers: Numbers, size: int) -> None:
    """Which lists exist: from the oldest row to the newest, not those that `db restored` ended.
    There is always a list of sessions, since verifiers follow the newest; of machine tokens there
    is one from the first block on."""
    floor_list = followed.floor // LIST_SIZE
    if numbers.lowest is None or numbers.highest is None:
        followed.first_list = floor_list
        followed.last_list = floor_list if followed.kind == "s" else floor_list - 1
        return
    followed.first_list = max(numbers.lowest * size // LIST_SIZE, floor_list)
    followed.last_list = max(numbers.highest * size // LIST_SIZE, floor_list)


async def ensure_status_key(store: Store, token_bytes: Callable[[int], bytes]) -> bytes:
    """The key of the permutation, made once for each installation and never changed: with another
    one, every session would stand elsewhere."""
    async with store.read() as connection:
        found = await meta.get(connection, meta.STATUS_KEY)
    if found is None:
        async with store.write() as connection:
            await meta.insert_if_absent(connection, meta.STATUS_KEY, token_bytes(KEY_BYTES).hex())
            found = await meta.get(connection, meta.STATUS_KEY)
    if found is None:
        raise AssertionError("inserted and read in one transaction")
    return bytes.fromhex(found)
