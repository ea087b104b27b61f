"""When a compromise stands in the store, seen from outside: the start of a server's own part.

Before that instant time goes into starting the command, after it into telling every server.
"""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import asyncpg

from tests.faults.rotation.world import Ring

ASK_EVERY_S = 0.005
QUERY = "SELECT compromised_at IS NOT NULL FROM signing_keys WHERE kid = $1"

IsStored = Callable[[str], Awaitable[bool]]


async def stored_at(ring: Ring, kid: str) -> float:
    """Waits until the store of this keyring says that `kid` is compromised; `time.time()`."""
    opened = (
        _database(ring) if ring.installation.settings().key_store == "database" else _file(ring)
    )
    async with opened as is_stored:
        while not await is_stored(kid):  # noqa: ASYNC110 - another process does it
            await asyncio.sleep(ASK_EVERY_S)
        return time.time()


@contextlib.asynccontextmanager
async def _database(ring: Ring) -> AsyncIterator[IsStored]:
    connection = await asyncpg.connect(ring.installation.database_url)
    try:

        async def is_stored(kid: str) -> bool:
            return bool(await connection.fetchval(QUERY, kid))

        yield is_stored
    finally:
        await connection.close()


@contextlib.asynccontextmanager
async def _file(ring: Ring) -> AsyncIterator[IsStored]:
    path = ring.installation.directory / "keys" / "keyring.json"

    async def is_stored(kid: str) -> bool:
        keys = json.loads(path.read_bytes())["keyring"]["keys"]
        return any(key["kid"] == kid and key["compromised_at"] is not None for key in keys)

    yield is_stored
