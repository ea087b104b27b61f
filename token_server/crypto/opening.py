"""Opening the signing keys at start, in the key directory or in the database; the first start of
all makes them.

All problems with files are found before anything is used and reported in one error. Each private
half is decrypted once and compared with the manifest: a key that cannot be used fails the start
with its file's name, not the first signature. A keyring that the database remembers and that is
gone, or that is kept elsewhere, is refused and never silently replaced: that would end every
session and break every verifier.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from token_server.config import Settings
from token_server.core.key_changes import NewKey
from token_server.core.key_policy import KeyPolicy
from token_server.core.key_store import KeyringSeal, KeyStore
from token_server.crypto import rsa_keys
from token_server.crypto.keyring import Keyring, Signer
from token_server.crypto.keystore import (
    MANIFEST_NAME,
    DirectoryKeyStore,
    directory_problems,
    problems_error,
)
from token_server.crypto.manifest import MasterKeySeal
from token_server.crypto.private_files import EntropySource, FileProblemError
from token_server.crypto.rewrapping import open_private
from token_server.crypto.rsa_keys import KeyUnusableError, RsaSigner
from token_server.crypto.secrets import (
    MasterKeys,
    encode_base64url,
    is_own_master_key,
    load_master_keys,
    load_or_create_master_keys,
    master_key_warnings,
    missing_master_key,
    version_of,
)
from token_server.errors import OperatorError
from token_server.records import SigningKey, StoredKey, StoredKeyring

# The store that the settings name, read and written under these master keys.
StoreFor = Callable[[MasterKeys], KeyStore]

Place = Literal["directory", "database"]


@dataclass(frozen=True, slots=True)
class DatabaseKeys:
    """What the database knows of the signing keys, and the store that it offers for them."""

    known_keyring_id: str | None  # None: no keyring belongs to it yet
    place: Place  # where that keyring is kept
    store_sealed_by: Callable[[KeyringSeal], KeyStore]


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
    database: DatabaseKeys | None = None,
) -> OpenedKeys:
    """Open the keyring that the settings name; with `create`, make it on the first start.

    A keyring that is not the one which `database` remembers, is kept elsewhere or is gone, is
    refused; with KEY_STORE=database it has to be given. OperatorError lists every problem with
    its fix (exit code 3 when there is no keyring and none may be made). Slow work runs in threads.
    """
    problems = await asyncio.to_thread(key_problems, settings)
    if problems:
        raise problems_error(problems)
    known_keyring_id = None if database is None else database.known_keyring_id
    if database is not None and known_keyring_id is not None:
        _require_place(settings, database.place)
    create = create and known_keyring_id is None
    if settings.key_store == "directory" and not create and not _has_manifest(settings):
        raise missing_keyring(settings, known_keyring_id)
    master_keys = await asyncio.to_thread(read_master_keys, settings, entropy)
    store_for = key_stores(settings, entropy, database)
    store = store_for(master_keys)
    stored, is_new = await store.load(), False
    if stored is None and create:
        first = await asyncio.to_thread(make_first_keyring, master_keys, settings, now, entropy)
        stored, is_new = await _store_first(store, first)
    if stored is None:
        raise missing_keyring(settings, known_keyring_id)
    if known_keyring_id is not None and stored.keyring_id != known_keyring_id:
        raise OperatorError(
            f"the database belongs to keyring {known_keyring_id}, but {place_text(settings)} holds "
            f"{stored.keyring_id}: point KEYS_DIR or DATABASE_URL at the one that belongs to it"
        )
    keyring = await asyncio.to_thread(unlock, stored, master_keys, store)
    warnings = master_key_warnings(settings.master_key_file, settings.keys_dir)
    master_keys = master_keys.using(version_of(stored.master_key_check))
    return OpenedKeys(master_keys, keyring, store_for, is_new, warnings)


def key_stores(
    settings: Settings, entropy: EntropySource, database: DatabaseKeys | None
) -> StoreFor:
    """The store that KEY_STORE names, for each set of master keys."""
    if settings.key_store == "directory":
        return lambda keys: DirectoryKeyStore(settings.keys_dir, keys, entropy)
    if database is None:
        raise ValueError("KEY_STORE=database needs the database")
    return lambda keys: database.store_sealed_by(MasterKeySeal(keys))


def read_master_keys(settings: Settings, entropy: EntropySource | None = None) -> MasterKeys:
    """All master keys in the file. With `entropy` the first one is made, at the server's own
    place and for the key directory only. OperatorError when there is none or it is unusable."""
    path, keys_dir = settings.master_key_file, settings.keys_dir
    if entropy is not None and settings.key_store == "directory":
        return load_or_create_master_keys(path, keys_dir, entropy)
    try:
        found = load_master_keys(path, keys_dir)
    except FileProblemError as err:
        raise OperatorError(str(err)) from None
    if found is None:
        raise OperatorError(missing_master_key(path))
    return found


def place_text(settings: Settings) -> str:
    """Where the settings say that the keys are, in words."""
    return str(settings.keys_dir) if settings.key_store == "directory" else "the database"


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


# Which setting states which field of the policy.
POLICY_SETTINGS = MappingProxyType(
    {
        "key_lead": "lead_s",
        "key_rotate_every": "rotate_every_s",
        "jwks_max_age": "jwks_max_age_s",
        "key_reload_interval": "reload_interval_s",
        "clock_skew": "clock_skew_s",
        "access_token_ttl": "access_token_ttl_s",
    }
)


def key_problems(settings: Settings) -> list[str]:
    """Everything that is wrong with the key directory and the master key file, each with its fix;
    empty when they are good or not there yet. Reads only; blocks on files."""
    if settings.key_store == "database":
        return _master_key_problems(settings)
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


def _master_key_problems(settings: Settings) -> list[str]:
    """For keys in the database, where no instance may make a master key of its own."""
    path = settings.master_key_file
    try:
        if load_master_keys(path, settings.keys_dir) is None:
            why = "with KEY_STORE=database each instance is given the same one, and none is made"
            return [f"{missing_master_key(path)} ({why})"]
    except FileProblemError as err:
        return [str(err)]
    return []


def _has_manifest(settings: Settings) -> bool:
    return (settings.keys_dir / MANIFEST_NAME).exists()


def _require_place(settings: Settings, place: Place) -> None:
    if place == settings.key_store:
        return
    where = {"directory": "a key directory", "database": "the database itself"}[place]
    raise OperatorError(
        f"the signing keys of this database are in {where}, but KEY_STORE is {settings.key_store}: "
        f"set KEY_STORE={place}, or move them with `token-server keys export --format keyring` and "
        "`token-server keys import`"
    )


def missing_keyring(settings: Settings, known_keyring_id: str | None) -> OperatorError:
    """There are no keys; `known_keyring_id` is whose keys should be there."""
    place = place_text(settings)
    if known_keyring_id is None:
        return OperatorError(
            f"there are no signing keys in {place}: make them with `token-server keys init`",
            exit_code=3,
        )
    fix = (
        "restore the key directory from its backup, or point KEYS_DIR at it"
        if settings.key_store == "directory"
        else "restore the database from its backup, or import the keys with `keys import`"
    )
    return OperatorError(
        f"the database belongs to keyring {known_keyring_id}, but {place} holds none: {fix}",
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
    """A new key. Blocks for 0.1 s to seconds."""
    made = waiting_key(rsa_keys.generate(settings.key_bits), master_keys, now)
    return as_wanted(made, new, now, key_policy(settings))


def as_wanted(entry: StoredKey, new: NewKey, now: int, policy: KeyPolicy) -> StoredKey:
    """A key that waits, with the date that `new` asks for. With one it signs without having been
    published, so its publication counts from now; else it counts from when it is first served."""
    if new.activate_at is None:
        return entry
    key = replace(
        entry.key,
        created_at=now,
        published_at=now,
        activate_at=new.activate_at,
        exp_high_water=now + policy.access_token_ttl_s + policy.head_room_s,
    )
    return replace(entry, key=key)


def waiting_key(private: RSAPrivateKey, master_keys: MasterKeys, now: int) -> StoredKey:
    """A key as it is stored before anybody has served it."""
    public = rsa_keys.public_half(private.public_key())
    key = SigningKey(
        kid=public.kid,
        alg=rsa_keys.ALG,
        bits=public.bits,
        n=public.n,
        e=public.e,
        created_at=now,
        published_at=None,
        activate_at=None,
        retire_at=None,
        exp_high_water=None,
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
    return RsaSigner(entry.key.kid, open_private(entry, master_keys))
