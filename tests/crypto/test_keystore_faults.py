"""Writing the key directory when the disk, a kill or another process gets in the way."""

import asyncio
import contextlib
import errno
import fcntl
import os
import pickle
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.keyrings import (
    MASTER,
    NOW,
    key_settings,
    master_of,
    names,
    open_store,
    start_python,
    whole_names,
)
from token_server.crypto import private_files
from token_server.crypto.keystore import DirectoryKeyStore, directory_problems
from token_server.crypto.opening import make_first_keyring
from token_server.errors import OperatorError
from token_server.records import StoredKeyring


def fail_nth(monkeypatch: pytest.MonkeyPatch, target: int) -> list[str]:
    """Let the `target`-th file operation of a write fail as on a full disk; returns the log."""
    log: list[str] = []

    def failing(name: str) -> None:
        real = getattr(os, name)

        def operation(*args: object, **kwargs: object) -> object:
            log.append(name)
            if len(log) == target:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(*args, **kwargs)

        monkeypatch.setattr(os, name, operation)

    for name in ("open", "fchmod", "fsync", "replace"):
        failing(name)
    return log


async def test_failed_write_leaves_nothing_half(
    first: StoredKeyring, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever operation of a first start fails, the message says so, no private half and no
    temporary file stays, and the next start succeeds."""
    steps, is_complete = 0, False
    while not is_complete:
        steps += 1
        keys_dir = tmp_path / f"keys-{steps}"
        with monkeypatch.context() as patch:
            log = fail_nth(patch, steps)
            message, is_made = "", False
            try:
                is_made = await open_store(keys_dir).replace(first, 0)
            except OperatorError as err:
                message = err.message
            is_complete = is_made and len(log) < steps
        assert is_made or ("No space left on device" in message and str(keys_dir) in message)
        found = await open_store(keys_dir).load()
        assert found == (first if is_made else None)
        if found is None:
            assert names(keys_dir) <= {".lock", "keyring.json"}
            assert await open_store(keys_dir).replace(first, 0)
        assert await open_store(keys_dir).load() == first
        assert names(keys_dir) == whole_names(first)
    assert steps > 20


async def test_failed_change_keeps_the_old_set(
    first: StoredKeyring, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that fills up during a later change costs nothing that was there before; a change
    that was refused was not made."""
    second = replace(
        make_first_keyring(MASTER, key_settings(Path("unused")), NOW, os.urandom),
        keyring_id=first.keyring_id,
        generation=2,
    )
    steps, is_complete = 0, False
    while not is_complete:
        steps += 1
        keys_dir = tmp_path / f"keys-{steps}"
        await open_store(keys_dir).replace(first, 0)
        with monkeypatch.context() as patch:
            log = fail_nth(patch, steps)
            is_made = False
            with contextlib.suppress(OperatorError):
                is_made = await open_store(keys_dir).replace(second, 1)
            is_complete = is_made and len(log) < steps
        expected = second if is_made else first
        assert await open_store(keys_dir).load() == expected
        # The kernel may not have the last name on disk: then what it replaces stays as well.
        assert names(keys_dir) - whole_names(expected) <= whole_names(first)
        if not is_made or is_complete:
            assert names(keys_dir) == whole_names(expected)
    assert steps > 10


_WRITE = """
import asyncio, os, pickle, resource, signal, sys
from pathlib import Path
from token_server.crypto.keystore import DirectoryKeyStore
from token_server.crypto.secrets import MasterKeys
keys_dir, first, fault, step = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
count = 0
def dying(name):
    real = getattr(os, name)
    def operation(*args, **kwargs):
        global count
        count += 1
        if count == step:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **kwargs)
    setattr(os, name, operation)
store = DirectoryKeyStore(keys_dir, MasterKeys({1: bytes(range(32))}), os.urandom)
keyring = pickle.loads(first.read_bytes())
if fault == "kill":
    for name in ("open", "fchmod", "fsync", "replace", "unlink", "mkdir"):
        dying(name)
else:
    resource.setrlimit(resource.RLIMIT_FSIZE, (step, step))
try:
    print(asyncio.run(store.replace(keyring, keyring.generation - 1)))
except Exception as err:
    print(type(err).__name__, err)
"""


@pytest.fixture
def kill_case(first: StoredKeyring, tmp_path: Path) -> Path:
    path = tmp_path / "first.pickle"
    path.write_bytes(pickle.dumps(first))
    return path


async def test_kill_at_any_step_leaves_a_whole_set(
    first: StoredKeyring, kill_case: Path, tmp_path: Path
) -> None:
    """kill -9 before each file operation of a first start: the next start finds nothing or
    everything, finishes what is missing and removes what is left over."""
    steps, finished = 0, 0
    while finished < 2:
        batch = range(steps + 1, steps + 3)  # two at a time: one interpreter per core
        running = [
            start_python(_WRITE, str(tmp_path / f"k{step}"), str(kill_case), "kill", str(step))
            for step in batch
        ]
        for step, process in zip(batch, running, strict=True):
            output, errors = process.communicate(timeout=60)
            assert process.returncode in (-signal.SIGKILL, 0), errors
            finished += process.returncode == 0
            assert output == ("True\n" if process.returncode == 0 else "")
            keys_dir = tmp_path / f"k{step}"
            found = await open_store(keys_dir).load()
            assert found in (None, first)
            if found is None:
                assert await open_store(keys_dir).replace(first, 0)
            await open_store(keys_dir).replace(replace(first, generation=2), 1)
            assert await open_store(keys_dir).load() == replace(first, generation=2)
            assert names(keys_dir) == whole_names(first)
        steps += 2
    assert steps > 20


@pytest.mark.parametrize("limit", [0, 1, 60, 200, 1000, 1600, 1880])
async def test_disk_that_fills_up_inside_a_file_leaves_nothing_half(
    limit: int, first: StoredKeyring, kill_case: Path, tmp_path: Path
) -> None:
    """The kernel refuses the bytes beyond a limit, in the middle of a file: same rule."""
    keys_dir = tmp_path / "keys"
    process = start_python(_WRITE, str(keys_dir), str(kill_case), "limit", str(limit))
    output, _ = process.communicate(timeout=60)
    assert output.startswith("OperatorError"), output
    assert "File too large" in output
    assert await open_store(keys_dir).load() is None
    assert names(keys_dir) <= {".lock", "keyring.json"}
    assert await open_store(keys_dir).replace(first, 0)
    assert names(keys_dir) == whole_names(first)


def test_lock_that_stays_held_is_a_bounded_wait(tmp_path: Path) -> None:
    """A change waits for another one, and then says what is in the way (exit code 5)."""
    tmp_path.chmod(0o700)
    with private_files.locked(tmp_path):
        begun = time.monotonic()
        with (
            pytest.raises(OperatorError, match=r"\.lock is held") as caught,
            private_files.locked(tmp_path, wait_s=0.2),
        ):
            pytest.fail("two holders")
        assert time.monotonic() - begun >= 0.2
    assert caught.value.exit_code == 5
    with private_files.locked(tmp_path, wait_s=0):
        pass  # free again


async def test_lock_of_a_killed_process_is_free(first: StoredKeyring, tmp_path: Path) -> None:
    """The kernel gives the lock back: nobody has to remove a file by hand."""
    source = (
        "import sys, time; from pathlib import Path; "
        "from token_server.crypto.private_files import locked\n"
        "with locked(Path(sys.argv[1])):\n    print('held', flush=True); time.sleep(60)"
    )
    keys_dir = tmp_path / "keys"
    keys_dir.mkdir(mode=0o700)
    process = start_python(source, str(keys_dir))
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    descriptor = os.open(keys_dir / ".lock", os.O_RDWR)
    with pytest.raises(BlockingIOError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(descriptor)
    process.kill()
    process.communicate()
    assert await open_store(keys_dir).replace(first, 0)


async def test_reader_follows_a_change_made_while_it_reads(
    first: StoredKeyring, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading takes no lock: a private half that a change removed meanwhile is not a loss."""
    keys_dir = tmp_path / "keys"
    await open_store(keys_dir).replace(first, 0)
    second = replace(first, generation=2, keys=first.keys[:1])
    real, is_changed = private_files.read_file, False

    def read_file(path: Path, rule: private_files.FileRule) -> bytes:
        nonlocal is_changed
        if path.suffix == ".pem" and not is_changed:
            is_changed = True
            changed = open_store(keys_dir)._replace(second, second.generation - 1)
            assert changed
        return real(path, rule)

    monkeypatch.setattr(private_files, "read_file", read_file)
    assert await open_store(keys_dir).load() == second
    is_changed = False
    second = replace(second, generation=3, keys=first.keys[1:])
    assert directory_problems(keys_dir) == []


def test_reading_takes_no_lock(keys_dir: Path) -> None:
    """A server that only reads its keys, from a read-only mount say, writes nothing there."""
    (keys_dir / ".lock").unlink()
    keys_dir.chmod(0o500)
    store = DirectoryKeyStore(keys_dir, master_of(keys_dir), os.urandom)
    assert asyncio.run(store.load()) is not None
    assert directory_problems(keys_dir) == []
    assert not list(keys_dir.glob(".*"))
    keys_dir.chmod(0o700)
