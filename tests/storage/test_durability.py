"""What was acknowledged is there after kill -9, on both engines."""

import asyncio
import sys

from tests.storage.test_families import start_login, stored
from token_server.storage.engine import Store

_SERVER = """
import asyncio, sys
from token_server.storage.batch import RotationEntry
from token_server.storage.engine import open_store
from token_server.storage.rotation import rotation_batcher

async def main():
    url, family_id, client_id, now = sys.argv[1:]
    batcher = rotation_batcher(await open_store(url, now=lambda: int(now)))
    generation = 0
    while True:
        entry = RotationEntry(bytes.fromhex(family_id), generation, client_id, int(now), 3600)
        family = await batcher.submit(entry)
        generation = family.generation
        print(generation, flush=True)  # the answer leaves

asyncio.run(main())
"""


async def test_acknowledged_rotations_survive_kill_9(store: Store, database_url: str) -> None:
    """The generation that was answered is current, or the one after it, whose answer was lost."""
    login = await start_login(store)
    family_id = login.family.family_id
    for _ in range(3):
        async with store.write() as conn:
            await conn.exec_driver_sql("UPDATE families SET generation = 0, rotated_at = NULL")
        server = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            _SERVER,
            database_url,
            family_id.hex(),
            login.client.client_id,
            str(login.family.created_at),
            stdout=asyncio.subprocess.PIPE,
        )
        assert server.stdout is not None
        for _ in range(25):
            await server.stdout.readline()
        server.kill()
        answered = [int(line) for line in (await server.stdout.read()).split()]
        await server.wait()
        last = answered[-1] if answered else 25
        after = await stored(store, family_id)
        assert after is not None
        assert after.generation in {last, last + 1}
        async with store.write() as conn:  # the killed process holds nothing any more
            await conn.exec_driver_sql("SELECT 1")
