"""A whole key directory, made once (RSA keys cost 0.1 s each) and copied for each test."""

import asyncio
import os
import shutil
from pathlib import Path

import pytest

from tests.support.keyrings import MASTER, NOW, key_settings
from token_server.crypto.opening import make_first_keyring, open_keyring
from token_server.records import StoredKeyring


@pytest.fixture(scope="session")
def keyring_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    keys_dir = tmp_path_factory.mktemp("keyring-template") / "keys"
    asyncio.run(open_keyring(key_settings(keys_dir), now=NOW, entropy=os.urandom))
    return keys_dir


@pytest.fixture
def keys_dir(keyring_template: Path, tmp_path: Path) -> Path:
    """A private copy of a whole key directory, modes included."""
    return Path(shutil.copytree(keyring_template, tmp_path / "keys"))


@pytest.fixture(scope="session")
def first() -> StoredKeyring:
    """A first keyring under MASTER that is not stored yet."""
    return make_first_keyring(MASTER, key_settings(Path("unused")), NOW, os.urandom)
