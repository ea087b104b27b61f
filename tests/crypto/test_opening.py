"""Opening the keyring at start: the first start, the next ones, and every refusal."""

import json
import os
import signal
import stat
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from tests.support.keyrings import (
    MASTER,
    NOW,
    beside,
    contents,
    key_settings,
    names,
    open_store,
    pems,
    start_python,
)
from token_server.crypto import rsa_keys
from token_server.crypto.opening import key_problems, open_keyring
from token_server.errors import OperatorError
from token_server.records import KeyState, StoredKeyring

MASTER_LINE = "1:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8\n"  # bytes 0 to 31, as MASTER


async def test_first_start_makes_an_active_and_a_next_key(tmp_path: Path) -> None:
    """One key signs at once, one waits published, so that even an emergency rotation finds a key
    that verifiers know (keys.md I1)."""
    opened = await open_keyring(key_settings(tmp_path / "keys"), now=NOW, entropy=os.urandom)
    assert opened.is_new
    assert opened.warnings == ()
    states = opened.keyring.states(NOW)
    assert (states[KeyState.ACTIVE], states[KeyState.NEXT], sum(states.values())) == (1, 1, 2)
    active, waiting = opened.keyring.keys
    assert (active.activate_at, waiting.activate_at) == (NOW, None)
    assert active.published_at == active.created_at == waiting.created_at == NOW
    assert waiting.published_at is None  # its lead begins when a server serves it (I2)
    assert opened.keyring.signer(NOW).kid == active.kid
    published = [key["kid"] for key in json.loads(opened.keyring.jwks(NOW))["keys"]]
    assert published == [active.kid, waiting.kid]
    assert opened.keyring.keyring_id.startswith("kr_")
    assert opened.keyring.generation == 1


async def test_next_start_finds_the_same_keys(keys_dir: Path) -> None:
    """A restart changes no key, no file and no byte of the JWKS."""
    before = contents(keys_dir)
    one = await open_keyring(key_settings(keys_dir), now=NOW, entropy=os.urandom)
    two = await open_keyring(key_settings(keys_dir), now=NOW + 9, entropy=os.urandom)
    assert (one.is_new, two.is_new) == (False, False)
    assert one.keyring.jwks(NOW) == two.keyring.jwks(NOW + 9)
    assert one.master_keys.check_value() == two.master_keys.check_value()
    assert contents(keys_dir) == before


async def test_key_size_follows_the_setting(tmp_path: Path) -> None:
    """KEY_BITS decides the size of new keys."""
    settings = msgspec.structs.replace(key_settings(tmp_path / "keys"), key_bits=3072)
    opened = await open_keyring(settings, now=NOW, entropy=os.urandom)
    assert [key.bits for key in opened.keyring.keys] == [3072, 3072]
    assert len(opened.keyring.signer(NOW).sign(b"content")) == 384


async def test_master_key_elsewhere_is_used_and_not_copied(tmp_path: Path) -> None:
    """With MASTER_KEY_FILE elsewhere the key directory alone opens nothing."""
    secret = tmp_path / "secret"
    secret.write_text(MASTER_LINE)
    settings = key_settings(tmp_path / "keys", secret)
    opened = await open_keyring(settings, now=NOW, entropy=os.urandom)
    assert opened.master_keys.check_value() == MASTER.check_value()
    assert "master.key" not in names(tmp_path / "keys")
    assert len(opened.warnings) == 1  # written under the usual umask: everyone may read it
    secret.unlink()
    with pytest.raises(OperatorError, match=r"secret does not exist"):
        await open_keyring(settings, now=NOW, entropy=os.urandom)


async def test_start_without_permission_to_make_keys_makes_nothing(tmp_path: Path) -> None:
    """A command that only looks says that there is nothing (exit code 3) and leaves no trace."""
    settings = key_settings(tmp_path / "keys")
    with pytest.raises(OperatorError, match="token-server keys init") as caught:
        await open_keyring(settings, now=NOW, entropy=os.urandom, create=False)
    assert caught.value.exit_code == 3
    assert names(tmp_path) == set()


async def test_lost_keys_beside_an_old_database_are_not_made_anew(tmp_path: Path) -> None:
    """New keys would silently break every verifier and session: the database knows better."""
    settings = key_settings(tmp_path / "keys")
    with pytest.raises(OperatorError, match=r"kr_old.*restore"):
        await open_keyring(settings, now=NOW, entropy=os.urandom, database=beside("kr_old"))
    assert names(tmp_path) == set()


async def test_keyring_of_another_database_is_refused(keys_dir: Path) -> None:
    """The wrong KEYS_DIR is named as such; the right one is opened."""
    settings = key_settings(keys_dir)
    with pytest.raises(OperatorError, match="belongs to keyring kr_other"):
        await open_keyring(settings, now=NOW, entropy=os.urandom, database=beside("kr_other"))
    known = json.loads((keys_dir / "keyring.json").read_text())["keyring"]["keyring_id"]
    opened = await open_keyring(settings, now=NOW, entropy=os.urandom, database=beside(known))
    assert opened.keyring.keyring_id == known


async def test_lost_master_key_is_not_made_anew(keys_dir: Path) -> None:
    """A new master key would open none of the keys that are there."""
    (keys_dir / "master.key").unlink()
    with pytest.raises(OperatorError, match=r"master\.key is missing: restore it"):
        await open_keyring(key_settings(keys_dir), now=NOW, entropy=os.urandom)
    assert "master.key" not in names(keys_dir)


async def test_every_problem_of_every_file_is_in_one_message(
    keys_dir: Path, tmp_path: Path
) -> None:
    """Key directory and master key are examined together, before anything is used."""
    secret = tmp_path / "secret"
    secret.write_text(MASTER_LINE)
    secret.chmod(0o666)
    first_pem, second_pem = pems(keys_dir)
    first_pem.chmod(0o644)
    second_pem.write_bytes(b"")
    settings = key_settings(keys_dir, secret)
    assert len(key_problems(settings)) == 3
    with pytest.raises(OperatorError) as caught:
        await open_keyring(settings, now=NOW, entropy=os.urandom)
    for path in (first_pem, second_pem, secret):
        assert str(path) in caught.value.message


async def test_malformed_master_key_is_named_once(keys_dir: Path) -> None:
    """One wrong file is one line, though two checks see it."""
    (keys_dir / "master.key").chmod(0o644)
    assert len(key_problems(key_settings(keys_dir))) == 1
    (keys_dir / "master.key").chmod(0o600)
    (keys_dir / "master.key").write_text("changeme")
    (problem,) = key_problems(key_settings(keys_dir))
    assert "master.key is not a master key file" in problem


async def test_swapped_private_halves_fail_the_start(keys_dir: Path) -> None:
    """Two whole files under each other's names: found at start, not by a verifier."""
    one, two = pems(keys_dir)
    first, second = one.read_bytes(), two.read_bytes()
    one.write_bytes(second)
    two.write_bytes(first)
    with pytest.raises(OperatorError) as caught:
        await open_keyring(key_settings(keys_dir), now=NOW, entropy=os.urandom)
    assert caught.value.message.count("it is another key than its name says") == 2
    assert str(one) in caught.value.message
    assert str(two) in caught.value.message


async def test_damaged_private_half_fails_the_start_by_name(keys_dir: Path) -> None:
    """A key that waits is decrypted too: its first signature is too late to learn of it."""
    for path in pems(keys_dir):
        lines = path.read_text().split("\n")
        lines[10] = "A" * 64
        path.write_text("\n".join(lines))
    with pytest.raises(OperatorError) as caught:
        await open_keyring(key_settings(keys_dir), now=NOW, entropy=os.urandom)
    for path in pems(keys_dir):
        assert f"{path}: it is damaged" in caught.value.message
    assert "AAAA" not in caught.value.message


async def test_weak_private_half_fails_the_start(tmp_path: Path, first: StoredKeyring) -> None:
    """A private half that does not belong to its public record never signs, though it was
    encrypted under the right master key."""
    keys_dir = tmp_path / "keys"
    foreign = rsa_keys.encrypt_private(rsa_keys.generate(2048), MASTER.key_encryption_key(1))
    stored = replace(first.keys[0], private_pem=foreign)
    await open_store(keys_dir).replace(replace(first, keys=(stored, first.keys[1])), 0)
    (tmp_path / "secret").write_text(MASTER_LINE)
    with pytest.raises(OperatorError, match=f"{stored.key.kid}.pem: it is another key"):
        await open_keyring(key_settings(keys_dir, tmp_path / "secret"), now=NOW, entropy=os.urandom)


async def test_erased_private_half_is_published_and_does_not_sign(
    tmp_path: Path, first: StoredKeyring
) -> None:
    """A key whose private half is gone for good (I6) needs no file and still verifies."""
    keys_dir = tmp_path / "keys"
    active, waiting = first.keys
    old = replace(active, private_pem=None, master_version=None)
    signing = replace(waiting, key=replace(waiting.key, published_at=NOW, activate_at=NOW + 5))
    await open_store(keys_dir).replace(replace(first, keys=(old, signing)), 0)
    (tmp_path / "secret").write_text(MASTER_LINE)
    settings = key_settings(keys_dir, tmp_path / "secret")
    opened = await open_keyring(settings, now=NOW + 5, entropy=os.urandom)
    assert opened.keyring.signer(NOW + 5).kid == signing.key.kid
    kids = [key["kid"] for key in json.loads(opened.keyring.jwks(NOW + 5))["keys"]]
    assert kids == [old.key.kid, signing.key.kid]
    assert names(keys_dir) == {".lock", "keyring.json", f"{signing.key.kid}.pem"}


async def test_database_mode_never_makes_a_master_key(tmp_path: Path) -> None:
    """Each instance would make its own: the one that they share has to be given to them."""
    settings = msgspec.structs.replace(key_settings(tmp_path / "keys"), key_store="database")
    with pytest.raises(OperatorError, match=r"master\.key does not exist.*each instance is given"):
        await open_keyring(settings, now=NOW, entropy=os.urandom, database=beside(None))
    assert names(tmp_path) == set()


async def test_keys_that_are_kept_elsewhere_are_not_made_or_opened_here(keys_dir: Path) -> None:
    """After a move the old copy must not come back to life beside the new one."""
    settings = key_settings(keys_dir)
    known = json.loads((keys_dir / "keyring.json").read_text())["keyring"]["keyring_id"]
    with pytest.raises(OperatorError, match=r"are in the database itself.*KEY_STORE=database"):
        await open_keyring(
            settings, now=NOW, entropy=os.urandom, database=beside(known, "database")
        )
    settings = msgspec.structs.replace(settings, key_store="database")
    with pytest.raises(OperatorError, match=r"are in a key directory.*KEY_STORE=directory"):
        await open_keyring(settings, now=NOW, entropy=os.urandom, database=beside(known))


_START = """
import asyncio, os, signal, sys, time
from pathlib import Path
from tests.support.keyrings import NOW, key_settings
from token_server.crypto.opening import open_keyring
keys_dir, step, count = Path(sys.argv[1]), int(sys.argv[2]), 0
def dying(name):
    real = getattr(os, name)
    def operation(*args, **kwargs):
        global count
        count += 1
        if count == step:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **kwargs)
    setattr(os, name, operation)
if step:
    for name in ("fchmod", "fsync", "replace", "mkdir"):
        dying(name)
else:
    while not (keys_dir.parent / "go").exists():
        time.sleep(0.001)
opened = asyncio.run(open_keyring(key_settings(keys_dir), now=NOW, entropy=os.urandom))
keyring = opened.keyring
print(opened.is_new, keyring.keyring_id, *[key.kid for key in keyring.keys])
"""


def test_simultaneous_first_starts_give_one_keyring(tmp_path: Path) -> None:
    """Four processes start at once: one makes the keys, all of them sign with the same."""
    keys_dir = tmp_path / "keys"
    processes = [start_python(_START, str(keys_dir), "0") for _ in range(4)]
    (tmp_path / "go").touch()
    answers = [process.communicate(timeout=100) for process in processes]
    assert all(process.returncode == 0 for process in processes), answers
    made = [out.split()[0] for out, _ in answers]
    assert sorted(made) == ["False", "False", "False", "True"]
    assert len({tuple(out.split()[1:]) for out, _ in answers}) == 1
    assert len(names(keys_dir)) == 5  # lock, manifest, master key, two private halves
    assert {stat.S_IMODE(path.stat().st_mode) for path in keys_dir.iterdir()} == {0o600}


@pytest.mark.parametrize("step", range(1, 9))
async def test_first_start_after_a_killed_one_is_whole(step: int, tmp_path: Path) -> None:
    """kill -9 while the directory, the master key and the manifest come into being: the next
    start completes them. (The steps after that: test_keystore_faults.)"""
    keys_dir = tmp_path / "keys"
    process = start_python(_START, str(keys_dir), str(step))
    _, errors = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL, errors
    opened = await open_keyring(key_settings(keys_dir), now=NOW, entropy=os.urandom)
    assert opened.is_new
    again = await open_keyring(key_settings(keys_dir), now=NOW, entropy=os.urandom)
    assert again.keyring.jwks(NOW) == opened.keyring.jwks(NOW)
    assert len(names(keys_dir)) == 5
