"""The key set as the key directory has it, for a process that cannot open its database yet.

Only what is public: nothing is decrypted, and nothing signs.
"""

import asyncio

from token_server.config import Settings
from token_server.crypto.keyring import Keyring
from token_server.crypto.opening import key_problems, key_stores, read_master_keys
from token_server.errors import OperatorError
from token_server.runtime import SystemClock, SystemEntropy


async def published_jwks(settings: Settings) -> bytes | None:
    """The JWK Set; None while there is none that may be trusted, or the database has the keys."""
    if settings.key_store != "directory" or not settings.master_key_file.exists():
        return None
    if await asyncio.to_thread(key_problems, settings):
        return None
    try:
        master_keys = await asyncio.to_thread(read_master_keys, settings)
        store = key_stores(settings, SystemEntropy().token_bytes, None)(master_keys)
        stored = await store.load()
    except OperatorError:
        return None
    if stored is None:
        return None
    keys = {entry.key: None for entry in stored.keys}
    return Keyring(stored.keyring_id, stored.generation, keys).jwks(SystemClock().now())
