"""Those who write a key directory at the same time, and what stands in their way: the lock, the
word of a serving process, a directory that is not ours to read."""

import json
import os
import shutil
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.keyrings import master_of, names, open_store, whole_names
from token_server.core.key_policy import KeyPolicy, Serving
from token_server.crypto import private_files
from token_server.crypto.keystore import DirectoryKeyStore, directory_problems
from token_server.errors import OperatorError
from token_server.records import StoredKeyring

POLICY = KeyPolicy(
    lead_s=600,
    rotate_every_s=7200,
    jwks_max_age_s=60,
    reload_interval_s=5,
    clock_skew_s=10,
    access_token_ttl_s=120,
)


def store_of(keys_dir: Path) -> DirectoryKeyStore:
    return DirectoryKeyStore(keys_dir, master_of(keys_dir), os.urandom)


async def test_word_of_a_serving_process_is_read_back(keys_dir: Path) -> None:
    """The newest word counts, whatever clock it was written by, and is closed to others."""
    store = store_of(keys_dir)
    assert await store.last_serving() is None
    for served_at in (200, 100):
        await store.record_serving(Serving(served_at, POLICY))
        assert await store.last_serving() == Serving(served_at, POLICY)
    assert (keys_dir / "serving.json").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b'{"served_at": "soon"}',
        b'{"x": ' + b"[" * 100_000,
        b'{"served_at": 1}',
        b'{"served_at": 1, "policy": {"lead_s": 1}}',
    ],
)
async def test_unreadable_word_counts_as_none(content: bytes, keys_dir: Path) -> None:
    """It is only a hint: damage must not stop a start. A file open to others counts as damaged."""
    path = keys_dir / "serving.json"
    path.write_bytes(content)
    path.chmod(0o600)
    assert await store_of(keys_dir).last_serving() is None
    await store_of(keys_dir).record_serving(Serving(7, POLICY))
    assert await store_of(keys_dir).last_serving() == Serving(7, POLICY)
    path.chmod(0o666)
    assert await store_of(keys_dir).last_serving() is None


async def test_word_and_change_do_not_disturb_each_other(
    first: StoredKeyring, tmp_path: Path
) -> None:
    """A change removes what killed writers left; the temporary file of a living one is not."""
    keys_dir = tmp_path / "keys"
    store = open_store(keys_dir)
    assert await store.replace(first, 0)
    left = keys_dir / f".serving.json.{'0' * 16}.tmp"
    failures: list[BaseException] = []
    stop = threading.Event()

    def speak() -> None:
        try:
            while not stop.is_set():
                open_store(keys_dir)._record_serving(Serving(1, POLICY))
        except BaseException as error:  # noqa: BLE001 - looked at below
            failures.append(error)

    speaker = threading.Thread(target=speak)
    speaker.start()
    keyring = first
    for _ in range(30):
        left.touch(mode=0o600)
        keyring = replace(keyring, generation=keyring.generation + 1)
        assert await store.replace(keyring, keyring.generation - 1)
    stop.set()
    speaker.join()
    assert failures == []
    assert names(keys_dir) == whole_names(first) | {"serving.json"}


async def test_change_waits_for_the_lock_that_others_see(
    first: StoredKeyring, tmp_path: Path
) -> None:
    """Who restores the directory under a waiting change puts another lock file there: the change
    takes the new one, so that two never write at once."""
    keys_dir = tmp_path / "keys"
    await open_store(keys_dir).replace(first, 0)
    lock = keys_dir / ".lock"
    held = private_files.locked(keys_dir)
    held.__enter__()
    done: list[bool] = []
    change = threading.Thread(
        target=lambda: done.append(open_store(keys_dir)._replace(replace(first, generation=2), 1))
    )
    change.start()
    lock.unlink()
    with private_files.locked(keys_dir):  # another file of the same name
        held.__exit__(None, None, None)  # the waiting change gets the old one
        change.join(0.3)
        assert done == []
    change.join()
    assert done == [True]


async def test_change_in_a_directory_that_was_opened_is_refused(
    first: StoredKeyring, tmp_path: Path
) -> None:
    """227: a directory that others could write meanwhile is named, not silently closed."""
    keys_dir = tmp_path / "keys"
    await open_store(keys_dir).replace(first, 0)
    keys_dir.chmod(0o775)
    with pytest.raises(OperatorError, match="chmod 700"):
        await open_store(keys_dir).replace(replace(first, generation=2), 1)
    assert keys_dir.stat().st_mode & 0o777 == 0o775
    assert await open_store(keys_dir).load() == first


@pytest.mark.parametrize("mode", [0o000, 0o100, 0o300, 0o600])
def test_directory_that_cannot_be_read_is_a_problem_by_name(mode: int, keys_dir: Path) -> None:
    """233: whatever right is missing, the answer is a problem with the directory's name, never a
    foreign exception."""
    (keys_dir / "keyring.json").unlink()
    keys_dir.chmod(mode)
    source = (
        "import json, sys; from pathlib import Path\n"
        "from token_server.crypto.keystore import directory_problems\n"
        "print(json.dumps(directory_problems(Path(sys.argv[1]))))\n"
    )
    less_than_root: list[str] = []
    if os.geteuid() == 0:
        if shutil.which("setpriv") is None:
            pytest.skip("root may read everything, and there is no setpriv to be less than root")
        less_than_root = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]
    done = subprocess.run(
        [*less_than_root, sys.executable, "-c", source, str(keys_dir)],
        capture_output=True,
        text=True,
        check=True,
    )
    keys_dir.chmod(0o700)
    problems = json.loads(done.stdout)
    assert problems
    assert all(str(keys_dir) in problem for problem in problems)


def test_missing_directory_is_no_problem_yet(tmp_path: Path) -> None:
    """Before the first start there is nothing to examine."""
    assert directory_problems(tmp_path / "keys") == []
