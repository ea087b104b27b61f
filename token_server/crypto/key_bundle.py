"""A whole keyring in one file, for moving it between key stores (`keys export` and `keys import`).

It is the manifest with its seal, and the private halves still encrypted: without the master key
the file opens nothing. Whatever is not whole, sealed and readable under the master keys that are
here is refused. Does no I/O.
"""

from typing import Literal

import msgspec

from token_server.core.key_policy import Serving
from token_server.crypto.manifest import (
    ManifestError,
    check_manifest,
    decode_manifest,
    encode_manifest,
)
from token_server.crypto.rewrapping import open_private
from token_server.crypto.rsa_keys import KeyUnusableError
from token_server.crypto.secrets import MasterKeys
from token_server.records import StoredKey, StoredKeyring

MAX_BYTES = 1 << 22


class BundleError(Exception):
    """A bundle that is not taken; the text says why and what to do, and holds nothing of it."""


class _Bundle(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    token_server_keyring: Literal[1]  # the format's number
    manifest: msgspec.Raw
    private_halves: dict[str, str]
    serving: Serving | None  # so that time between two stores does not count as served (I2)


def is_bundle(content: bytes) -> bool:
    """Whether somebody meant this to be a bundle, rather than a key in PEM."""
    return content.lstrip()[:1] == b"{"


def encode_bundle(
    keyring: StoredKeyring, serving: Serving | None, master_keys: MasterKeys
) -> bytes:
    """One line of JSON and a line feed."""
    bundle = _Bundle(
        token_server_keyring=1,
        manifest=msgspec.Raw(msgspec.json.format(encode_manifest(keyring, master_keys), indent=-1)),
        private_halves={
            entry.key.kid: entry.private_pem.decode("ascii")
            for entry in keyring.keys
            if entry.private_pem is not None
        },
        serving=serving,
    )
    return msgspec.json.encode(bundle) + b"\n"


def decode_bundle(content: bytes, master_keys: MasterKeys) -> tuple[StoredKeyring, Serving | None]:
    """The keyring and the newest word of who served it. BundleError when it is damaged, belongs
    to another master key or was changed by somebody. Blocks for 50 ms or more per key."""
    try:
        bundle = msgspec.json.decode(content, type=_Bundle)
        manifest = bytes(bundle.manifest)
        keyring = decode_manifest(manifest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ManifestError):
        raise BundleError("it is not a whole keyring export: export it again") from None
    try:
        check_manifest(manifest, master_keys)
    except ManifestError as err:
        raise BundleError(str(err)) from None
    keys = tuple(_with_private_half(entry, bundle.private_halves) for entry in keyring.keys)
    for entry in keys:
        if entry.private_pem is None:
            continue
        try:
            open_private(entry, master_keys)
        except KeyUnusableError as err:
            raise BundleError(f"private key {entry.key.kid}: {err}") from None
    named = StoredKeyring(keyring.keyring_id, keyring.generation, keyring.master_key_check, keys)
    return named, bundle.serving


def _with_private_half(entry: StoredKey, private_halves: dict[str, str]) -> StoredKey:
    if entry.master_version is None:
        return entry
    pem = private_halves.get(entry.key.kid)
    if pem is None or not pem.isascii():
        raise BundleError(f"private key {entry.key.kid} is missing: export it again")
    return StoredKey(entry.key, entry.master_version, pem.encode("ascii"))
