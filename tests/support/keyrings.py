"""Key directories for tests: settings that name one, a whole one made once, processes on one."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

from token_server.config import Settings
from token_server.core.key_store import KeyringSeal, KeyStore
from token_server.crypto.keyring import Keyring
from token_server.crypto.keystore import DirectoryKeyStore
from token_server.crypto.live_keys import LiveKeys, Surroundings
from token_server.crypto.opening import DatabaseKeys, OpenedKeys, Place
from token_server.crypto.secrets import MasterKeys, load_master_keys
from token_server.records import Secret, StoredKeyring
from token_server.runtime import Runtime

NOW = 1_700_000_000
MASTER = MasterKeys({1: bytes(range(32))})


def open_store(keys_dir: Path) -> DirectoryKeyStore:
    """The store of `keys_dir` under MASTER."""
    return DirectoryKeyStore(keys_dir, MASTER, os.urandom)


def names(keys_dir: Path) -> set[str]:
    return {path.name for path in keys_dir.iterdir()}


def contents(keys_dir: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in keys_dir.iterdir()}


def pems(keys_dir: Path) -> list[Path]:
    return sorted(keys_dir.glob("*.pem"))


def whole_names(keyring: StoredKeyring) -> set[str]:
    """What lies in a directory that holds this keyring and nothing else."""
    return {".lock", "keyring.json"} | {f"{stored.key.kid}.pem" for stored in keyring.keys}


def master_of(keys_dir: Path) -> MasterKeys:
    keys = load_master_keys(keys_dir / "master.key", keys_dir)
    assert keys is not None
    return keys


def key_settings(keys_dir: Path, master_key_file: Path | None = None) -> Settings:
    """Settings whose keys are in `keys_dir`."""
    return Settings(
        mode="tool",
        database_url=Secret("sqlite:///unused.db"),
        default_audience="https://orders.example",
        keys_dir=keys_dir,
        master_key_file=master_key_file or keys_dir / "master.key",
    )


def beside(keyring_id: str | None, place: Place = "directory") -> DatabaseKeys:
    """A database that remembers this keyring, and whose own key store nobody asks."""

    def no_store(_seal: KeyringSeal) -> KeyStore:
        raise AssertionError("the database's key store was asked for")

    return DatabaseKeys(keyring_id, place, no_store)


def with_keyring(runtime: Runtime, keyring: Keyring) -> Runtime:
    """The same runtime with other keys in memory, over a store that nobody asks."""
    master_keys = runtime.master_keys
    store = open_store(runtime.settings.keys_dir)
    opened = OpenedKeys(master_keys, keyring, lambda _: store, is_new=False, warnings=())
    clock, entropy = runtime.clock, runtime.entropy
    around = Surroundings(runtime.settings, clock.now, clock.monotonic, entropy.token_bytes)
    return dataclasses.replace(runtime, keys=LiveKeys(opened, around))


def start_python(source: str, *arguments: str) -> "subprocess.Popen[str]":
    """Another operating-system process that runs `source`."""
    return subprocess.Popen(
        [sys.executable, "-c", source, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
