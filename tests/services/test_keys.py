"""What operators do with signing keys, as scripts and the command line call it."""

import os
from pathlib import Path

import pytest

from tests.support.keyrings import NOW, key_settings
from tests.support.server import ManualClock
from token_server.config import Settings
from token_server.crypto.opening import open_keyring
from token_server.errors import OperatorError
from token_server.records import KeyState
from token_server.runtime import SystemEntropy
from token_server.services.keys import KeyPlace, init_keys, list_keys, show_keys


def place(settings: Settings, now: int = NOW) -> KeyPlace:
    return KeyPlace(settings, ManualClock(now), SystemEntropy())


async def test_init_twice_makes_keys_once(tmp_path: Path) -> None:
    """The second call changes nothing and says so."""
    settings = key_settings(tmp_path / "keys")
    made = await init_keys(place(settings))
    again = await init_keys(place(settings, NOW + 5))
    assert (made.is_new, again.is_new) == (True, False)
    assert (again.keyring_id, again.generation, again.keys) == (made.keyring_id, 1, made.keys)
    assert [row.state for row in made.keys] == [KeyState.ACTIVE, KeyState.NEXT]
    assert [row.activate_at for row in made.keys] == [NOW, None]


async def test_show_makes_nothing(tmp_path: Path) -> None:
    """Looking at keys that do not exist is "not found" (exit code 3)."""
    with pytest.raises(OperatorError) as caught:
        await show_keys(place(key_settings(tmp_path / "keys")))
    assert caught.value.exit_code == 3
    assert not (tmp_path / "keys").exists()


async def test_rows_follow_the_clock(tmp_path: Path) -> None:
    """The same open keyring lists other states when the clock says so."""
    settings = key_settings(tmp_path / "keys")
    opened = await open_keyring(settings, now=NOW, entropy=os.urandom)
    assert [row.state for row in list_keys(opened.keyring, NOW)] == ["active", "next"]
    assert [row.state for row in list_keys(opened.keyring, NOW - 1)] == ["next", "next"]
