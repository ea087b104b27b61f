"""The text form of API keys (case I163)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from token_server.core.api_key import format_api_key, is_key_id, new_key_id, read_key_id
from token_server.core.opaque import CLIENT_SECRET_PREFIX, format_opaque, is_well_formed

KEY_ID = new_key_id(bytes(range(12)))
TEXT = format_api_key(KEY_ID, bytes(range(32)))


def test_text_is_prefix_id_secret_and_checksum() -> None:
    """I163: the wire form is pinned, 256 random bits in it; scanners and clients rely on it."""
    assert KEY_ID == "key_AAECAwQFBgcICQoL"
    assert "tsk_AAECAwQFBgcICQoLAAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8" + TEXT[-6:] == TEXT
    assert len(TEXT) == 4 + 16 + 43 + 6
    assert read_key_id(TEXT) == KEY_ID


@given(id_bytes=st.binary(min_size=12, max_size=12), random=st.binary(min_size=32, max_size=32))
def test_every_key_names_itself(id_bytes: bytes, random: bytes) -> None:
    """I163: the id is read out of the text, and the text is no client secret."""
    key_id = new_key_id(id_bytes)
    text = format_api_key(key_id, random)

    assert read_key_id(text) == key_id
    assert is_key_id(key_id)
    assert text.isascii()
    assert not is_well_formed(CLIENT_SECRET_PREFIX, text)


@given(
    position=st.integers(min_value=0, max_value=len(TEXT) - 1),
    character=st.sampled_from("ABCxyz019_- é\n"),
)
def test_a_typo_is_found_by_the_checksum(position: int, character: str) -> None:
    """I163: one changed character is refused without a query."""
    changed = TEXT[:position] + character + TEXT[position + 1 :]

    assert (read_key_id(changed) == KEY_ID) is (changed == TEXT)
    assert read_key_id(changed) in (None, KEY_ID)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "tsk_",
        TEXT[:-1],
        TEXT + "A",
        TEXT + "\n",
        TEXT.upper(),
        " " + TEXT,
        "tsk_" + "é" * 65,
        "tsk_" + "\ud800" * 65,
        format_opaque(CLIENT_SECRET_PREFIX, bytes(32)),
        format_opaque("tsk_", bytes(32)),
        "eyJhbGciOiJSUzI1NiJ9.e30.c2ln",
    ],
)
def test_junk_is_no_key(text: str) -> None:
    """I168: wrong length, alphabet, case, line end or another credential: refused, never raised."""
    assert read_key_id(text) is None


@pytest.mark.parametrize("text", ["", "key_", "key_short", "ses_AAECAwQFBgcICQoL", KEY_ID + "\n"])
def test_junk_is_no_key_id(text: str) -> None:
    """What cannot name a key is not looked for."""
    assert not is_key_id(text)


def test_a_key_needs_all_its_entropy() -> None:
    """A caller's mistake must not make a weak key."""
    with pytest.raises(ValueError, match="32 random bytes"):
        format_api_key(KEY_ID, bytes(31))
    with pytest.raises(ValueError, match="12 random bytes"):
        new_key_id(bytes(16))
