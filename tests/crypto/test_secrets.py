"""The master key: its file, its versions, what derives from it, and that it is never shown."""

import base64
import copy
import os
import pickle
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.keyrings import start_python
from token_server.crypto.private_files import FileProblemError
from token_server.crypto.secrets import (
    MasterKeys,
    UnknownMasterKeyError,
    load_master_keys,
    load_or_create_master_keys,
    master_key_warnings,
)
from token_server.errors import OperatorError

KEY = bytes(range(100, 132))
OTHER = bytes(range(7, 39))
TEXT = base64.urlsafe_b64encode(KEY).rstrip(b"=").decode()
OTHER_TEXT = base64.urlsafe_b64encode(OTHER).rstrip(b"=").decode()
DERIVATIONS: tuple[Callable[[MasterKeys, int], bytes], ...] = (
    MasterKeys.refresh_mac_key,
    MasterKeys.key_encryption_key,
    MasterKeys.manifest_mac_key,
    MasterKeys.status_permutation_key,
)

# Computed with hmac and hashlib alone, from RFC 5869.
PINNED = ["59c5f200ea95044c", "41c7693b2d49260a", "9dc5c50e7bb45071", "f667da3f1ddcf0d9"]
PINNED_CHECK = "1:HoiYgnQkzxZTeryVZKdhBg"


def write(path: Path, content: str | bytes, mode: int = 0o600) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    path.chmod(mode)
    return path


def test_derived_keys_are_pinned() -> None:
    """A change of a label would orphan every refresh token and private key (RFC 5869)."""
    keys = MasterKeys({1: KEY})
    assert [derive(keys, 1).hex()[:16] for derive in DERIVATIONS] == PINNED
    assert keys.check_value() == PINNED_CHECK


def test_every_purpose_and_version_has_its_own_key() -> None:
    """Keys for different purposes or versions have nothing in common."""
    keys = MasterKeys({1: KEY, 2: OTHER})
    derived = {derive(keys, version) for derive in DERIVATIONS for version in (1, 2)}
    assert len(derived) == 2 * len(DERIVATIONS)
    assert not derived & {KEY, OTHER}
    assert {len(key) for key in derived} == {32}


def test_highest_version_is_current_and_old_ones_stay() -> None:
    """After a change of master key families born under the old version keep their MAC key."""
    old, both = MasterKeys({1: KEY}), MasterKeys({2: OTHER, 1: KEY})
    assert (both.current, both.versions) == (2, (1, 2))
    assert both.refresh_mac_key(1) == old.refresh_mac_key(1)
    assert both.find_refresh_mac_key(1) == old.refresh_mac_key(1)


def test_unknown_version_is_refused() -> None:
    """A version that is gone is an error where we name it and None where a token names it."""
    keys = MasterKeys({2: KEY})
    with pytest.raises(UnknownMasterKeyError):
        keys.refresh_mac_key(1)
    assert keys.find_refresh_mac_key(1) is None


def test_check_value_recognises_its_master_key_through_versions() -> None:
    """The database's note of the master key still holds when a version is added, not for
    another key, and malformed notes match nothing."""
    note = MasterKeys({1: KEY}).check_value()
    assert MasterKeys({1: KEY, 2: OTHER}).matches(note)
    assert not MasterKeys({1: OTHER}).matches(note)
    assert not MasterKeys({2: KEY}).matches(note)
    for bad in ("", ":", "1", "1:", "x:y", "²:abc", note + "A", note.replace("1:", "2:")):
        assert not MasterKeys({1: KEY}).matches(bad)


def test_master_keys_never_show_their_bytes() -> None:
    """Neither repr nor pickling nor copying lets a key out."""
    keys = MasterKeys({1: KEY})
    assert repr(keys) == str(keys) == f"{keys}" == "MasterKeys(versions=(1,), current=1)"
    for escape in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError):
            escape(keys)


@pytest.mark.parametrize("keys", [{}, {1: b"short"}, {0: KEY}, {65536: KEY}])
def test_impossible_master_keys_are_refused(keys: dict[int, bytes]) -> None:
    """No key, a short key and a version that a token cannot name are mistakes of ours."""
    with pytest.raises(ValueError, match="master key"):
        MasterKeys(keys)


@pytest.mark.parametrize(
    "content",
    [
        f"1:{TEXT}\n",
        f"{TEXT}",
        f"{TEXT}=\n",
        base64.b64encode(KEY).decode() + "\n",
        KEY.hex() + "\n",
        KEY.hex().upper(),
        f"# a comment\n\n  1:{TEXT}  \r\n",
    ],
)
def test_master_key_file_forms(content: str, tmp_path: Path) -> None:
    """The versioned form and what `openssl rand` prints are all read as version 1."""
    path = write(tmp_path / "master", content)
    keys = load_master_keys(path, tmp_path)
    assert keys is not None
    assert keys.check_value() == MasterKeys({1: KEY}).check_value()


def test_master_key_file_with_versions(tmp_path: Path) -> None:
    """Several lines are several versions, in any order."""
    path = write(tmp_path / "master", f"7:{OTHER_TEXT}\n3:{TEXT}\n")
    keys = load_master_keys(path, tmp_path)
    assert keys is not None
    assert keys.versions == (3, 7)
    assert keys.refresh_mac_key(3) == MasterKeys({3: KEY}).refresh_mac_key(3)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"# nothing\n", id="comments only"),
        pytest.param(f"1:{TEXT[:40]}\n".encode(), id="cut"),
        pytest.param(f"1:{TEXT}A\n".encode(), id="too long"),
        pytest.param(f"1:{TEXT[:-1]}B\n".encode(), id="spare bits set"),
        pytest.param(f"0:{TEXT}\n".encode(), id="version 0"),
        pytest.param(f"01:{TEXT}\n".encode(), id="leading zero"),
        pytest.param(f"65536:{TEXT}\n".encode(), id="version too large"),
        pytest.param(f"1:{TEXT}\n1:{OTHER_TEXT}\n".encode(), id="version twice"),
        pytest.param(f"1:{TEXT}\n2:{TEXT}\n".encode(), id="key twice"),
        pytest.param(f"{TEXT}\n2:{OTHER_TEXT}\n".encode(), id="bare line among versions"),
        pytest.param(f"{TEXT}\n{OTHER_TEXT}\n".encode(), id="two bare lines"),
        pytest.param(b"\xef\xbb\xbf1:" + TEXT.encode(), id="byte order mark"),
        pytest.param(("1:" + TEXT).encode("utf-16"), id="UTF-16"),
        pytest.param(b"1:" + b"A" * 43, id="all zero"),
        pytest.param(b"changeme" * 8, id="placeholder"),
        pytest.param(b"-----BEGIN PRIVATE KEY-----\nMC4=\n", id="a PEM file"),
        pytest.param(KEY, id="raw bytes"),
        pytest.param(b"\n" * (1 << 21), id="huge"),
    ],
)
def test_malformed_master_key_file_is_refused_by_name(content: bytes, tmp_path: Path) -> None:
    """A file that is not exactly a master key file is named, and nothing of it is shown."""
    path = write(tmp_path / "master", content)
    with pytest.raises(FileProblemError) as caught:
        load_master_keys(path, tmp_path)
    assert str(path) in str(caught.value)
    assert TEXT[:20] not in str(caught.value)
    assert "changeme" not in str(caught.value)


def test_first_start_makes_a_private_random_master_key(tmp_path: Path) -> None:
    """At its own place the master key is made once, 0600, and found again."""
    keys_dir = tmp_path / "keys"
    path = keys_dir / "master.key"
    made = load_or_create_master_keys(path, keys_dir, os.urandom)
    again = load_or_create_master_keys(path, keys_dir, os.urandom)
    other_dir = tmp_path / "other"
    other = load_or_create_master_keys(other_dir / "master.key", other_dir, os.urandom)
    assert made.check_value() == again.check_value() != other.check_value()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(keys_dir.stat().st_mode) == 0o700
    assert sorted(found.name for found in keys_dir.iterdir()) == [".lock", "master.key"]


def test_first_start_is_private_under_an_open_umask(tmp_path: Path) -> None:
    """The umask of the shell neither opens the files nor makes them unusable."""
    for umask in (0o000, 0o777):
        keys_dir = tmp_path / f"keys-{umask:o}"
        before = os.umask(umask)
        try:
            load_or_create_master_keys(keys_dir / "master.key", keys_dir, os.urandom)
        finally:
            os.umask(before)
        assert stat.S_IMODE(keys_dir.stat().st_mode) == 0o700
        for path in keys_dir.iterdir():
            assert stat.S_IMODE(path.stat().st_mode) & 0o177 == 0


def test_missing_master_key_elsewhere_is_never_made(tmp_path: Path) -> None:
    """What an operator keeps in a secret store is asked for, not invented."""
    path = tmp_path / "run" / "master"
    with pytest.raises(OperatorError, match="openssl rand -base64 32"):
        load_or_create_master_keys(path, tmp_path / "keys", os.urandom)
    assert list(tmp_path.iterdir()) == []


def test_mounted_secret_may_be_a_link_and_foreign(tmp_path: Path) -> None:
    """Container secrets are links into a directory of root's: both are accepted."""
    target = write(tmp_path / "..data", f"1:{TEXT}\n", 0o440)
    if os.geteuid() == 0:
        os.chown(target, 4711, 4711)
    link = tmp_path / "master"
    link.symlink_to(target)
    keys = load_master_keys(link, tmp_path / "keys")
    assert keys is not None
    assert master_key_warnings(link, tmp_path / "keys") == ()


def test_world_readable_mounted_secret_is_warned_about(tmp_path: Path) -> None:
    """Readable by everyone is unwise and said so; it is not refused."""
    path = write(tmp_path / "master", TEXT, 0o644)
    assert load_master_keys(path, tmp_path / "keys") is not None
    (warning,) = master_key_warnings(path, tmp_path / "keys")
    assert str(path) in warning


def test_world_writable_mounted_secret_is_refused(tmp_path: Path) -> None:
    """Anyone could put a master key of his own there."""
    path = write(tmp_path / "master", TEXT, 0o602)
    with pytest.raises(FileProblemError, match=r"chmod o-w"):
        load_master_keys(path, tmp_path / "keys")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644])
def test_own_master_key_with_an_open_mode_is_refused(mode: int, tmp_path: Path) -> None:
    """At the server's own place the rule for our own files holds: nothing for group and others."""
    path = write(tmp_path / "master.key", TEXT, mode)
    with pytest.raises(OperatorError, match=r"chmod 600 .*master\.key"):
        load_or_create_master_keys(path, tmp_path, os.urandom)


def test_own_master_key_that_is_a_link_is_refused(tmp_path: Path) -> None:
    """A link at our own place could lead the next write astray."""
    target = write(tmp_path / "elsewhere", TEXT)
    (tmp_path / "keys").mkdir(mode=0o700)
    link = tmp_path / "keys" / "master.key"
    link.symlink_to(target)
    with pytest.raises(OperatorError, match="symbolic link"):
        load_or_create_master_keys(link, tmp_path / "keys", os.urandom)


def test_a_directory_or_pipe_is_not_a_master_key(tmp_path: Path) -> None:
    """What is not a regular file is refused at once; a pipe does not make the start hang."""
    os.mkfifo(tmp_path / "pipe", 0o600)
    (tmp_path / "directory").mkdir()
    for name in ("pipe", "directory"):
        with pytest.raises(FileProblemError, match=name):
            load_master_keys(tmp_path / name, tmp_path / "keys")


_CREATE = """
import os, sys, time
from pathlib import Path
from token_server.crypto.secrets import load_or_create_master_keys
keys_dir = Path(sys.argv[1])
while not (keys_dir.parent / "go").exists():
    time.sleep(0.001)
print(load_or_create_master_keys(keys_dir / "master.key", keys_dir, os.urandom).check_value())
"""


def test_simultaneous_processes_agree_on_one_master_key(tmp_path: Path) -> None:
    """Whoever comes second uses the key that the first one made."""
    processes = [start_python(_CREATE, str(tmp_path / "keys")) for _ in range(4)]
    (tmp_path / "go").touch()
    answers = [process.communicate(timeout=60) for process in processes]
    assert len({out for out, _ in answers}) == 1, answers
    assert answers[0][0].startswith("1:")
