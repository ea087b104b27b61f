"""The bits of all status lists in memory, following what any instance revokes.

Read when somebody asks and the last look is older than half a second, so nobody's polling costs
a query each, and a server that nobody asks does nothing. Followed by `revoked_at` with an
overlap, because a transaction may become visible later than the instant it carries.
"""

import asyncio
from collections.abc import Awaitable, Callable
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
from token_server.storage.status import Numbers, Revoked

KEY_BYTES = 32
FOLLOW_S = 0.5
URGENT_S = 0.05  # for a list that is not known yet: bounded, since anyone may ask for one
PAGE = 2000  # the permutation of a page keeps the event loop for some 15 ms
# Longer than a write block may take and than clocks of two instances may differ.
OVERLAP_S = 30
_START = Revoked(0, 0)


@dataclass(slots=True)
class StatusList:
    """One list; `version` rises with each new bit."""

    bits: BitArray
    version: int = 0


@dataclass(slots=True)
class _Followed:
    """One kind of entry: how far it was followed, and which lists exist."""

    kind: Kind
    page: Callable[[AsyncConnection, Revoked, int], Awaitable[list[Revoked]]]
    reached: Revoked = _START
    recent: dict[int, int] = field(default_factory=dict)  # seen within the overlap: when
    floor: int = 0  # numbers below were ended by `db restored`
    first_list: int = 0
    last_list: int = 0


class StatusCache:
    """All lists of this installation, as this process knows them."""

    def __init__(self, store: Store, key: bytes, monotonic: Callable[[], float]) -> None:
        self._store = store
        self._key = key
        self._monotonic = monotonic
        self._sessions = _Followed("s", status.revoked_sessions)
        self._machines = _Followed("m", status.revoked_machine_tokens)
        self._lists: dict[ListName, StatusList] = {}
        self._followed_at = float("-inf")
        self._following: asyncio.Task[None] | None = None
        self._numbers: list[int] = []
        self._reserving = asyncio.Lock()

    def session_position(self, seq: int) -> Position:
        return position_of("s", seq, self._key)

    async def machine_number(self, now: int) -> int:
        """A number that no other machine token has; one write for each 1,024.
        UnavailableError when none can be reserved."""
        while not self._numbers:
            async with self._reserving:
                if not self._numbers:
                    async with self._store.write() as connection:
                        block = await status.reserve_block(connection, now)
                    first = block * BLOCK_SIZE
                    self._numbers = list(range(first + BLOCK_SIZE - 1, first - 1, -1))
        return self._numbers.pop()

    def machine_position(self, number: int) -> Position:
        return position_of("m", number, self._key)

    def number_at(self, position: Position) -> int:
        """The `seq` of a session, or the number of a machine token, that stands there."""
        return number_of(position, self._key)

    async def follow(self, *, at_once: bool = False) -> None:
        """Bring the lists up to date, unless that was done just now. Concurrent callers share one
        look. UnavailableError when the database does not answer; the lists stay as they were."""
        age_s = self._monotonic() - self._followed_at
        if age_s < (URGENT_S if at_once else FOLLOW_S):
            return
        task = self._following
        if task is None or task.done():
            task = self._following = asyncio.create_task(self._follow())
        await asyncio.shield(task)

    def names(self) -> list[ListName]:
        """The lists that live tokens may name, the newest session list last."""
        return [
            ListName(kind.kind, number)
            for kind in (self._machines, self._sessions)
            for number in range(kind.first_list, kind.last_list + 1)
        ]

    def find(self, name: ListName) -> StatusList | None:
        """The list; None for one that was never one. The list after the newest exists already:
        another instance may be giving out its first position right now."""
        followed = self._sessions if name.kind == "s" else self._machines
        if name.number > followed.last_list + 1:
            return None
        is_ended = (name.number + 1) * LIST_SIZE <= followed.floor
        if name.number < followed.first_list and not is_ended:
            return None
        return self._list(name)

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
        known = set(self.names())
        for name in [name for name in self._lists if name not in known and not self.find(name)]:
            del self._lists[name]
        self._followed_at = begun_at

    async def _read_revoked(self, connection: AsyncConnection, followed: _Followed) -> None:
        after = Revoked(max(0, followed.reached.revoked_at - OVERLAP_S), 0)
        while True:
            found = await followed.page(connection, after, PAGE)
            for revoked_at, number in found:
                if number not in followed.recent:
                    self._mark(followed.kind, number)
                    followed.recent[number] = revoked_at
            if found:
                after = found[-1]
                followed.reached = max(followed.reached, after)
            since = followed.reached.revoked_at - OVERLAP_S
            followed.recent = {n: at for n, at in followed.recent.items() if at >= since}
            if len(found) < PAGE:
                return

    def _mark(self, kind: Kind, number: int) -> None:
        position = position_of(kind, number, self._key)
        entry = self._list(position.name)
        if entry.bits.set(position.index):
            entry.version += 1

    def _start_over(self, followed: _Followed, floor: int) -> None:
        """A restored backup: lists have ended as a whole, and rows may have gone back in time."""
        followed.floor, followed.reached, followed.recent = floor, _START, {}
        for name in [name for name in self._lists if name.kind == followed.kind]:
            del self._lists[name]

    def _list(self, name: ListName) -> StatusList:
        entry = self._lists.get(name)
        if entry is None:
            followed = self._sessions if name.kind == "s" else self._machines
            is_ended = (name.number + 1) * LIST_SIZE <= followed.floor
            entry = self._lists[name] = StatusList(BitArray(is_full=is_ended))
        return entry


def _set_range(followed: _Followed, numbers: Numbers, size: int) -> None:
    """Which lists exist: from the oldest row to the newest, at least the current one."""
    floor_list = followed.floor // LIST_SIZE
    lowest = floor_list if numbers.lowest is None else numbers.lowest * size // LIST_SIZE
    highest = 0 if numbers.highest is None else numbers.highest * size // LIST_SIZE
    followed.last_list = max(highest, floor_list)
    followed.first_list = min(max(lowest, 0), followed.last_list)


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
