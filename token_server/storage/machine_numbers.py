"""Numbers for machine tokens that can be revoked one by one, out of blocks of 1,024.

One write reserves a block for this process, the next one before it is used up, so that tokens
seldom wait for it. A number is used only while its block is young: blocks are pruned by their age
when no token of theirs can live any more (`db prune`), however slowly a process uses them up.
"""

from collections import deque
from dataclasses import dataclass

from token_server.core.status_list import BLOCK_SIZE
from token_server.storage import status
from token_server.storage.engine import Store
from token_server.storage.shared_work import SharedWork

USE_FOR_S = 86400
TOP_UP_AT = BLOCK_SIZE // 4


@dataclass(slots=True)
class _Block:
    following: int  # the number to give out next
    end: int
    reserved_at: int


class MachineNumbers:
    """The blocks of one process."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._blocks: deque[_Block] = deque()
        self._reserving = SharedWork(self._reserve)

    async def take(self, now: int) -> int:
        """A number that no other machine token has or will have.

        UnavailableError when there is none left and none can be reserved.
        """
        while (block := self._usable(now)) is None:
            await self._reserving.join()
        number = block.following
        block.following += 1
        if len(self._blocks) == 1 and block.end - block.following <= TOP_UP_AT:
            self._reserving.begin()
        return number

    def drop(self) -> None:
        """Use none of the reserved ones: a restored database knows nothing of them."""
        self._blocks.clear()

    async def close(self) -> None:
        await self._reserving.close()

    def _usable(self, now: int) -> _Block | None:
        while self._blocks:
            block = self._blocks[0]
            if block.following < block.end and now - block.reserved_at < USE_FOR_S:
                return block
            self._blocks.popleft()
        return None

    async def _reserve(self) -> None:
        now = self._store.now()
        async with self._store.write() as connection:
            block = await status.reserve_block(connection, now)
        self._blocks.append(_Block(block * BLOCK_SIZE, (block + 1) * BLOCK_SIZE, now))
