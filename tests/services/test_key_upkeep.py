"""What serving processes do for their keys by themselves, on each store and each engine."""

import asyncio
import contextlib
import errno
import json
import os
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from tests.support.server import ManualClock, copy_keys, make_settings
from token_server.config import Settings
from token_server.core.key_rotation import start_rotation
from token_server.crypto.secrets import encode_base64url
from token_server.records import AuditEvent, KeyState
from token_server.runtime import Runtime, open_runtime
from token_server.services.key_changes import change_keys
from token_server.services.key_upkeep import RETRY_S, KeyUpkeep, keys_kept_up
from token_server.storage import audit, meta

HOUR = 3600
LEAD_S = 24 * HOUR
ROTATE_EVERY_S = 90 * 24 * HOUR
RELOAD_S = 5


@dataclass(slots=True)
class Fleet:
    """Server processes on one store; `tick` is one round of each, all at once."""

    settings: Settings
    clock: ManualClock
    stack: contextlib.AsyncExitStack
    keepers: list[KeyUpkeep] = field(default_factory=list)
    runtimes: list[Runtime] = field(default_factory=list)

    async def add(self, count: int = 1, *, start: bool = True) -> None:
        for _ in range(count):
            runtime = await self.stack.enter_async_context(
                open_runtime(self.settings, clock=self.clock)
            )
            self.runtimes.append(runtime)
            self.keepers.append(KeyUpkeep(runtime))
        if start:
            await asyncio.gather(*(keeper.start() for keeper in self.keepers[-count:]))

    def leave(self) -> None:
        """All of them stop without a word."""
        self.keepers.clear()
        self.runtimes.clear()

    async def tick(self) -> None:
        await asyncio.gather(*(keeper.tick() for keeper in self.keepers))

    async def pass_time(self, seconds: int, step_s: int = HOUR) -> None:
        for passed in range(0, seconds, step_s):
            self.clock.advance(min(step_s, seconds - passed))
            await self.tick()
            await self.tick()  # what was made in the first round is seen in the second

    async def sign(self) -> set[str]:
        """The kids that tokens of all processes are signed with."""
        now = self.clock.now()
        signed = [
            await runtime.keys.sign_compact("JWT", b"{}", now=now, expires_at=now + 900)
            for runtime in self.runtimes
        ]
        return {kid for _, kid in signed}

    async def audited(self) -> list[AuditEvent]:
        """Every audit event of keys so far; the processes cannot audit afterwards."""
        for runtime in self.runtimes:
            await runtime.background.close()
        async with self.runtimes[0].store.read() as connection:
            stored = await audit.list_events(connection, 0, 1000)
        return [one.event for one in stored if one.event.event.value.startswith("key.")]

    def states(self) -> dict[str, int]:
        counts = self.runtimes[0].keyring.states(self.clock.now())
        return {state.value: count for state, count in counts.items() if count}


def fleet_settings(
    place: Literal["directory", "database"], url: str, shared_keys: Path, directory: Path
) -> Settings:
    if place == "directory":
        copy_keys(shared_keys, directory)
        return make_settings(url, directory)
    path = directory / "mounted-master-key"
    path.write_text(f"1:{encode_base64url(os.urandom(32))}\n")
    path.chmod(0o600)
    return make_settings(url, directory, key_store="database", master_key_file=path)


@pytest.fixture(params=["directory", "database", "database-postgresql"])
async def fleet(
    request: pytest.FixtureRequest, shared_keys: Path, tmp_path: Path
) -> AsyncIterator[Fleet]:
    is_postgres = request.param == "database-postgresql"
    url = request.getfixturevalue("postgres_url" if is_postgres else "sqlite_url")
    place: Literal["directory", "database"] = (
        "directory" if request.param == "directory" else "database"
    )
    settings = fleet_settings(place, url, shared_keys, tmp_path)
    async with contextlib.AsyncExitStack() as stack:
        yield Fleet(settings, ManualClock(), stack)


@pytest.fixture
async def local(sqlite_url: str, shared_keys: Path, tmp_path: Path) -> AsyncIterator[Fleet]:
    """On a key directory, for what does not depend on the store."""
    settings = fleet_settings("directory", sqlite_url, shared_keys, tmp_path)
    async with contextlib.AsyncExitStack() as stack:
        yield Fleet(settings, ManualClock(), stack)


async def test_due_rotation_happens_once_over_three_servers(fleet: Fleet) -> None:
    """All find it due in the same moment; one begins it, all switch at its date, none disagrees."""
    await fleet.add(3)
    before = await fleet.sign()
    fleet.clock.advance(ROTATE_EVERY_S - LEAD_S)
    await fleet.tick()
    await fleet.tick()
    assert fleet.states() == {"active": 1, "next": 2}
    fleet.clock.advance(LEAD_S - 1)
    await fleet.tick()
    assert await fleet.sign() == before
    fleet.clock.advance(1)
    after = await fleet.sign()
    assert len(after) == 1
    assert after != before
    kinds = [event.event.value for event in await fleet.audited()]
    assert kinds.count("key.scheduled") == 1
    assert kinds.count("key.made") == 1
    assert {runtime.keyring.generation for runtime in fleet.runtimes} == {
        max(runtime.keyring.generation for runtime in fleet.runtimes)
    }


async def test_first_servers_publish_the_next_key_once(fleet: Fleet) -> None:
    """Its lead begins when the first of them serves it; the others find it done."""
    await fleet.add(3)
    await fleet.tick()
    (waiting,) = fleet.runtimes[0].keys.situation().waiting
    assert waiting.published_at == fleet.clock.now()
    assert {runtime.keyring.generation for runtime in fleet.runtimes} == {2}


async def test_whole_life_of_a_key_needs_no_command(fleet: Fleet) -> None:
    """Scheduled, active, retiring, erased, retired, forgotten: by servers alone, each in its time
    and each audited once."""
    await fleet.add(2)
    (first,) = await fleet.sign()
    fleet.clock.advance(ROTATE_EVERY_S - LEAD_S)
    await fleet.tick()
    await fleet.pass_time(LEAD_S, step_s=12 * HOUR)
    assert fleet.states() == {"active": 1, "retiring": 1, "next": 1}
    await fleet.pass_time(15, step_s=15)
    assert first in fleet.runtimes[0].keyring.signers
    await fleet.pass_time(LEAD_S, step_s=12 * HOUR)
    assert first not in fleet.runtimes[0].keyring.signers
    assert first not in fleet.runtimes[1].keyring.signers
    await fleet.pass_time(HOUR)
    assert fleet.states() == {"active": 1, "retired": 1, "next": 1}
    await fleet.pass_time(30 * 24 * HOUR, step_s=30 * 24 * HOUR)
    assert fleet.states() == {"active": 1, "next": 1}
    events = [(one.event.value, one.actor) for one in await fleet.audited() if one.subject == first]
    assert sorted(events) == [
        ("key.erased", "server"),
        ("key.forgotten", "server"),
        ("key.retirement_set", "server"),
    ]
    if fleet.settings.key_store == "directory":
        assert not (fleet.settings.keys_dir / f"{first}.pem").exists()


async def test_date_that_came_while_no_server_ran_is_put_off(fleet: Fleet) -> None:
    """I2: verifiers could not fetch the key meanwhile, so the old one signs on for what is left."""
    await fleet.add(2)
    (first,) = await fleet.sign()
    await change_keys(fleet.runtimes[0], start_rotation, actor="operator")
    await fleet.pass_time(6 * HOUR)
    fleet.leave()
    fleet.clock.advance(40 * HOUR)
    await fleet.add(2)
    assert await fleet.sign() == {first}
    dated = fleet.runtimes[0].keys.situation().dated
    assert dated is not None
    assert dated.activate_at is not None
    left_s = dated.activate_at - fleet.clock.now()
    assert LEAD_S - 6 * HOUR <= left_s <= LEAD_S
    await fleet.pass_time(left_s, step_s=6 * HOUR)
    assert await fleet.sign() == {dated.kid}
    assert "key.postponed" in [event.event.value for event in await fleet.audited()]


async def test_restart_in_a_rotation_delays_nothing(fleet: Fleet) -> None:
    """A deployment is no gap: verifiers' caches bridge it."""
    await fleet.add(1)
    await change_keys(fleet.runtimes[0], start_rotation, actor="operator")
    await fleet.tick()
    dated = fleet.runtimes[0].keys.situation().dated
    fleet.leave()
    fleet.clock.advance(60)
    await fleet.add(1)
    assert fleet.runtimes[0].keys.situation().dated == dated


async def test_epoch_follows_the_database(fleet: Fleet) -> None:
    """`db restored` and `compromise --all` raise it: every server refuses old refresh tokens
    within the reload interval, and at once when the keys have changed as well."""
    await fleet.add(2)
    await fleet.tick()
    async with fleet.runtimes[0].store.write() as connection:
        await meta.raise_epoch(connection)
    fleet.clock.advance(RELOAD_S)
    await fleet.tick()
    assert [runtime.epoch for runtime in fleet.runtimes] == [1, 1]
    async with fleet.runtimes[0].store.write() as connection:
        await meta.raise_epoch(connection)
    await change_keys(fleet.runtimes[0], start_rotation, actor="operator")
    await fleet.keepers[1].tick()
    assert fleet.runtimes[1].epoch == 2


async def test_clock_that_was_set_back_changes_no_key(local: Fleet) -> None:
    """Dates made by a wrong clock would be wrong for everybody."""
    await local.add(1)
    local.clock.advance(ROTATE_EVERY_S)
    local.clock.stepped_back = True
    generation = local.runtimes[0].keyring.generation
    await local.tick()
    assert local.runtimes[0].keyring.generation == generation
    local.clock.stepped_back = False
    await local.tick()
    assert local.runtimes[0].keyring.generation > generation


def fill_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """No file can be put in place until `undo`."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", refuse)


async def test_start_that_cannot_write_keeps_the_lead_in_memory(
    local: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I2 holds on a full disk, nobody is told that the key was served, and all is made up for
    when there is room."""
    await local.add(1)
    (first,) = await local.sign()
    keys = local.runtimes[0].keys
    await keys.sign_compact(
        "JWT", b"{}", now=local.clock.now(), expires_at=local.clock.now() + LEAD_S
    )
    await change_keys(local.runtimes[0], start_rotation, actor="operator")
    await local.tick()
    stored = await keys.store.last_serving()
    local.leave()
    local.clock.advance(LEAD_S + HOUR)
    fill_disk(monkeypatch)
    await local.add(1)
    assert await local.sign() == {first}
    await local.tick()
    assert await local.runtimes[0].keys.store.last_serving() == stored
    monkeypatch.undo()
    local.clock.advance(RELOAD_S)
    await local.tick()
    assert await local.sign() == {first}
    assert local.runtimes[0].keys.write_problem is None
    serving = await local.runtimes[0].keys.store.last_serving()
    assert serving is not None
    assert serving.served_at == local.clock.now()


async def test_failing_writes_are_tried_every_few_seconds_and_logged_once(
    local: Fleet, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Twice a second would fill the log and wear the disk; once is easy to miss, so it is counted
    and readiness shows it."""
    await local.add(1)
    fill_disk(monkeypatch)
    local.clock.advance(ROTATE_EVERY_S)
    capfd.readouterr()
    for _ in range(20):
        await local.tick()
    local.clock.advance(int(RETRY_S))
    await local.tick()
    body, _ = local.runtimes[0].metrics.render()
    assert 'token_server_key_store_problems_total{operation="write"} 2.0' in body.decode()
    monkeypatch.undo()
    local.clock.advance(int(RETRY_S))
    await local.tick()
    assert local.states() == {"active": 1, "next": 2}
    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    events = [line["event"] for line in lines if line["event"].startswith("key_store")]
    assert events == ["key_store_failed", "key_store_works_again"]
    assert not [line for line in lines if line["event"] == "key_upkeep_failed"]


async def test_states_of_keys_are_logged_when_they_begin_and_end(
    local: Fleet, capfd: pytest.CaptureFixture[str]
) -> None:
    """An overdue rotation is a line in the log without anybody asking for readiness."""
    await local.add(1)
    local.clock.stepped_back = True  # so that nothing is rotated
    local.clock.advance(ROTATE_EVERY_S + LEAD_S + 1)
    capfd.readouterr()
    for _ in range(3):
        await local.tick()
    local.clock.stepped_back = False
    for _ in range(3):
        await local.tick()
    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    seen = [
        (line["level"], line["check"], line["state"])
        for line in lines
        if line["event"] == "key_check_changed"
    ]
    assert seen == [
        ("warning", "key_rotation", "warn"),
        ("info", "key_rotation", "ok"),
    ]


async def test_upkeep_runs_beside_the_server_and_stops_with_it(local: Fleet) -> None:
    """What serve and dev enter: it ticks by itself, and a stop does not wait for the next look."""
    await local.add(1, start=False)
    runtime = local.runtimes[0]
    async with keys_kept_up(runtime):
        assert runtime.keyring.states(local.clock.now())[KeyState.ACTIVE] == 1
        local.clock.advance(ROTATE_EVERY_S)
        deadline = time.monotonic() + 20
        while runtime.keys.situation().dated is None:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)
        assert runtime.keys.situation().dated is not None
        stopping = time.monotonic()
    assert time.monotonic() - stopping < 10
