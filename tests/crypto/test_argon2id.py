"""Argon2id by two libraries: the same tags, and the server works with either."""

import os
import subprocess
import sys

import argon2
import pytest

from token_server.crypto import argon2id
from token_server.crypto.argon2id import (
    Argon2Cost,
    Derive,
    StoredHash,
    derive,
    derive_by_argon2_cffi,
    format_phc,
    library_for,
    load_libsodium,
    parse_phc,
)

PASSWORD = b"correct horse battery staple"
SALT = bytes(range(16))
LIBSODIUM = load_libsodium()
assert LIBSODIUM is not None, "the test requirements bring PyNaCl"
# RFC 9106 §5.3 has a secret and associated data, which neither library's short form takes; these
# are of the reference implementation's own test.c (version 0x13).
REFERENCE = [
    (b"password", b"somesalt", Argon2Cost(65536, 2, 1), "09316115d5cf24ed"),
    (b"password", b"somesalt", Argon2Cost(256, 2, 2), "6d093c501fd59996"),
    (b"differentpassword", b"somesalt", Argon2Cost(65536, 2, 1), "0b84d652cf6b0c4b"),
]


@pytest.mark.parametrize(("password", "salt", "cost", "starts"), REFERENCE)
def test_vectors_of_the_reference_implementation_hold(
    password: bytes, salt: bytes, cost: Argon2Cost, starts: str
) -> None:
    """What is stored is Argon2id version 0x13 and nothing of our own."""
    assert derive(password, salt, cost, 32).hex().startswith(starts)


@pytest.mark.parametrize("memory_kib", [8, 9, 15, 16, 17, 19, 64, 100, 1000, 19456])
@pytest.mark.parametrize("time_cost", [1, 2, 3, 10])
def test_both_libraries_compute_the_same_tags(memory_kib: int, time_cost: int) -> None:
    """A hash made with one is verified with the other, whenever an installation changes."""
    assert LIBSODIUM is not None
    cost = Argon2Cost(memory_kib, time_cost, 1)
    for length in (16, 32, 33, 64) if memory_kib < 1000 else (32,):
        for password in (PASSWORD, b"", "пароль".encode(), b"\x00" * 3, b"x" * 5000):
            tag = LIBSODIUM(password, SALT, cost, length)
            assert tag == derive_by_argon2_cffi(password, SALT, cost, length)


@pytest.mark.parametrize("lanes", [2, 4, 16])
@pytest.mark.parametrize("salt_bytes", [8, 16, 17, 64])
def test_parameters_that_only_one_library_has_work_all_the_same(
    lanes: int, salt_bytes: int
) -> None:
    """Imported hashes may have several lanes, and salts of other lengths."""
    salt = os.urandom(salt_bytes)
    made = argon2.PasswordHasher(3, 256, lanes, 32).hash(PASSWORD, salt=salt)
    stored = parse_phc(made)
    assert stored is not None
    assert derive(PASSWORD, stored.salt, stored.cost, len(stored.tag)) == stored.tag
    assert format_phc(stored) == made
    one_lane = Argon2Cost(256, 3, 1)
    by_cffi = derive_by_argon2_cffi(PASSWORD, salt, one_lane, 32)
    assert derive(PASSWORD, salt, one_lane, 32) == by_cffi


@pytest.mark.parametrize("memory_kib", [8, 19456])
def test_unknown_user_and_wrong_password_run_in_the_same_library(
    monkeypatch: pytest.MonkeyPatch, memory_kib: int
) -> None:
    """The choice is made by cost and salt length, which are those of today for both (F 103)."""
    runs: list[str] = []

    def named(name: str, real: Derive) -> Derive:
        def run(password: bytes, salt: bytes, cost: Argon2Cost, length: int) -> bytes:
            runs.append(name)
            return real(password, salt, cost, length)

        return run

    assert LIBSODIUM is not None
    monkeypatch.setattr(argon2id, "_derive_by_libsodium", named("libsodium", LIBSODIUM))
    monkeypatch.setattr(argon2id, "derive_by_argon2_cffi", named("cffi", derive_by_argon2_cffi))
    cost = Argon2Cost(memory_kib, 1, 1)
    derive(PASSWORD, bytes(16), cost, 32)
    derive(PASSWORD, os.urandom(16), cost, 32)
    assert runs == ["libsodium", "libsodium"]
    assert library_for(cost) == argon2id.LIBSODIUM
    assert library_for(Argon2Cost(64, 1, 2)) == argon2id.ARGON2_CFFI


WITHOUT = """
import sys
sys.modules["nacl"] = sys.modules["nacl.bindings"] = None  # as if it were not installed
from token_server.crypto.argon2id import Argon2Cost, derive, library_for, load_libsodium
assert load_libsodium() is None
cost = Argon2Cost(64, 2, 1)
print(library_for(cost), derive(b"correct horse battery staple", bytes(range(16)), cost, 32).hex())
"""
NO_MEMORY = """
import resource
from token_server.crypto.argon2id import Argon2Cost, derive_by_argon2_cffi, load_libsodium
from token_server.errors import UnavailableError
resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
for derive in (derive_by_argon2_cffi, load_libsodium()):
    try:
        derive(b"password", bytes(16), Argon2Cost(2 << 20, 1, 1), 32)
    except UnavailableError as error:
        print(error.reason)
"""


def run_python(code: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_without_pynacl_the_other_library_does_it_all() -> None:
    """The extra is optional: same tags, more time."""
    expected = derive(PASSWORD, SALT, Argon2Cost(64, 2, 1), 32).hex()
    assert run_python(WITHOUT) == ["argon2-cffi", expected]


def test_failing_memory_is_unavailable_in_both_libraries() -> None:
    """A host without memory answers 503, so that nobody believes to have mistyped."""
    assert run_python(NO_MEMORY) == ["hash_failed", "hash_failed"]


def test_stored_text_reads_back_as_it_was() -> None:
    """The PHC form: no padding, parameters in the order m, t, p."""
    stored = StoredHash(Argon2Cost(19456, 2, 1), SALT, bytes(32))
    text = format_phc(stored)

    assert text == ("$argon2id$v=19$m=19456,t=2,p=1$AAECAwQFBgcICQoLDA0ODw$" + "A" * 43)
    assert parse_phc(text) == stored
