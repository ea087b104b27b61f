"""Clock guard, and what a runtime remembers of its installation."""

import asyncio
import shutil
import time
from pathlib import Path

import pytest
from sqlalchemy import text

from tests.support.databases import TEST_EPOCH
from tests.support.process import ROOT
from tests.support.server import copy_keys, make_keys, make_settings
from token_server.errors import OperatorError
from token_server.runtime import SystemClock, open_runtime
from token_server.storage.engine import open_store


class Machine:
    """The two clocks of a machine, to be set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.wall, self.uptime = 1_800_000_000.0, 50.0
        monkeypatch.setattr(time, "time", lambda: self.wall)
        monkeypatch.setattr(time, "monotonic", lambda: self.uptime)

    def step(self, wall: float, uptime: float | None = None) -> None:
        self.wall += wall
        self.uptime += wall if uptime is None else uptime


def test_clock_follows_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as both clocks agree, and when the wall clock is set forward."""
    machine = Machine(monkeypatch)
    clock = SystemClock()
    machine.step(100)
    assert clock.now() == 1_800_000_100
    machine.step(3600, 0)
    assert clock.now() == 1_800_003_700
    assert not clock.is_stepped_back()


def test_small_step_back_is_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    """NTP corrects by seconds: nobody is logged out, nothing stops."""
    machine = Machine(monkeypatch)
    clock = SystemClock(tolerance_s=10)
    machine.step(-9, 0)
    assert clock.now() == 1_799_999_991
    assert not clock.is_stepped_back()


def test_large_step_back_stretches_nothing_and_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set back an hour: time goes on by the monotonic clock until the wall has caught up (G148)."""
    machine = Machine(monkeypatch)
    clock = SystemClock(tolerance_s=10)
    machine.step(-3600, 0)
    assert clock.is_stepped_back()
    assert clock.now() == 1_800_000_000
    machine.step(60)
    assert clock.now() == 1_800_000_060
    machine.step(3595, 0)
    assert not clock.is_stepped_back()


def test_many_small_steps_back_do_not_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """The furthest instant seen is what counts, not the last one."""
    machine = Machine(monkeypatch)
    clock = SystemClock(tolerance_s=10)
    for _ in range(3):
        machine.step(-5, 0)
        clock.now()
    assert clock.is_stepped_back()


async def test_database_refuses_another_keyring(
    database_url: str, shared_keys: Path, tmp_path: Path
) -> None:
    """An old database beside new keys is a mix-up, found at start and not by every client."""
    copy_keys(shared_keys, tmp_path)
    async with open_runtime(make_settings(database_url, tmp_path)):
        pass
    other = tmp_path / "other"
    other.mkdir()
    await make_keys(other)
    with pytest.raises(OperatorError, match="belongs to keyring"):
        async with open_runtime(make_settings(database_url, other)):
            pass


async def test_two_first_starts_with_different_keys_do_not_both_run(
    database_url: str, shared_keys: Path, tmp_path: Path
) -> None:
    """The one that comes second to the database is refused (keys.md)."""
    directories = [tmp_path / "one", tmp_path / "two"]
    for directory in directories:
        directory.mkdir()
        await make_keys(directory)

    async def start(directory: Path) -> bool:
        try:
            async with open_runtime(make_settings(database_url, directory)):
                return True
        except OperatorError:
            return False

    assert sorted(await asyncio.gather(*map(start, directories))) == [False, True]


async def test_command_without_keys_makes_none(sqlite_url: str, tmp_path: Path) -> None:
    """`client add` before the first start must not make keys in passing."""
    async with open_runtime(make_settings(sqlite_url, tmp_path), with_keys=False):
        pass
    assert not (tmp_path / "keys").exists()


async def test_no_tolerated_skew_is_not_a_clock_that_always_steps_back(
    sqlite_url: str, tmp_path: Path, shared_keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CLOCK_SKEW=0 is about other machines: two clocks of this one, read one after the other,
    differ by microseconds, and issuing must not stop for that."""
    copy_keys(shared_keys, tmp_path)
    machine = Machine(monkeypatch)
    async with open_runtime(make_settings(sqlite_url, tmp_path, clock_skew_s=0)) as runtime:
        machine.step(-0.001, 0)
        assert not runtime.clock.is_stepped_back()
        machine.step(-2, 0)
        assert runtime.clock.is_stepped_back()


async def test_database_that_is_made_to_forget_lost_keys_starts_anew(
    database_url: str, shared_keys: Path, tmp_path: Path
) -> None:
    """The runbook of docs/key-stores.md for keys that are lost for good, statement by statement."""
    page = (ROOT / "docs" / "key-stores.md").read_text()
    statements = page.partition("```sql\n")[2].partition("```")[0].split(";\n")[:-1]
    assert len(statements) == 3
    copy_keys(shared_keys, tmp_path)
    async with open_runtime(make_settings(database_url, tmp_path)) as runtime:
        lost = runtime.keyring.keyring_id
    shutil.move(tmp_path / "keys", tmp_path / "keys.lost")
    with pytest.raises(OperatorError, match=f"belongs to keyring {lost}"):
        async with open_runtime(make_settings(database_url, tmp_path)):
            pass
    store = await open_store(database_url, now=lambda: TEST_EPOCH)
    async with store.write() as connection:
        for statement in statements:
            await connection.execute(text(statement))
    await store.close()
    async with open_runtime(make_settings(database_url, tmp_path)) as runtime:
        assert runtime.keyring.keyring_id != lost
        assert len(runtime.keyring.signers) == 2
