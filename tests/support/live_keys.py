"""The live keys of several processes on one key directory, with a manual clock and a store that
counts what it is asked and can be told to refuse, to wait, or to let another in first."""

import asyncio
import dataclasses
import os
from collections import Counter
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from tests.support.keyrings import NOW, key_settings
from token_server.config import Settings
from token_server.core.key_policy import Serving
from token_server.core.key_store import KeyStore
from token_server.crypto.live_keys import LiveKeys, Surroundings
from token_server.crypto.opening import OpenedKeys, open_keyring
from token_server.crypto.secrets import MasterKeys
from token_server.errors import OperatorError
from token_server.records import StoredKey, StoredKeyring

HOUR = 3600


@dataclass(slots=True)
class KeyClock:
    """Wall clock and monotonic clock, moved together or apart."""

    at: int = NOW
    monotonic_s: float = 5000.0

    def now(self) -> int:
        return self.at

    def monotonic(self) -> float:
        return self.monotonic_s

    def advance(self, seconds: int) -> None:
        self.at += seconds
        self.monotonic_s += seconds


@dataclass(slots=True)
class Watch:
    """What one process asks of its store, and what is to happen then."""

    asked: Counter[str] = field(default_factory=Counter)
    written: list[StoredKeyring] = field(default_factory=list)
    refuses: set[str] = field(default_factory=set)
    before_replace: Callable[[], Awaitable[object]] | None = None  # once
    may_replace: asyncio.Event | None = None

    def ask(self, operation: str) -> None:
        self.asked[operation] += 1
        if operation in self.refuses:
            raise OperatorError(f"the disk refuses to {operation}")


class WatchedStore:
    """The real store behind a Watch."""

    def __init__(self, store: KeyStore, watch: Watch) -> None:
        self._store, self._watch = store, watch

    async def load(self) -> StoredKeyring | None:
        self._watch.ask("load")
        return await self._store.load()

    async def replace(self, keyring: StoredKeyring, expected_generation: int) -> bool:
        self._watch.ask("replace")
        self._watch.written.append(keyring)
        first, self._watch.before_replace = self._watch.before_replace, None
        if first is not None:
            await first()
        if self._watch.may_replace is not None:
            await self._watch.may_replace.wait()
        return await self._store.replace(keyring, expected_generation)

    async def peek(self) -> Hashable:
        self._watch.ask("peek")
        return await self._store.peek()

    async def last_serving(self) -> Serving | None:
        return await self._store.last_serving()

    async def record_serving(self, serving: Serving) -> None:
        self._watch.ask("record_serving")
        await self._store.record_serving(serving)

    def locate(self, stored: StoredKey) -> str:
        return self._store.locate(stored)


@dataclass(slots=True)
class Process:
    """One process: its keys in memory and its watched store."""

    keys: LiveKeys
    watch: Watch
    clock: KeyClock
    problems: Counter[str]

    async def sign(self, ttl_s: int = 900) -> str:
        """The kid that a token of that lifetime was signed with."""
        now = self.clock.now()
        return (await self.keys.sign_compact("JWT", b"{}", now=now, expires_at=now + ttl_s))[1]

    def mark(self) -> int:
        """The high-water mark of the key that signs, in memory."""
        signing = self.keys.situation().signing
        assert signing is not None
        return signing.exp_high_water or 0


def serving_settings(keys_dir: Path) -> Settings:
    return msgspec.structs.replace(key_settings(keys_dir), mode="serve")


async def start_process(keys_dir: Path, clock: KeyClock) -> Process:
    settings = serving_settings(keys_dir)
    opened = await open_keyring(settings, now=clock.now(), entropy=os.urandom)
    watch, problems = Watch(), Counter[str]()

    def store_for(master_keys: MasterKeys) -> KeyStore:
        return WatchedStore(opened.store_for(master_keys), watch)

    def count(operation: str) -> None:
        problems[operation] += 1

    watched: OpenedKeys = dataclasses.replace(opened, store_for=store_for)
    around = Surroundings(settings, clock.now, clock.monotonic, os.urandom, count_problem=count)
    return Process(LiveKeys(watched, around), watch, clock, problems)
