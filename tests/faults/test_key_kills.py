"""Killed and refused writes of signing keys, in short; `scripts/key_kills` has every step."""

import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.faults.key_operations import OVERRIDES
from tests.faults.key_steps import name_of
from tests.support.process import ROOT, Installation
from tests.support.server import copy_keys
from token_server.crypto.keystore import directory_problems

# Calls that change files, as the kernel has them; no other may touch the key directory.
_CHANGING = (
    "openat,creat,fchmod,chmod,fchmodat,write,pwrite64,writev,fsync,fdatasync,sync_file_range,"
    "rename,renameat,renameat2,unlink,unlinkat,rmdir,mkdir,mkdirat,ftruncate,truncate,link,linkat,"
    "symlink,symlinkat,fallocate,copy_file_range,sendfile,chown,fchown,fchownat"
)
_CALL = re.compile(r"^\d+ +([a-z0-9_]+)\((.*)")
_NAMES = {"openat": "open", "rename": "replace", "renameat": "replace", "renameat2": "replace"}


@pytest.mark.parametrize(
    ("store", "operation", "every"),
    [
        ("directory", "first start", 20),
        ("directory", "rotate", 10),
        ("directory", "compromise KID (active)", 10),
        ("directory", "upkeep of a server", 60),
        ("sqlite", "compromise KID (active)", 4),
    ],
)
def test_kill_at_any_step_leaves_a_whole_keyring(store: str, operation: str, every: int) -> None:
    """229: whatever a kill -9 interrupts, the next start has the old keys or the new ones, signs,
    verifies what was signed before, and a repetition leaves nothing over."""
    # A process of its own: it forks, which pytest's threads forbid.
    done = subprocess.run(
        [
            *(sys.executable, "scripts/_key_kills.py", "--exact", "--only", operation),
            *("--store", store, "--every", str(every)),
        ],
        cwd=ROOT,
        env=Installation(ROOT, "").environ(),
        capture_output=True,
        text=True,
        check=False,
    )
    summary = re.search(rf"^{store}: (\d+) kills, (\d+) problems$", done.stdout, re.MULTILINE)
    assert summary is not None, done.stdout + done.stderr
    assert done.returncode == 0, done.stdout
    assert int(summary[1]) >= 2


# ---- what strace sees and injects -----------------------------------------------------------


@pytest.fixture(scope="module")
def new_keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with `keys/` that sign from now on."""
    directory = tmp_path_factory.mktemp("new-keys")
    Installation(directory, "sqlite:///unused.db", OVERRIDES).run_cli("keys", "init")
    return directory


@pytest.fixture
def installation(new_keys: Path, sqlite_url: str, tmp_path: Path) -> Installation:
    copy_keys(new_keys, tmp_path)
    return Installation(tmp_path, sqlite_url, OVERRIDES)


def traced(
    installation: Installation, *arguments: str, options: list[str]
) -> "subprocess.CompletedProcess[str]":
    """`token-server ARGUMENTS` under strace; skipped, and said so, where that is impossible."""
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    done = subprocess.run(
        [
            *("strace", "-f", "-qq", "-y", "-o", str(installation.directory / "trace"), *options),
            *(sys.executable, "-m", "token_server", *arguments),
        ],
        cwd=installation.directory,
        env={**installation.environ(), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    if "ptrace" in done.stderr and "not permitted" in done.stderr:
        pytest.skip("strace may not trace here")
    return done


def changing_calls(installation: Installation) -> Counter[str]:
    """What strace saw done to the key directory, under the names of key_steps."""
    keys_dir = str(installation.directory / "keys")
    found: Counter[str] = Counter()
    for line in (installation.directory / "trace").read_text().splitlines():
        call = _CALL.match(line)
        if call is None or keys_dir not in call[2]:
            continue
        if call[1] == "openat" and "O_CREAT" not in call[2]:
            continue
        paths = re.findall(rf"{re.escape(keys_dir)}[^\s\">,]*", call[2])
        found[f"{_NAMES.get(call[1], call[1])} {name_of(paths[0], keys_dir)}"] += 1
    return found


def test_the_kills_miss_no_system_call(installation: Installation) -> None:
    """What is killed at each step is all that the kernel is asked to change, but for the writing
    of bytes into a temporary file, which lies between two such steps."""
    kid = signing_kid(installation)
    done = traced(installation, "keys", "compromise", kid, options=["-e", f"trace={_CHANGING}"])
    assert done.returncode == 0, done.stderr
    seen = changing_calls(installation)
    file_steps = {"open", "fchmod", "write", "fsync", "replace"}
    per_file = {
        f"{call} .{name}.*.tmp": 1 for name in ("KID.pem", "keyring.json") for call in file_steps
    }
    assert seen == {**per_file, "open .lock": 1, "fsync keys/": 3, "unlink KID.pem": 1}


def signing_kid(installation: Installation) -> str:
    manifest = json.loads((installation.directory / "keys" / "keyring.json").read_text())
    (kid,) = [
        key["kid"]
        for key in manifest["keyring"]["keys"]
        if key["activate_at"] is not None and key["compromised_at"] is None
    ]
    return str(kid)


def live_set(installation: Installation) -> dict[str, bytes]:
    keys_dir = installation.directory / "keys"
    return {path.name: path.read_bytes() for path in keys_dir.iterdir()}


# Where strace can tell calls apart by path it does; a rotation renames its private half first and
# its manifest second, and nothing else is renamed.
REFUSALS: dict[str, tuple[str | None, str, str]] = {
    "no file for the lock": (".lock", "openat", "error=ENOSPC"),
    "private half not renamed": (None, "rename", "error=ENOSPC:when=1"),
    "private half not synced": ("", "fsync", "error=EIO:when=1"),
    "manifest not renamed, full": (None, "rename", "error=ENOSPC:when=2"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refused_write_leaves_the_live_set_untouched(case: str, installation: Installation) -> None:
    """234: when the kernel refuses a write of a rotation, the command says so and ends with an
    error, and not one byte of the live set is another."""
    kid, before = signing_kid(installation), live_set(installation)
    name, call, fault = REFUSALS[case]
    keys_dir = installation.directory / "keys"
    where = [] if name is None else ["-P", str(keys_dir / name)]
    options = [*where, "-e", f"trace={call}", "-e", f"inject={call}:{fault}"]
    done = traced(installation, "keys", "rotate", options=options)
    assert "(INJECTED)" in (installation.directory / "trace").read_text()
    assert done.returncode == 1
    assert str(keys_dir) in done.stderr
    assert "Traceback" not in done.stderr
    assert live_set(installation) == before
    assert directory_problems(keys_dir) == []
    assert signing_kid(installation) == kid


MADE: dict[str, tuple[str, str, str, str]] = {
    "manifest in place, not synced": ("", "fsync", "error=EIO:when=2", "key_directory_not_synced"),
    "old private half not removed": ("KID", "unlink", "error=EIO", "key_leftovers_not_removed"),
}


@pytest.mark.parametrize("case", MADE)
def test_fault_after_the_switch_is_reported_and_tidied_later(
    case: str, installation: Installation
) -> None:
    """234: once the manifest is in its place the change is made; a disk that fails then is named
    in a warning, and the next change removes what is left."""
    kid = signing_kid(installation)
    name, call, fault, event = MADE[case]
    path = installation.directory / "keys" / name.replace("KID", f"{kid}.pem")
    options = ["-P", str(path), "-e", f"trace={call}", "-e", f"inject={call}:{fault}"]
    done = traced(installation, "keys", "compromise", kid, "--json", options=options)
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    assert answer["changed"]
    assert event in done.stderr
    assert f"{kid}.pem" in live_set(installation)
    assert signing_kid(installation) != kid
    installation.run_cli("keys", "rotate")
    assert f"{kid}.pem" not in live_set(installation)
