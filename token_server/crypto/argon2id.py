"""Argon2id itself (RFC 9106), by the fastest library that is installed.

libsodium (PyNaCl, extra `fast`) needs little more than half the time of argon2-cffi for the same
tag, but computes only one lane, with a salt of 16 bytes; argon2-cffi does all the rest. Which one
works is decided by the parameters alone, never by whose password it is: an unknown user and a
wrong password cost the same.
"""

import base64
import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from argon2.exceptions import HashingError
from argon2.low_level import ARGON2_VERSION, Type, hash_secret_raw

from token_server.errors import UnavailableError

Derive = Callable[[bytes, bytes, "Argon2Cost", int], bytes]

ARGON2_CFFI, LIBSODIUM = "argon2-cffi", "libsodium (PyNaCl)"
SALT_BYTES = 16
TAG_BYTES = 32

_PHC = re.compile(
    rf"\$argon2id\$v={ARGON2_VERSION}"
    r"\$m=([1-9][0-9]{0,9}),t=([1-9][0-9]{0,9}),p=([1-9][0-9]{0,9})"
    r"\$([A-Za-z0-9+/]{11,86})\$([A-Za-z0-9+/]{22,86})",  # salt 8 to 64, tag 16 to 64 bytes
    re.ASCII,
)


@dataclass(frozen=True, slots=True)
class Argon2Cost:
    memory_kib: int
    time_cost: int
    parallelism: int


@dataclass(frozen=True, slots=True)
class StoredHash:
    """A PHC text taken apart."""

    cost: Argon2Cost
    salt: bytes
    tag: bytes


def derive_by_argon2_cffi(password: bytes, salt: bytes, cost: Argon2Cost, length: int) -> bytes:
    """The tag, with any parameters that RFC 9106 §3.1 allows. UnavailableError without memory."""
    try:
        return hash_secret_raw(
            password,
            salt,
            time_cost=cost.time_cost,
            memory_cost=cost.memory_kib,
            parallelism=cost.parallelism,
            hash_len=length,
            type=Type.ID,
        )
    except HashingError as error:
        raise UnavailableError("hash_failed") from error


def load_libsodium() -> Derive | None:
    """The same for one lane and SALT_BYTES of salt; None when PyNaCl is not installed."""
    try:
        sodium: Any = import_module("nacl.bindings")
        no_memory: type[Exception] = import_module("nacl.exceptions").RuntimeError
    except ImportError:
        return None

    def derive_by_libsodium(password: bytes, salt: bytes, cost: Argon2Cost, length: int) -> bytes:
        memory_bytes, algorithm = cost.memory_kib * 1024, sodium.crypto_pwhash_ALG_ARGON2ID13
        try:
            tag = sodium.crypto_pwhash_alg(
                length, password, salt, cost.time_cost, memory_bytes, algorithm
            )
        except no_memory as error:
            raise UnavailableError("hash_failed") from error
        return bytes(tag)

    return derive_by_libsodium


_derive_by_libsodium = load_libsodium()


def derive(password: bytes, salt: bytes, cost: Argon2Cost, length: int) -> bytes:
    """The tag of `length` bytes. Blocks, without the GIL; UnavailableError without memory."""
    if _derive_by_libsodium is not None and cost.parallelism == 1 and len(salt) == SALT_BYTES:
        return _derive_by_libsodium(password, salt, cost, length)
    return derive_by_argon2_cffi(password, salt, cost, length)


def library_for(cost: Argon2Cost) -> str:
    """Which library makes new hashes of this cost, as `doctor` says it."""
    is_sodium = _derive_by_libsodium is not None and cost.parallelism == 1
    return LIBSODIUM if is_sodium else ARGON2_CFFI


def format_phc(stored: StoredHash) -> str:
    """The text to store, which other libraries read as well."""
    cost = stored.cost
    return (
        f"$argon2id$v={ARGON2_VERSION}"
        f"$m={cost.memory_kib},t={cost.time_cost},p={cost.parallelism}"
        f"${_unpadded(stored.salt)}${_unpadded(stored.tag)}"
    )


def parse_phc(text: str) -> StoredHash | None:
    """None for damage, another scheme, or parameters that Argon2id does not have."""
    match = _PHC.fullmatch(text)
    if match is None:
        return None
    cost = Argon2Cost(*(int(match[group]) for group in (1, 2, 3)))
    if cost.memory_kib < 8 * cost.parallelism:
        return None
    try:
        salt, tag = (_from_unpadded(match[group]) for group in (4, 5))
    except ValueError:
        return None
    return StoredHash(cost, salt, tag)


def _unpadded(value: bytes) -> str:
    return base64.b64encode(value).decode("ascii").rstrip("=")


def _from_unpadded(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
