"""Signing with keys that have not been confirmed for too long (keys.md I3)."""

import asyncio
import os
from pathlib import Path

import pytest

from tests.support.keyrings import NOW, key_settings
from token_server.crypto.live_keys import LiveKeys, Surroundings
from token_server.crypto.opening import open_keyring
from token_server.errors import UnavailableError

SIGNERS = 20


class Monotonic:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def monotonic() -> Monotonic:
    return Monotonic()


@pytest.fixture
async def keys(keys_dir: Path, monotonic: Monotonic) -> LiveKeys:
    settings = key_settings(keys_dir)
    opened = await open_keyring(settings, now=NOW, entropy=os.urandom)
    live = LiveKeys(opened, Surroundings(settings, lambda: NOW, monotonic, os.urandom))
    monotonic.now_s += live.policy.max_age_s + 1
    assert live.is_stale
    return live


async def sign_at_once(keys: LiveKeys) -> list[object]:
    """What each of many requests gets that are there at the same instant."""
    signing = (
        keys.sign_compact("at+jwt", b"{}", now=NOW, expires_at=NOW + 60) for _ in range(SIGNERS)
    )
    return await asyncio.gather(*signing, return_exceptions=True)


async def test_requests_wait_for_the_reading_that_is_under_way(keys: LiveKeys) -> None:
    """Of many that meet stale keys one reads the store, and none is turned away."""
    outcomes = await sign_at_once(keys)
    assert not any(isinstance(outcome, BaseException) for outcome in outcomes), outcomes
    assert not keys.is_stale


async def test_unreadable_store_turns_all_away(keys: LiveKeys, keys_dir: Path) -> None:
    """Keys that cannot be confirmed sign nothing: another instance may have rotated (I3)."""
    (keys_dir / "keyring.json").unlink()
    outcomes = await sign_at_once(keys)
    assert {type(outcome) for outcome in outcomes} == {UnavailableError}
    assert keys.problem is not None
