"""Opening the signing keys at start; the first start of all makes them.

All problems with files are found before anything is used and reported in one error. Each private
half is decrypted once and compared with the manifest: a key that cannot be used fails the start
with its file's name, not the first signature. A keyring that the database remembers and that is
gone is refused, never silently replaced: that would end every session and break every verifier.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from token_server.config import Settings
from token_server.core.key_changes import NewKey
from token_server.core.key_policy import KeyPolicy
from token_server.core.key_store import KeyStore
from token_server.crypto import rsa_keys
from token_server.crypto.keyring import Keyring, Signer
from token_server.crypto.keystore import (
    MANIFEST_NAME,
    DirectoryKeyStore,
    directory_problems,
    problems_error,
)
from token_server.crypto.private_files import EntropySource, FileProblemError
from token_server.crypto.rsa_keys import KeyUnusableError, RsaSigner
from token_server.crypto.secrets import (
    MasterKeys,
    UnknownMasterKeyError,
    encode_base64url,
    is_own_master_key,
    load_master_keys,
    load_or_create_master_keys,
    master_key_warnings,
    missing_master_key,
)
from token_server.errors import OperatorError
from token_server.records import SigningKey, StoredKey, StoredKeyring

# The store that the settings name, read and written under these master keys.
StoreFor = Callable[[MasterKeys], KeyStore]


@dataclass(frozen=True, slots=True)
class OpenedKeys:
    """What opening gives: the keys, whether this start made them, and what to warn of."""

    master_keys: MasterKeys
    keyring: Keyring
    store_for: "StoreFor"
    is_new: bool
    warnings: tuple[str, ...]


async def open_keyring(
    settings: Settings,
    *,
    now: int,
    entropy: EntropySource,
    create: bool = True,
    known_keyring_id: str | None = None,
) -> OpenedKeys:
    """Open the keyring that the settings name; with `create`, make it on the first start.

    `known_keyring_id` is what the database remembers: a keyring that is not that one, or is gone,
    is refused. OperatorError lists every problem with its fix (exit code 3 when there is no
    keyring and none may be made). Slow work runs in threads.
    """
    problems = await asyncio.to_thread(key_problems, settings)
    if problems:
        raise problems_error(problems)
    if not (create and known_keyring_id is None) and not _has_manifest(settings):
        raise _missing_keyring(settings, known_keyring_id)
    master_keys = await asyncio.to_thread(
        load_or_create_master_keys, settings.master_key_file, settings.keys_dir, entropy
    )

    def store_for(keys: MasterKeys) -> KeyStore:
        return DirectoryKeyStore(settings.keys_dir, keys, entropy)

    store = store_for(master_keys)
    stored, is_new = await store.load(), False
    if stored is None and create and known_keyring_id is None:
        first = await asyncio.to_thread(make_first_keyring, master_keys, settings, now, entropy)
        stored, is_new = await _store_first(store, first)
    if stored is None:
        raise _missing_keyring(settings, known_keyring_id)
    if known_keyring_id is not None and stored.keyring_id != known_keyring_id:
        raise OperatorError(
            f"the database belongs to keyring {known_keyring_id}, but {settings.keys_dir} holds "
            f"{stored.keyring_id}: point KEYS_DIR or DATABASE_URL at the one that belongs to it"
        )
    keyring = await asyncio.to_thread(unlock, stored, master_keys, store)
    warnings = master_key_warnings(settings.master_key_file, settings.keys_dir)
    return OpenedKeys(master_keys, keyring, store_for, is_new, warnings)


def key_policy(settings: Settings) -> KeyPolicy:
    """The policy that these settings state."""
    return KeyPolicy(
        lead_s=settings.key_lead_s,
        rotate_every_s=settings.key_rotate_every_s,
        jwks_max_age_s=settings.jwks_max_age_s,
        reload_interval_s=settings.key_reload_interval_s,
        clock_skew_s=settings.clock_skew_s,
        access_token_ttl_s=settings.access_token_ttl_s,
    )


def key_problems(settings: Settings) -> list[str]:
    """Everything that is wrong with the key directory and the master key file, each with its fix;
    empty when they are good or not there yet. Reads only; blocks on files."""
    if settings.key_store != "directory":
        return [f"KEY_STORE={settings.key_store} is not available in this version: use directory"]
    path, keys_dir = settings.master_key_file, settings.keys_dir
    problems = directory_problems(keys_dir)
    try:
        if load_master_keys(path, keys_dir) is None:
            if not is_own_master_key(path, keys_dir):
                problems.append(missing_master_key(path))
            elif _has_manifest(settings):
                problems.append(f"{path} is missing: restore it from its backup")
    except FileProblemError as err:
        problems.append(str(err))
    return list(dict.fromkeys(problems))  # a file in both lists is named once


def _has_manifest(settings: Settings) -> bool:
    return (settings.keys_dir / MANIFEST_NAME).exists()


def _missing_keyring(settings: Settings, known_keyring_id: str | None) -> OperatorError:
    if known_keyring_id is None:
        return OperatorError(
            f"there are no signing keys in {settings.keys_dir}: make them with "
            "`token-server keys init`",
            exit_code=3,
        )
    return OperatorError(
        f"the database belongs to keyring {known_keyring_id}, but {settings.keys_dir} holds none: "
        "restore the key directory from its backup, or point KEYS_DIR at it",
        exit_code=3,
    )


def make_first_keyring(
    master_keys: MasterKeys, settings: Settings, now: int, entropy: EntropySource
) -> StoredKeyring:
    """A new keyring: one key that signs from now on and one that is only published, so that even
    an emergency rotation finds a key that verifiers already know. Blocks for two RSA keys."""
    return StoredKeyring(
        keyring_id=f"kr_{encode_base64url(entropy(16))}",
        generation=1,
        master_key_check=master_keys.check_value(),
        keys=(
            make_key(master_keys, settings, NewKey(activate_at=now), now),
            make_key(master_keys, settings, NewKey(), now),
        ),
    )


def make_key(master_keys: MasterKeys, settings: Settings, new: NewKey, now: int) -> StoredKey:
    """A new key. One with a date signs without having been published, so its publication counts
    from now; any other counts from when it is first served. Blocks for 0.1 s to seconds."""
    private = rsa_keys.generate(settings.key_bits)
    public = rsa_keys.public_half(private.public_key())
    policy = key_policy(settings)
    is_dated = new.activate_at is not None
    key = SigningKey(
        kid=public.kid,
        alg=rsa_keys.ALG,
        bits=public.bits,
        n=public.n,
        e=public.e,
        created_at=now,
        published_at=now if is_dated else None,
        activate_at=new.activate_at,
        retire_at=None,
        exp_high_water=now + policy.access_token_ttl_s + policy.head_room_s if is_dated else None,
        compromised_at=None,
    )
    version = master_keys.current
    pem = rsa_keys.encrypt_private(private, master_keys.key_encryption_key(version))
    return StoredKey(key, version, pem)


async def _store_first(store: KeyStore, first: StoredKeyring) -> tuple[StoredKeyring | None, bool]:
    if await store.replace(first, expected_generation=0):
        return first, True
    return await store.load(), False  # another start was faster: its keys are the keys


def unlock(
    stored: StoredKeyring,
    master_keys: MasterKeys,
    store: KeyStore,
    known: Mapping[str, Signer] = MappingProxyType({}),
) -> Keyring:
    """Decrypt every private half that is not in `known` and compare it with its record.
    OperatorError names all that cannot be used. Blocks for 50 ms or more per key."""
    signers: dict[SigningKey, Signer | None] = {}
    problems: list[str] = []
    for entry in stored.keys:
        is_known = entry.private_pem is not None and entry.key.kid in known
        try:
            signers[entry.key] = (
                known[entry.key.kid] if is_known else _load_signer(entry, master_keys)
            )
        except KeyUnusableError as err:
            problems.append(f"{store.locate(entry)}: {err}")
    if problems:
        raise problems_error(problems)
    return Keyring(stored.keyring_id, stored.generation, signers)


def _load_signer(entry: StoredKey, master_keys: MasterKeys) -> RsaSigner | None:
    if entry.private_pem is None or entry.master_version is None:
        return None
    try:
        key_encryption_key = master_keys.key_encryption_key(entry.master_version)
    except UnknownMasterKeyError as err:
        raise KeyUnusableError(f"it is encrypted under a missing one: {err}") from None
    private = rsa_keys.load_private(entry.private_pem, key_encryption_key)
    public = rsa_keys.public_half(private.public_key())
    rsa_keys.check_public(public)
    if public.kid != entry.key.kid:
        raise KeyUnusableError("it is another key than its name says")
    return RsaSigner(public.kid, private)
