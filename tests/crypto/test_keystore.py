"""The key directory: what is stored, and what is refused by name."""

import json
import os
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from tests.support.keyrings import MASTER, master_of, names, open_store, whole_names
from token_server.crypto.keystore import DirectoryKeyStore, directory_problems
from token_server.errors import OperatorError
from token_server.records import StoredKeyring


def a_pem(keys_dir: Path) -> Path:
    return min(keys_dir.glob("*.pem"))


async def test_stored_keyring_is_read_back_whole(first: StoredKeyring, tmp_path: Path) -> None:
    """What was put is what another process finds, and nothing else lies beside it."""
    keys_dir = tmp_path / "deep" / "keys"
    assert await open_store(keys_dir).load() is None
    assert await open_store(keys_dir).replace(first, 0)
    assert await open_store(keys_dir).load() == first
    assert names(keys_dir) == whole_names(first)
    assert stat.S_IMODE(keys_dir.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in keys_dir.iterdir()} == {0o600}
    assert directory_problems(keys_dir) == []


async def test_replacing_a_generation_that_has_passed_changes_nothing(
    first: StoredKeyring, tmp_path: Path
) -> None:
    """Two changes from one generation: one wins, the other is told (compare-and-set)."""
    store = open_store(tmp_path / "keys")
    assert await store.replace(first, 0)
    assert not await store.replace(replace(first, keyring_id="kr_other"), 0)
    second = replace(first, generation=2, keys=first.keys[:1])
    assert await store.replace(second, 1)
    assert not await store.replace(replace(first, generation=2), 1)
    assert await store.load() == second
    assert names(tmp_path / "keys") == whole_names(second)


async def test_generation_rises_by_one(first: StoredKeyring, tmp_path: Path) -> None:
    """A change that skips a generation is a mistake of ours, found before anything is written."""
    with pytest.raises(ValueError, match="generation"):
        await open_store(tmp_path / "keys").replace(replace(first, generation=2), 0)
    assert names(tmp_path) == set()


async def test_manifest_is_the_last_thing_written(
    first: StoredKeyring, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each file is synced before its rename and the directory after; the manifest that names the
    private halves follows them, and removals follow the manifest."""
    steps: list[str] = []
    sync, rename = os.fsync, os.replace

    def fsync(descriptor: int) -> None:
        target = Path(f"/dev/fd/{descriptor}").resolve()
        steps.append("sync directory" if target.is_dir() else f"sync {target.suffixes[0]}")
        sync(descriptor)

    def move(source: Path, target: Path) -> None:
        steps.append(f"rename {Path(target).suffix}")
        rename(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", move)
    await open_store(tmp_path / "keys").replace(first, 0)
    manifest = ["sync .json", "rename .json", "sync directory"]
    pem = ["sync .pem", "rename .pem", "sync directory"]
    assert steps == manifest + pem + pem + manifest  # the first manifest names no key
    steps.clear()
    await open_store(tmp_path / "keys").replace(replace(first, generation=2, keys=()), 1)
    assert steps == [*manifest, "sync directory"]


# ---- refused by name ------------------------------------------------------------------------


def chmod(mode: int) -> Callable[[Path], object]:
    return lambda path: path.chmod(mode)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:700])


def link(path: Path) -> None:
    path.rename(path.with_suffix(".moved"))
    path.symlink_to(path.with_suffix(".moved"))


def directory(path: Path) -> None:
    path.unlink()
    path.mkdir(mode=0o700)


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path, 0o600)


def plain_pem(path: Path) -> None:
    key = rsa.generate_private_key(65537, 2048)
    pem, pkcs8, no = (
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    path.write_bytes(key.private_bytes(pem, pkcs8, no))


def public_pem(path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    pem, spki = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    path.write_bytes(key.public_bytes(pem, spki))


def replace_bytes(change: Callable[[bytes], bytes]) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(change(path.read_bytes()))


PEM_FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "readable by all": (chmod(0o644), "chmod 600"),
    "readable by group": (chmod(0o640), "chmod 600"),
    "writable by group": (chmod(0o620), "chmod 600"),
    "link": (link, "symbolic link"),
    "empty": (replace_bytes(lambda _: b""), "empty"),
    "cut in half": (cut, "not one whole encrypted"),
    "two keys": (replace_bytes(lambda pem: pem + pem), "not one whole encrypted"),
    "CRLF": (replace_bytes(lambda pem: pem.replace(b"\n", b"\r\n")), "not one whole encrypted"),
    "byte order mark": (replace_bytes(lambda pem: b"\xef\xbb\xbf" + pem), "not one whole"),
    "trailing text": (replace_bytes(lambda pem: pem + b"x\n"), "not one whole encrypted"),
    "not encrypted": (plain_pem, "not one whole encrypted"),
    "public": (public_pem, "not one whole encrypted"),
    "gone": (Path.unlink, "is missing"),
    "directory": (directory, "not a regular file"),
    "pipe": (pipe, "not a regular file"),
    "huge": (replace_bytes(lambda _: b"A" * (1 << 21)), "too large"),
}


@pytest.mark.parametrize("fault", PEM_FAULTS)
async def test_bad_private_key_file_is_refused_by_name(fault: str, keys_dir: Path) -> None:
    """A private key file that is open to others, not ours or not whole stops the start; the
    message has its name and never a byte of it (ASVS 13.3.2, 16.5.3)."""
    path = a_pem(keys_dir)
    content = path.read_text().splitlines()[1:-1]
    damage, expected = PEM_FAULTS[fault]
    damage(path)
    with pytest.raises(OperatorError, match=expected) as caught:
        await DirectoryKeyStore(keys_dir, master_of(keys_dir), os.urandom).load()
    assert str(path) in caught.value.message
    assert not any(line in caught.value.message for line in content)
    assert [problem for problem in directory_problems(keys_dir) if str(path) in problem]


MANIFEST_FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "writable by group": (chmod(0o620), "chmod go-w"),
    "writable by all": (chmod(0o602), "chmod go-w"),
    "link": (link, "symbolic link"),
    "empty": (replace_bytes(lambda _: b""), "not a whole keyring manifest"),
    "cut in half": (cut, "not a whole keyring manifest"),
    "not JSON": (replace_bytes(lambda _: b"\xff\xfe\x00"), "not a whole keyring manifest"),
    "deeply nested": (replace_bytes(lambda _: b"[" * 100_000), "not a whole keyring manifest"),
    "newer": (replace_bytes(lambda text: text.replace(b'"format": 1', b'"format": 2')), "newer"),
}


@pytest.mark.parametrize("fault", MANIFEST_FAULTS)
async def test_bad_manifest_is_refused_by_name(fault: str, keys_dir: Path) -> None:
    """A manifest that others may write, or that is not whole, stops the start."""
    path = keys_dir / "keyring.json"
    damage, expected = MANIFEST_FAULTS[fault]
    damage(path)
    with pytest.raises(OperatorError, match=expected) as caught:
        await DirectoryKeyStore(keys_dir, master_of(keys_dir), os.urandom).load()
    assert str(path) in caught.value.message
    assert [problem for problem in directory_problems(keys_dir) if str(path) in problem]


async def test_manifest_readable_by_others_is_accepted(keys_dir: Path) -> None:
    """The manifest holds nothing that the JWKS does not publish."""
    (keys_dir / "keyring.json").chmod(0o644)
    assert await DirectoryKeyStore(keys_dir, master_of(keys_dir), os.urandom).load() is not None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize("name", ["keyring.json", ".lock", "master.key", "*.pem", ""])
def test_foreign_owner_is_refused_by_name(name: str, keys_dir: Path) -> None:
    """Whoever owns a file can change it: root's server trusts root's files only."""
    path = next(keys_dir.glob(name)) if name else keys_dir
    os.chown(path, 4711, -1)
    problems = [problem for problem in directory_problems(keys_dir) if str(path) in problem]
    assert problems
    assert all("belongs to user 4711" in problem for problem in problems)
    os.chown(path, 0, -1)


def test_all_problems_are_listed_at_once(keys_dir: Path) -> None:
    """Nobody mends one file to be told of the next."""
    first_pem, second_pem = sorted(keys_dir.glob("*.pem"))
    first_pem.chmod(0o644)
    cut(second_pem)
    (keys_dir / "keyring.json").chmod(0o666)
    (keys_dir / ".lock").chmod(0o666)
    (keys_dir / "master.key").chmod(0o644)
    keys_dir.chmod(0o755)
    problems = "\n".join(directory_problems(keys_dir))
    for name in ("keyring.json", ".lock", "master.key", "chmod 700"):
        assert name in problems
    (keys_dir / "keyring.json").chmod(0o600)  # only a trusted manifest says which keys are live
    problems = "\n".join(directory_problems(keys_dir))
    for name in (first_pem.name, second_pem.name, ".lock", "master.key", "chmod 700"):
        assert name in problems


def test_directory_that_others_may_replace_is_refused(tmp_path: Path) -> None:
    """In a directory that anyone may write, anyone can put his own keys/ in place of ours; the
    sticky bit prevents that."""
    parent = tmp_path / "shared"
    parent.mkdir()
    parent.chmod(0o777)
    assert [str(parent) in problem for problem in directory_problems(parent / "keys")] == [True]
    parent.chmod(0o1777)
    assert directory_problems(parent / "keys") == []


@pytest.mark.parametrize("mode", [0o755, 0o775, 0o750])
async def test_directory_of_a_fresh_clone_is_closed(
    mode: int, first: StoredKeyring, tmp_path: Path
) -> None:
    """Before the first use an open directory of ours is no problem: it is closed, not refused."""
    keys_dir = tmp_path / "keys"
    keys_dir.mkdir()
    keys_dir.chmod(mode)
    (keys_dir / "README.md").write_text("what this is")
    assert directory_problems(keys_dir) == []
    assert await open_store(keys_dir).replace(first, 0)
    assert stat.S_IMODE(keys_dir.stat().st_mode) == 0o700
    assert names(keys_dir) == {*whole_names(first), "README.md"}


@pytest.mark.parametrize("kind", ["world-writable", "link", "file"])
def test_unusable_directory_is_refused_before_first_use(kind: str, tmp_path: Path) -> None:
    """What others could have filled, a link and a file are not made our key directory."""
    keys_dir = tmp_path / "keys"
    if kind == "world-writable":
        keys_dir.mkdir()
        keys_dir.chmod(0o777)
    elif kind == "link":
        (tmp_path / "real").mkdir(mode=0o700)
        keys_dir.symlink_to(tmp_path / "real")
    else:
        keys_dir.touch()
    assert [str(keys_dir) in problem for problem in directory_problems(keys_dir)] == [True]


# ---- authenticity ---------------------------------------------------------------------------


async def test_key_slipped_into_the_manifest_is_refused(keys_dir: Path) -> None:
    """Who can write the file but has not the master key cannot publish a key of his own."""
    path = keys_dir / "keyring.json"
    manifest = json.loads(path.read_text())
    stolen = {**manifest["keyring"]["keys"][0], "master_version": None, "retire_at": None}
    manifest["keyring"]["keys"] = [stolen]
    path.write_text(json.dumps(manifest))
    with pytest.raises(OperatorError, match="changed by something else"):
        await DirectoryKeyStore(keys_dir, master_of(keys_dir), os.urandom).load()


async def test_another_master_key_is_refused_as_such(keys_dir: Path) -> None:
    """The wrong MASTER_KEY_FILE is said to be wrong, not the keys to be damaged."""
    with pytest.raises(OperatorError, match="belongs to another master key"):
        await DirectoryKeyStore(keys_dir, MASTER, os.urandom).load()


async def test_reindented_manifest_is_the_same_manifest(keys_dir: Path) -> None:
    """The MAC covers what the manifest says, not how a tool laid it out."""
    path = keys_dir / "keyring.json"
    path.write_text(json.dumps(json.loads(path.read_text()), indent=8))
    path.chmod(0o600)
    assert await DirectoryKeyStore(keys_dir, master_of(keys_dir), os.urandom).load() is not None


async def test_lost_manifest_is_refused_and_nothing_is_removed(
    keys_dir: Path, first: StoredKeyring
) -> None:
    """Private keys without a manifest are a loss to mend, not leftovers to sweep away."""
    (keys_dir / "keyring.json").unlink()
    before = names(keys_dir)
    (problem,) = directory_problems(keys_dir)
    assert "holds private keys but no keyring.json" in problem
    with pytest.raises(OperatorError, match=r"no keyring\.json"):
        await DirectoryKeyStore(keys_dir, master_of(keys_dir), os.urandom).replace(first, 0)
    assert names(keys_dir) == before
