"""The key directory: the default KeyStore (core/key_store.py), on one machine.

It holds `keyring.json` (crypto/manifest.py) and one `<kid>.pem` per live private
half; a serving process leaves its word in `serving.json`.
A change takes the directory's lock, compares the generation, writes new private halves, then the
manifest, then removes what the manifest no longer names: killed anywhere, the next start finds
the old set or the new one, whole. Nothing here decides which key signs or when.
"""

import asyncio
import contextlib
import re
from collections.abc import Hashable
from dataclasses import replace
from pathlib import Path

import msgspec

from token_server.core.key_policy import Serving
from token_server.crypto import private_files
from token_server.crypto.manifest import (
    RESTORE,
    ManifestError,
    check_manifest,
    decode_manifest,
    encode_manifest,
)
from token_server.crypto.private_files import PRIVATE, PROTECTED, EntropySource, FileProblemError
from token_server.crypto.rsa_keys import KeyUnusableError, check_form
from token_server.crypto.secrets import MASTER_KEY_NAME, MasterKeys
from token_server.errors import OperatorError
from token_server.logs import get_logger
from token_server.records import StoredKey, StoredKeyring

MANIFEST_NAME = "keyring.json"
SERVING_NAME = "serving.json"
_PEM_NAME = re.compile(r"[A-Za-z0-9_-]{43}\.pem")
_READ_ATTEMPTS = 3
_MALFORMED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

_log = get_logger(__name__)


class DirectoryKeyStore:
    """KeyStore in a directory of one machine."""

    def __init__(self, keys_dir: Path, master_keys: MasterKeys, entropy: EntropySource) -> None:
        self._directory = keys_dir
        self._master_keys = master_keys
        self._entropy = entropy

    async def load(self) -> StoredKeyring | None:
        return await asyncio.to_thread(self._load)

    async def replace(self, keyring: StoredKeyring, expected_generation: int) -> bool:
        return await asyncio.to_thread(self._replace, keyring, expected_generation)

    async def peek(self) -> Hashable:
        return await asyncio.to_thread(self._peek)

    async def last_serving(self) -> Serving | None:
        return await asyncio.to_thread(self._last_serving)

    async def record_serving(self, serving: Serving) -> None:
        await asyncio.to_thread(self._record_serving, serving)

    def locate(self, stored: StoredKey) -> str:
        return str(pem_path(self._directory, stored))

    def _peek(self) -> Hashable:
        path = self._directory / MANIFEST_NAME
        try:
            status = path.stat(follow_symlinks=False)
        except OSError as err:
            raise OperatorError(f"{path} cannot be examined: {err.strerror}") from None
        # Each change is a new file under the old name.
        return (status.st_ino, status.st_mtime_ns, status.st_size)

    def _last_serving(self) -> Serving | None:
        try:
            content = private_files.read_file(self._directory / SERVING_NAME, PROTECTED)
            return msgspec.json.decode(content, type=Serving)
        except (FileNotFoundError, FileProblemError, *_MALFORMED):
            return None

    def _record_serving(self, serving: Serving) -> None:
        path = self._directory / SERVING_NAME
        # Under the lock: a change removes the temporaries that it finds, this one too.
        with private_files.locked(self._directory):
            try:
                private_files.remove_temporaries(self._directory)
                private_files.write_file(path, msgspec.json.encode(serving) + b"\n", self._entropy)
            except OSError as err:
                raise OperatorError(f"{path} cannot be written: {err.strerror}") from None

    def _load(self) -> StoredKeyring | None:
        # No lock, so that a read-only mount can be read. A private half that is gone means that
        # the manifest has moved on since it was read: read again.
        for attempt in range(_READ_ATTEMPTS):
            manifest = self._read_manifest()
            if manifest is None or manifest.generation == 0:
                return None
            keys, problems, is_missing = _read_private_halves(self._directory, manifest)
            if not problems:
                return replace(manifest, keys=keys)
            if not is_missing or attempt == _READ_ATTEMPTS - 1:
                raise problems_error(problems)
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _read_manifest(self) -> StoredKeyring | None:
        path = self._directory / MANIFEST_NAME
        try:
            content = private_files.read_file(path, PROTECTED)
            manifest = decode_manifest(content)
            check_manifest(content, self._master_keys)
        except FileNotFoundError:
            return None
        except FileProblemError as err:
            raise problems_error([str(err)]) from None
        except ManifestError as err:
            raise problems_error([f"{path}: {err}"]) from None
        return manifest

    def _replace(self, keyring: StoredKeyring, expected_generation: int) -> bool:
        if keyring.generation != expected_generation + 1:
            raise ValueError("a keyring's generation rises by one with each change")
        if expected_generation == 0:
            private_files.make_directory(self._directory)
        elif problems := private_files.directory_problems(self._directory, is_in_use=True):
            raise problems_error(problems)  # opened to others since the start: not ours to hide
        with private_files.locked(self._directory):
            current = self._read_manifest()
            if (current.generation if current else 0) != expected_generation:
                return False
            try:
                self._remove_leftovers(current)
                if current is None:
                    # From here on private halves without a complete manifest are what a killed
                    # first start left, and not the remains of a lost manifest.
                    self._write_manifest(replace(keyring, generation=0, keys=()))
                self._write_change(keyring, current)
            except OSError as err:
                with contextlib.suppress(OSError, OperatorError):
                    self._remove_leftovers(self._read_manifest())
                raise OperatorError(
                    f"{self._directory} cannot be written ({err.strerror}): the keyring is "
                    "whole, as before or as asked; make room or mend the file system, and try again"
                ) from None
        return True

    def _write_change(self, keyring: StoredKeyring, current: StoredKeyring | None) -> None:
        held = {(old.key.kid, old.master_version) for old in (current.keys if current else ())}
        for stored in keyring.keys:
            is_held = (stored.key.kid, stored.master_version) in held
            if stored.private_pem is not None and not is_held:
                path = pem_path(self._directory, stored)
                private_files.write_file(path, stored.private_pem, self._entropy)
        try:
            self._write_manifest(keyring)
        except private_files.UnsyncedError as err:
            # Made, for every process that looks. What the manifest before names stays where it
            # is, should that one come back after a loss of power.
            _log.warning("key_directory_not_synced", problem=err.strerror)
            return
        try:
            self._remove_leftovers(keyring)
        except OSError as err:  # the change stands; the next one tidies up
            _log.warning("key_leftovers_not_removed", problem=err.strerror)

    def _write_manifest(self, keyring: StoredKeyring) -> None:
        content = encode_manifest(keyring, self._master_keys)
        private_files.write_file(self._directory / MANIFEST_NAME, content, self._entropy)

    def _remove_leftovers(self, current: StoredKeyring | None) -> None:
        """Remove temporaries and private halves that `current` does not name. Hold the lock."""
        private_files.remove_temporaries(self._directory)
        strays = stray_private_halves(self._directory, current)
        if strays and current is None:
            raise OperatorError(lost_manifest(self._directory))
        for path in strays:
            path.unlink(missing_ok=True)
        if strays:
            private_files.sync_directory(self._directory)


def pem_path(directory: Path, stored: StoredKey) -> Path:
    return directory / f"{stored.key.kid}.pem"


def lost_manifest(directory: Path) -> str:
    return (
        f"{directory} holds private keys but no {MANIFEST_NAME}: {RESTORE}, or, to begin anew "
        "(every token and session ends), move the *.pem files away"
    )


def stray_private_halves(directory: Path, current: StoredKeyring | None) -> list[Path]:
    """Files named like private halves that the manifest does not name as live."""
    live = {
        pem_path(directory, stored).name
        for stored in (current.keys if current else ())
        if stored.master_version is not None
    }
    return [
        path
        for path in sorted(directory.iterdir())
        if _PEM_NAME.fullmatch(path.name) and path.name not in live
    ]


def _read_private_halves(
    directory: Path, manifest: StoredKeyring
) -> tuple[tuple[StoredKey, ...], list[str], bool]:
    """The manifest's keys with their private halves, every problem met, and whether one of the
    problems is a file that is not there."""
    keys: list[StoredKey] = []
    problems: list[str] = []
    is_missing = False
    for stored in manifest.keys:
        if stored.master_version is None:
            keys.append(stored)
            continue
        path = pem_path(directory, stored)
        try:
            pem = private_files.read_file(path, PRIVATE)
            check_form(pem)
        except FileNotFoundError:
            is_missing = True
            problems.append(f"{path} is missing: {RESTORE}")
        except FileProblemError as err:
            problems.append(str(err))
        except KeyUnusableError as err:
            problems.append(f"{path}: {err}: {RESTORE}")
        else:
            keys.append(replace(stored, private_pem=pem))
    return tuple(keys), problems, is_missing


def directory_problems(keys_dir: Path) -> list[str]:
    """Everything that is wrong with the files of a key directory, as far as it shows without the
    master key: owners, modes, links, damage. Empty before the first start. Reads only."""
    problems: list[str] = []
    for _ in range(_READ_ATTEMPTS):  # a missing file may be a change that goes on meanwhile
        problems, is_missing = _examine(keys_dir)
        if not is_missing:
            break
    return problems


def _examine(keys_dir: Path) -> tuple[list[str], bool]:
    """The problems, and whether one of them is a private half that is not there."""
    if not private_files.is_real_directory(keys_dir):
        return private_files.directory_problems(keys_dir, is_in_use=False), False
    manifest_path = keys_dir / MANIFEST_NAME
    problems: list[str] = []
    manifest: StoredKeyring | None = None
    try:
        manifest = decode_manifest(private_files.read_file(manifest_path, PROTECTED))
    except FileNotFoundError:
        pass
    except FileProblemError as err:
        problems.append(str(err))
    except ManifestError as err:
        problems.append(f"{manifest_path}: {err}")
    is_in_use = bool(problems) or manifest is not None
    problems = private_files.directory_problems(keys_dir, is_in_use=is_in_use) + problems
    for name in (private_files.LOCK_NAME, MASTER_KEY_NAME):
        try:
            private_files.read_file(keys_dir / name, PRIVATE)
        except FileNotFoundError:
            continue
        except FileProblemError as err:
            problems.append(str(err))
    if manifest is not None:
        _, damaged, is_missing = _read_private_halves(keys_dir, manifest)
        return problems + damaged, is_missing
    return problems or _lost_manifest_problems(keys_dir), False


def _lost_manifest_problems(keys_dir: Path) -> list[str]:
    try:
        if not stray_private_halves(keys_dir, None):
            return []
        # Looked at again, and last: a first start elsewhere writes a manifest before its keys.
        return [] if (keys_dir / MANIFEST_NAME).exists() else [lost_manifest(keys_dir)]
    except OSError as err:
        return [f"{keys_dir} cannot be listed: {err.strerror}"]


def problems_error(problems: list[str]) -> OperatorError:
    """One error that lists every problem."""
    if len(problems) == 1:
        return OperatorError(problems[0])
    listed = "\n".join(f"  - {problem}" for problem in problems)
    return OperatorError(f"the signing keys cannot be used:\n{listed}")
