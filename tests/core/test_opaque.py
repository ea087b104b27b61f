"""The text form of opaque credentials and its stored digest."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from token_server.core.opaque import CLIENT_SECRET_PREFIX, digest, format_opaque, is_well_formed

RANDOM = bytes(range(32))


def test_text_is_prefix_random_part_and_checksum() -> None:
    """The wire form is pinned: scanners and clients rely on it."""
    text = format_opaque("ts_", RANDOM)

    assert text == "ts_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh84bcBAb"
    assert len(text) == 3 + 43 + 6


@given(random=st.binary(min_size=32, max_size=32))
def test_every_issued_text_is_well_formed_for_its_prefix_only(random: bytes) -> None:
    """A credential is recognised under its own prefix and under no other."""
    text = format_opaque(CLIENT_SECRET_PREFIX, random)

    assert is_well_formed(CLIENT_SECRET_PREFIX, text)
    assert not is_well_formed("tsk_", text)
    assert text.isascii()


@given(
    random=st.binary(min_size=32, max_size=32),
    position=st.integers(min_value=3, max_value=51),
    character=st.sampled_from("ABCxyz019_-"),
)
def test_a_typo_is_found_by_the_checksum(random: bytes, position: int, character: str) -> None:
    """One changed character is refused without a query (CRC32 finds every burst of 32 bits)."""
    text = format_opaque("ts_", random)
    changed = text[:position] + character + text[position + 1 :]

    assert is_well_formed("ts_", changed) is (changed == text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ts_",
        format_opaque("ts_", RANDOM)[:-1],
        format_opaque("ts_", RANDOM) + "A",
        format_opaque("ts_", RANDOM) + "\n",
        format_opaque("ts_", RANDOM).replace("ts_", "TS_"),
        "ts_" + "é" * 49,
        "ts_" + "\ud800" * 49,
    ],
)
def test_junk_is_not_well_formed(text: str) -> None:
    """Wrong length, alphabet, case or line end is refused, never raised."""
    assert not is_well_formed("ts_", text)


@pytest.mark.parametrize("length", [0, 16, 31, 33])
def test_other_amounts_of_entropy_are_refused(length: int) -> None:
    """A credential of fewer than 256 random bits cannot be made by mistake."""
    with pytest.raises(ValueError, match="32 random bytes"):
        format_opaque("ts_", bytes(length))


def test_digest_is_sha256_and_defined_for_junk() -> None:
    """A lone surrogate off the wire takes the path of a wrong secret, not of an error."""
    assert digest("ts_x") == hashlib.sha256(b"ts_x").digest()
    assert len(digest("\ud800")) == 32
