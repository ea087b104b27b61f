"""Which states of the keys ask for attention, which stop issuing, and what each says to do."""

import errno
import os
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.databases import TEST_EPOCH
from tests.support.keyrings import with_keyring
from tests.support.server import ManualClock, copy_keys, make_settings
from token_server.config import Settings
from token_server.core.key_rotation import start_rotation
from token_server.crypto.keyring import Keyring
from token_server.errors import OperatorError
from token_server.records import SigningKey
from token_server.runtime import Runtime, open_runtime
from token_server.services.checks import Level
from token_server.services.health import Readiness
from token_server.services.key_changes import change_keys
from token_server.services.key_health import key_checks, update_key_gauges

NOW = TEST_EPOCH
DAY_S = 86400
ROTATE_EVERY_S = 90 * DAY_S
Ring = Callable[[Keyring], Keyring]


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def settings(sqlite_url: str, shared_keys: Path, tmp_path: Path) -> Settings:
    copy_keys(shared_keys, tmp_path)
    return make_settings(sqlite_url, tmp_path)


@pytest.fixture
async def runtime(settings: Settings, clock: ManualClock) -> AsyncIterator[Runtime]:
    async with open_runtime(settings, clock=clock) as opened:
        yield opened


def levels(runtime: Runtime) -> dict[str, str]:
    return {check.name: check.level.value for check in key_checks(runtime)}


def detail(runtime: Runtime, name: str) -> str:
    return next(check.detail for check in key_checks(runtime) if check.name == name)


def test_good_keys_are_ok_and_named(runtime: Runtime) -> None:
    """Who signs, who is next, and when."""
    active, waiting = runtime.keyring.keys
    assert set(levels(runtime).values()) == {"ok"}
    assert detail(runtime, "signing_key") == active.kid
    assert detail(runtime, "next_key") == waiting.kid
    assert detail(runtime, "key_rotation") == "next on 2027-04-15T08:00:00Z"


def records(change: Callable[[SigningKey, SigningKey], list[SigningKey]]) -> Ring:
    return lambda keyring: keyring.with_records(change(keyring.keys[0], keyring.keys[1]))


BAD: dict[str, tuple[Ring, str, Level, str]] = {
    "no next key": (
        records(lambda active, _: [active]),
        "next_key",
        Level.WARN,
        r"none waits.*\(I1\)",
    ),
    "overdue": (
        records(
            lambda active, waiting: [replace(active, activate_at=NOW - 91 * DAY_S - 1), waiting]
        ),
        "key_rotation",
        Level.WARN,
        r"overdue since 2027-01-14T07:59:59Z .* is the key store writable",
    ),
    "overdue, and dated far away by a wrong clock": (
        records(
            lambda active, waiting: [
                replace(active, activate_at=NOW - 92 * DAY_S),
                replace(waiting, published_at=NOW, activate_at=NOW + 400 * DAY_S),
            ]
        ),
        "key_rotation",
        Level.WARN,
        "overdue since",
    ),
    "the clock stands before the first activation": (
        records(lambda active, waiting: [replace(active, activate_at=NOW + 60), waiting]),
        "signing_key",
        Level.FAIL,
        r"no key signs before 2027-01-15T08:01:00Z, and the clock stands at 2027-01-15T08:00:00Z",
    ),
    "every key compromised": (
        records(lambda active, _: [replace(active, compromised_at=NOW)]),
        "signing_key",
        Level.FAIL,
        "no key may sign: `token-server keys promote --force`",
    ),
    "private half gone": (
        lambda keyring: Keyring("kr_x", 1, dict.fromkeys(keyring.keys)),
        "signing_key",
        Level.FAIL,
        "its private half is gone: `token-server keys promote --force`",
    ),
    "no keys at all": (lambda _: Keyring.empty(), "signing_key", Level.FAIL, "there are no keys"),
}


@pytest.mark.parametrize("case", BAD)
def test_each_bad_state_has_its_level_and_its_fix(runtime: Runtime, case: str) -> None:
    """What still works warns; what stops issuing fails."""
    ring, name, level, words = BAD[case]
    bad = with_keyring(runtime, ring(runtime.keyring))
    (check,) = [check for check in key_checks(bad) if check.name == name]
    assert check.level is level
    assert re.search(words, check.detail), check.detail


@pytest.mark.parametrize(
    "record",
    [
        records(lambda active, waiting: [replace(active, activate_at=NOW - 91 * DAY_S), waiting]),
        records(
            lambda active, waiting: [
                replace(active, activate_at=NOW - 200 * DAY_S),
                replace(waiting, published_at=NOW, activate_at=NOW + DAY_S),
            ]
        ),
    ],
    ids=["within a day", "late, but under way"],
)
def test_rotation_that_is_coming_is_not_overdue(runtime: Runtime, record: Ring) -> None:
    """A warning is for what nobody takes care of."""
    assert levels(with_keyring(runtime, record(runtime.keyring)))["key_rotation"] == "ok"


async def test_unreadable_store_degrades_and_then_stops(
    runtime: Runtime, clock: ManualClock, settings: Settings
) -> None:
    """Young enough keys go on; too old ones sign nothing (I3). The file and its fix are named, and
    all is well again by itself."""
    (pem, _) = sorted(settings.keys_dir.glob("*.pem"))
    pem.chmod(0o644)
    clock.advance(100)
    await runtime.keys.refresh()
    assert levels(runtime) | {"key_store": "warn"} == levels(runtime)
    assert f"chmod 600 {pem}" in detail(runtime, "key_store")
    assert "used for another 43100 s" in detail(runtime, "key_store")
    assert all(check.is_ok for check in key_checks(runtime))
    clock.advance(DAY_S // 2)
    await runtime.keys.refresh()
    assert levels(runtime)["signing_key"] == "fail"
    assert "not confirmed for 43300 s" in detail(runtime, "signing_key")
    assert str(pem) in detail(runtime, "signing_key")
    pem.chmod(0o600)
    await runtime.keys.refresh()
    assert set(levels(runtime).values()) == {"ok"}


async def test_unwritable_store_degrades(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing can be rotated, nor dropped: somebody should know before it is needed."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OperatorError):
        await change_keys(runtime, start_rotation, actor="operator")
    assert levels(runtime) | {"key_store": "warn"} == levels(runtime)
    assert "No space left on device" in detail(runtime, "key_store")
    monkeypatch.undo()
    await change_keys(runtime, start_rotation, actor="operator")
    assert set(levels(runtime).values()) == {"ok"}


def test_gauges_are_those_of_the_keys(runtime: Runtime, clock: ManualClock) -> None:
    """What alert rules are written on (docs/keys.md)."""
    clock.advance(60)
    update_key_gauges(runtime)
    text = runtime.metrics.render()[0].decode()
    assert 'token_server_signing_keys{state="next"} 1.0' in text
    assert "token_server_keyring_generation 1.0" in text
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if line[:1] != "#")
    assert float(values["token_server_key_rotation_due_seconds"]) == ROTATE_EVERY_S - 60
    assert 60 <= float(values["token_server_keyring_age_seconds"]) < 120
    assert 'token_server_key_store_problems_total{operation="read"} 0.0' in text


async def test_readiness_is_logged_when_it_changes(
    runtime: Runtime, clock: ManualClock, capfd: pytest.CaptureFixture[str]
) -> None:
    """Warned is not failed, and neither is repeated."""
    bad = with_keyring(runtime, runtime.keyring.with_records(runtime.keyring.keys[:1]))
    readiness = Readiness(bad)
    capfd.readouterr()
    for _ in range(3):
        await readiness.checks()
        clock.advance(2)
    lines = [line for line in capfd.readouterr().err.splitlines() if "readiness_changed" in line]
    assert len(lines) == 1
    assert '"failed":[],"warned":["next_key"]' in lines[0]
