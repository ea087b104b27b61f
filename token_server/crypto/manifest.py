"""The seal of a keyring, and the text of `keyring.json`: keys and their instants under a MAC.

The MAC key derives from the master key, so that somebody who can write the file or the database
but does not have the master key cannot publish a key of his own. It is made under the version
that the keyring names, whatever else the master key file holds. Unknown members and format
numbers are refused: an older server must not drop what a newer one wrote. Holds public halves
only; does no I/O.
"""

import binascii
import hmac
from base64 import b64decode
from typing import Final, Literal

import msgspec

from token_server.crypto import rsa_keys
from token_server.crypto.rsa_keys import KeyUnusableError, PublicHalf
from token_server.crypto.secrets import (
    MasterKeys,
    encode_base64url,
    version_of,
)
from token_server.records import SigningKey, StoredKey, StoredKeyring

FORMAT: Final = 1
RESTORE: Final = "restore the key directory from its backup"


class ManifestError(Exception):
    """A manifest that cannot be trusted; the text says why and what to do."""


class _KeyEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    kid: str
    alg: Literal["RS256"]
    bits: int
    n: str
    e: str
    created_at: int
    published_at: int | None
    activate_at: int | None
    retire_at: int | None
    exp_high_water: int | None
    compromised_at: int | None
    master_version: int | None  # None: the private half has been erased


class _Body(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format: Literal[1]
    keyring_id: str
    generation: int
    master_key_check: str
    keys: tuple[_KeyEntry, ...]


class _Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    keyring: _Body
    mac_version: int
    mac: str


class _Head(msgspec.Struct, frozen=True):
    format: int


class _FormatOnly(msgspec.Struct, frozen=True):
    keyring: _Head


def encode_manifest(keyring: StoredKeyring, master_keys: MasterKeys) -> bytes:
    """The file's bytes, MACed under the master key version that the keyring names."""
    body = _body(keyring)
    version = version_of(keyring.master_key_check)
    manifest = _Manifest(keyring=body, mac_version=version, mac=_mac(body, master_keys, version))
    return msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n"


def decode_manifest(content: bytes) -> StoredKeyring:
    """What the file says, without the private halves and before its MAC is checked: good for
    naming files, not for trusting keys. ManifestError when it is damaged."""
    body = _parse(content).keyring
    keys = tuple(StoredKey(_signing_key(entry), entry.master_version, None) for entry in body.keys)
    if len({stored.key.kid for stored in keys}) != len(keys):
        raise ManifestError(f"it names a key twice: {RESTORE}")
    return StoredKeyring(body.keyring_id, body.generation, body.master_key_check, keys)


def check_manifest(content: bytes, master_keys: MasterKeys) -> None:
    """ManifestError unless the bytes carry the MAC of a master key that is here."""
    manifest = _parse(content)
    problem = _seal_problem(manifest.keyring, manifest.mac_version, manifest.mac, master_keys)
    if problem is not None:
        raise ManifestError(problem)


class MasterKeySeal:
    """The same MAC for a keyring that rests in another form (core/key_store.KeyringSeal)."""

    def __init__(self, master_keys: MasterKeys) -> None:
        self._master_keys = master_keys

    def make(self, keyring: StoredKeyring) -> str:
        """`version:mac`."""
        version = version_of(keyring.master_key_check)
        return f"{version}:{_mac(_body(keyring), self._master_keys, version)}"

    def problem(self, keyring: StoredKeyring, seal: str) -> str | None:
        """Why `keyring` cannot be trusted, and what to do; None when it is as it was sealed."""
        _, _, mac = seal.partition(":")
        return _seal_problem(_body(keyring), version_of(seal), mac, self._master_keys)


def _seal_problem(body: _Body, version: int, mac: str, master_keys: MasterKeys) -> str | None:
    for named in (version_of(body.master_key_check), version):
        if named != 0 and named not in master_keys.versions:
            return (
                f"it was written under master key version {named}, which is missing: put that "
                "line into the master key file, or point MASTER_KEY_FILE at the one it was made "
                "with"
            )
    if not master_keys.matches(body.master_key_check):
        return "it belongs to another master key: point MASTER_KEY_FILE at the one it was made with"
    is_sealed = version in master_keys.versions and hmac.compare_digest(
        _mac(body, master_keys, version).encode(), mac.encode()
    )
    if not is_sealed:
        return "it was changed by something else than this server: restore it from its backup"
    return None


def _body(keyring: StoredKeyring) -> _Body:
    return _Body(
        format=FORMAT,
        keyring_id=keyring.keyring_id,
        generation=keyring.generation,
        master_key_check=keyring.master_key_check,
        keys=tuple(_entry(stored) for stored in keyring.keys),
    )


def _parse(content: bytes) -> _Manifest:
    try:
        found = msgspec.json.decode(content, type=_FormatOnly).keyring.format
        if found != FORMAT:
            raise ManifestError(
                f"it has format {found}, this version of the server knows {FORMAT}: use the "
                "version that wrote it, or a newer one"
            )
        return msgspec.json.decode(content, type=_Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise ManifestError(f"it is not a whole keyring manifest: {RESTORE}") from None


def _mac(body: _Body, master_keys: MasterKeys, version: int) -> str:
    # Over the compact form of what was understood: indentation is free, meaning is not.
    key = master_keys.manifest_mac_key(version)
    return encode_base64url(hmac.digest(key, msgspec.json.encode(body), "sha256"))


def _entry(stored: StoredKey) -> _KeyEntry:
    key = stored.key
    return _KeyEntry(
        kid=key.kid,
        alg=key.alg,  # type: ignore[arg-type]  # checked when read; here it must be sealed as it is
        bits=key.bits,
        n=rsa_keys.encode_uint(key.n),
        e=rsa_keys.encode_uint(key.e),
        created_at=key.created_at,
        published_at=key.published_at,
        activate_at=key.activate_at,
        retire_at=key.retire_at,
        exp_high_water=key.exp_high_water,
        compromised_at=key.compromised_at,
        master_version=stored.master_version,
    )


def _signing_key(entry: _KeyEntry) -> SigningKey:
    n, e = _decode_uint(entry.n), _decode_uint(entry.e)
    if entry.kid != rsa_keys.thumbprint(n, e):
        raise ManifestError(f"a key's kid is not its RFC 7638 thumbprint: {RESTORE}")
    try:
        rsa_keys.check_public(PublicHalf(entry.kid, entry.bits, n, e))
    except KeyUnusableError as err:
        raise ManifestError(f"key {entry.kid} is unusable, {err}: {RESTORE}") from None
    return SigningKey(
        kid=entry.kid,
        alg=entry.alg,
        bits=entry.bits,
        n=n,
        e=e,
        created_at=entry.created_at,
        published_at=entry.published_at,
        activate_at=entry.activate_at,
        retire_at=entry.retire_at,
        exp_high_water=entry.exp_high_water,
        compromised_at=entry.compromised_at,
    )


def _decode_uint(text: str) -> int:
    try:
        content = b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise ManifestError(f"a key's numbers are not base64url: {RESTORE}") from None
    if not content:
        raise ManifestError(f"a key's numbers are missing: {RESTORE}")
    return int.from_bytes(content, "big")
