"""Changing the master key file that the server made itself, in its key directory.

A file that an operator mounts is never written: it comes from a secret store, and belongs to all
instances at once. Every change is a whole new file under the directory's lock, so that a kill
leaves the old one or the new one. Which version is in use is not the file's to say but the
keyring's (crypto/live_keys.py).
"""

from collections.abc import Mapping

from token_server.config import Settings
from token_server.crypto import private_files
from token_server.crypto.private_files import PRIVATE, EntropySource, FileProblemError
from token_server.crypto.secrets import (
    KEY_BYTES,
    MAX_VERSION,
    encode_base64url,
    is_own_master_key,
    parse_master_keys,
)
from token_server.errors import OperatorError

_HEADING = "# Master key of token-server. Keep a copy apart from keys/."


def is_own(settings: Settings) -> bool:
    """Whether the server may change its master key file: one machine's, at its own place."""
    is_in_place = is_own_master_key(settings.master_key_file, settings.keys_dir)
    return settings.key_store == "directory" and is_in_place


def add_version(settings: Settings, entropy: EntropySource) -> int:
    """Add a new master key beside those that are there; its version. OperatorError when the disk
    refuses: then nothing may be put under it."""
    with private_files.locked(settings.keys_dir):
        keys = _read(settings)
        version = max(keys) + 1
        if version > MAX_VERSION:
            raise OperatorError(f"{settings.master_key_file} has no version above {MAX_VERSION}")
        keys[version] = entropy(KEY_BYTES)
        _write(settings, keys, entropy)
    return version


def keep_only(settings: Settings, version: int, entropy: EntropySource) -> tuple[int, ...]:
    """Take all other versions out of the file; which they were. OperatorError when the disk
    refuses: then they may still be there."""
    with private_files.locked(settings.keys_dir):
        keys = _read(settings)
        dropped = tuple(sorted(set(keys) - {version}))
        if dropped:
            _write(settings, {version: keys[version]}, entropy)
    return dropped


def _read(settings: Settings) -> dict[int, bytes]:
    path = settings.master_key_file
    try:
        return parse_master_keys(private_files.read_file(path, PRIVATE), path)
    except FileNotFoundError:
        raise OperatorError(f"{path} is gone: restore it from its backup") from None
    except FileProblemError as err:
        raise OperatorError(str(err)) from None


def _write(settings: Settings, keys: Mapping[int, bytes], entropy: EntropySource) -> None:
    lines = [_HEADING, *(f"{number}:{encode_base64url(keys[number])}" for number in sorted(keys))]
    path = settings.master_key_file
    try:
        private_files.write_file(path, ("\n".join(lines) + "\n").encode("ascii"), entropy)
    except OSError as err:
        raise OperatorError(f"{path} cannot be written: {err.strerror}") from None
