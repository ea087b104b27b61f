"""The master key and what is derived from it (HKDF-SHA256, RFC 5869).

The file has one line per version, `N:` and 32 bytes in base64url; the highest version is the
current one, older ones stay for what was made under them. One bare line (base64, base64url or
hex, as `openssl rand` prints it) is version 1. Lines that start with `#` are comments.
Only derived keys are kept in memory; nothing here is ever printed or compared with `==`.
"""

import base64
import binascii
import hmac
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NoReturn

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from token_server.crypto import private_files
from token_server.crypto.private_files import EntropySource, FileProblemError
from token_server.errors import OperatorError

MASTER_KEY_NAME = "master.key"
KEY_BYTES = 32
MAX_VERSION = 0xFFFF  # a refresh token names the version in two bytes
_LINE = re.compile(r"(?:([1-9][0-9]{0,4}):)?([A-Za-z0-9+/_=-]{43,64})")
MADE_WITH = "openssl rand -base64 32"

# One label per purpose: a key that leaks from one place opens no other (RFC 5869 3.2).
_REFRESH_MAC = b"token-server/refresh-mac"
_KEY_ENCRYPTION = b"token-server/key-encryption"
_MANIFEST_MAC = b"token-server/keyring-manifest"
_STATUS_PERMUTATION = b"token-server/status-permutation"
_GUESS_BUCKETS = b"token-server/guess-buckets"
_CHECK = b"token-server/check-value"
_LABELS = (
    _REFRESH_MAC,
    _KEY_ENCRYPTION,
    _MANIFEST_MAC,
    _STATUS_PERMUTATION,
    _GUESS_BUCKETS,
    _CHECK,
)


class UnknownMasterKeyError(LookupError):
    """No such version of the master key is here; what names it cannot be checked or opened."""


class MasterKeys:
    """All versions of the master key, reduced to what is derived from them."""

    __slots__ = ("_derived", "current")

    current: int

    def __init__(self, keys: Mapping[int, bytes]) -> None:
        if not keys or any(len(key) != KEY_BYTES for key in keys.values()):
            raise ValueError("at least one master key, of exactly 32 bytes each")
        if not all(1 <= version <= MAX_VERSION for version in keys):
            raise ValueError("master key versions are 1 to 65535")
        self.current = max(keys)
        self._derived = MappingProxyType(
            {
                version: {label: _derive(key, label) for label in _LABELS}
                for version, key in sorted(keys.items())
            }
        )

    @property
    def versions(self) -> tuple[int, ...]:
        return tuple(self._derived)

    def using(self, version: int) -> "MasterKeys":
        """The same keys with `version` as the current one; UnknownMasterKeyError without it."""
        if version not in self._derived:
            raise UnknownMasterKeyError(f"master key version {version} is not here")
        chosen = MasterKeys.__new__(MasterKeys)
        chosen.current, chosen._derived = version, self._derived
        return chosen

    def refresh_mac_key(self, version: int) -> bytes:
        """For the MAC of refresh tokens of families born under `version`. UnknownMasterKeyError
        when that version is gone (as for every derived key)."""
        return self._key(version, _REFRESH_MAC)

    def find_refresh_mac_key(self, version: int) -> bytes | None:
        """The same for a version that somebody else names: None when it is not here."""
        derived = self._derived.get(version)
        return None if derived is None else derived[_REFRESH_MAC]

    def key_encryption_key(self, version: int) -> bytes:
        """For the private halves of signing keys at rest."""
        return self._key(version, _KEY_ENCRYPTION)

    def manifest_mac_key(self, version: int) -> bytes:
        """For the MAC over `keyring.json`: who can write the file still cannot add a key."""
        return self._key(version, _MANIFEST_MAC)

    def status_permutation_key(self, version: int) -> bytes:
        """For the order of positions in status lists."""
        return self._key(version, _STATUS_PERMUTATION)

    def guess_bucket_key(self) -> bytes:
        """For the names of guessing budgets, which must not tell who was guessed at. Always the
        current one: a new master key starts them anew."""
        return self._key(self.current, _GUESS_BUCKETS)

    def check_value(self) -> str:
        """`version:text` that tells the current master key from any other, and nothing else."""
        return self._check(self.current)

    def matches(self, check_value: str) -> bool:
        """Whether `check_value` was made by one of the versions here."""
        version = version_of(check_value)
        if version not in self._derived:
            return False
        expected = self._check(version)
        return hmac.compare_digest(expected.encode(), check_value.encode())

    def _check(self, version: int) -> str:
        return f"{version}:{encode_base64url(self._key(version, _CHECK)[:16])}"

    def _key(self, version: int, label: bytes) -> bytes:
        derived = self._derived.get(version)
        if derived is None:
            raise UnknownMasterKeyError(f"master key version {version} is not here")
        return derived[label]

    def __repr__(self) -> str:
        return f"MasterKeys(versions={self.versions}, current={self.current})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("master keys are not pickled or copied")


def version_of(check_value: str) -> int:
    """The master key version that made a check value; 0, which is none, for malformed text."""
    version, _, _ = check_value.partition(":")
    is_number = version.isascii() and version.isdigit() and len(version) <= 5
    return int(version) if is_number else 0


def _derive(key: bytes, label: bytes) -> bytes:
    # No salt: the input is already uniformly random (RFC 5869 3.1).
    return HKDF(algorithm=hashes.SHA256(), length=KEY_BYTES, salt=None, info=label).derive(key)


def encode_base64url(content: bytes) -> str:
    """base64url without padding (RFC 7515 2)."""
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode("ascii")


def is_own_master_key(path: Path, keys_dir: Path) -> bool:
    """Whether `path` is the place where the server itself makes a master key."""
    return path.absolute() == (keys_dir / MASTER_KEY_NAME).absolute()


def load_master_keys(path: Path, keys_dir: Path) -> MasterKeys | None:
    """The master keys in the file, or None when there is no file.

    FileProblemError when it has the wrong mode or owner or is not a master key file.
    """
    rule = private_files.PRIVATE if is_own_master_key(path, keys_dir) else private_files.MOUNTED
    try:
        content = private_files.read_file(path, rule)
    except FileNotFoundError:
        return None
    return MasterKeys(parse_master_keys(content, path))


def load_or_create_master_keys(path: Path, keys_dir: Path, entropy: EntropySource) -> MasterKeys:
    """The master keys in the file; made first when it is the server's own place and empty.

    OperatorError when the file is unusable, or is elsewhere and does not exist: what an operator
    keeps in a secret store is never replaced by a key that only this machine knows.
    """
    try:
        found = load_master_keys(path, keys_dir)
        if found is not None:
            return found
        if not is_own_master_key(path, keys_dir):
            raise OperatorError(missing_master_key(path))
        private_files.make_directory(keys_dir)
        with private_files.locked(keys_dir):
            found = load_master_keys(path, keys_dir)  # another start may have been first
            return found if found is not None else _create(path, entropy)
    except FileProblemError as err:
        raise OperatorError(str(err)) from None
    except OSError as err:
        raise OperatorError(f"{path} cannot be written: {err.strerror}") from None


def _create(path: Path, entropy: EntropySource) -> MasterKeys:
    key = entropy(KEY_BYTES)
    content = (
        f"# Master key of token-server. Keep a copy apart from keys/.\n1:{encode_base64url(key)}\n"
    )
    private_files.write_file(path, content.encode("ascii"), entropy)
    return MasterKeys({1: key})


def missing_master_key(path: Path) -> str:
    return (
        f"the master key file {path} does not exist: mount it there, or for a new installation "
        f"make one with `{MADE_WITH}` and keep a copy in a safe place"
    )


def master_key_warnings(path: Path, keys_dir: Path) -> tuple[str, ...]:
    """What is allowed but unwise about an existing master key file."""
    if is_own_master_key(path, keys_dir):
        return ()  # stricter rules hold there
    try:
        mode = path.stat().st_mode
    except OSError:
        return ()  # loading it has said so
    if mode & 0o004:
        return (f"{path} is readable by every user of this machine: chmod o-r it",)
    return ()


def parse_master_keys(content: bytes, path: Path) -> dict[int, bytes]:
    """The keys in a master key file, by version; FileProblemError when it is not one."""
    try:
        text = content.decode("ascii")
    except UnicodeDecodeError:
        raise FileProblemError(f"{path} is not a master key file: it is not ASCII text") from None
    keys: dict[int, bytes] = {}
    lines = [line.strip(" \t\r") for line in text.split("\n")]
    lines = [line for line in lines if line and not line.startswith("#")]
    for line in lines:
        match = _LINE.fullmatch(line)
        key = _decode_key(match[2]) if match else None
        if match is None or key is None or (match[1] is None and len(lines) > 1):
            raise FileProblemError(
                f"{path} is not a master key file: a line is not a version, a colon and 32 bytes "
                f"in base64url (or the file one key alone, as `{MADE_WITH}` prints it)"
            )
        version = int(match[1] or "1")
        if version in keys or version > MAX_VERSION or key in keys.values():
            raise FileProblemError(f"{path}: version {version} is there twice or out of range")
        keys[version] = key
    if not keys:
        raise FileProblemError(f"{path} holds no key: restore it from its backup")
    return keys


def _decode_key(text: str) -> bytes | None:
    """32 bytes from hex, base64 or base64url; None for anything else, a spare bit included."""
    if len(text) == 2 * KEY_BYTES:
        try:
            key = bytes.fromhex(text)
        except ValueError:
            return None
    else:
        unpadded = text.removesuffix("=").replace("+", "-").replace("/", "_")
        try:
            key = base64.b64decode(unpadded + "=", altchars=b"-_", validate=True)
        except binascii.Error:
            return None
        if len(key) != KEY_BYTES or encode_base64url(key) != unpadded:
            return None
    # 32 random bytes have about 30 distinct values; fewer than 12 is a placeholder, not a key.
    return key if len(set(key)) >= 12 else None
