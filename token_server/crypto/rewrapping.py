"""Moving the private halves of a keyring under another version of the master key.

Decrypts and encrypts again in memory; the plain form of a key is never written anywhere. The
result is put into the store by whoever asked, as one change of the keyring.
"""

from dataclasses import replace

from cryptography.hazmat.primitives.asymmetric import rsa

from token_server.crypto import rsa_keys
from token_server.crypto.rsa_keys import KeyUnusableError
from token_server.crypto.secrets import MasterKeys
from token_server.records import StoredKey, StoredKeyring


def rewrapped(keyring: StoredKeyring, master_keys: MasterKeys) -> StoredKeyring:
    """`keyring` as it is to be stored under `master_keys.current`, its seal included.
    KeyUnusableError when a private half cannot be opened. Blocks for 0.1 s or more per key."""
    return replace(
        keyring,
        master_key_check=master_keys.check_value(),
        keys=tuple(_rewrapped_key(entry, master_keys) for entry in keyring.keys),
    )


def _rewrapped_key(entry: StoredKey, master_keys: MasterKeys) -> StoredKey:
    version = master_keys.current
    if entry.private_pem is None or entry.master_version == version:
        return entry
    private = open_private(entry, master_keys)
    pem = rsa_keys.encrypt_private(private, master_keys.key_encryption_key(version))
    return replace(entry, master_version=version, private_pem=pem)


def open_private(entry: StoredKey, master_keys: MasterKeys) -> rsa.RSAPrivateKey:
    """The private half of `entry`, which has one; KeyUnusableError when it cannot be opened or
    is another key than its record says.

    The version that the record names is tried first. A rewrapping that was killed leaves files
    under a newer one than the manifest says, so the others are tried as well.
    """
    named = entry.master_version or 0
    others = [version for version in master_keys.versions if version != named]
    candidates = [named, *others] if named in master_keys.versions else others
    problem = KeyUnusableError("no master key is here")
    for version in candidates:
        try:
            return _open(entry, master_keys.key_encryption_key(version))
        except KeyUnusableError as err:
            problem = problem if version != candidates[0] else err
    if named not in master_keys.versions:
        raise KeyUnusableError(
            f"it is encrypted under a missing one: master key version {named} is not here"
        )
    raise problem


def _open(entry: StoredKey, key_encryption_key: bytes) -> rsa.RSAPrivateKey:
    private = rsa_keys.load_private(entry.private_pem or b"", key_encryption_key)
    public = rsa_keys.public_half(private.public_key())
    rsa_keys.check_public(public)
    if public.kid != entry.key.kid:
        raise KeyUnusableError("it is another key than its name says")
    return private
