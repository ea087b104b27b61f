"""Which names are accepted, and which spelling of an e-mail stands for the others."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from token_server.core.identifiers import (
    IdentifierError,
    audience_problem,
    canonical_email,
    client_id_problem,
    name_problem,
    new_secret_id,
    new_user_id,
    scope_token_problem,
)


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("alice@example.com", "alice@example.com"),
        ("Alice@EXAMPLE.com", "alice@example.com"),
        ("  alice@example.com  ", "alice@example.com"),
        ("alice\uff20example.com", "alice@example.com"),
        ("\u3000alice@example.com", "alice@example.com"),
        ("jose\u0301@example.com", "jos\u00e9@example.com"),
        ("\u212aate@example.com", "kate@example.com"),  # Kelvin sign
        ("stra\u00dfe@example.com", "strasse@example.com"),
        ("\u01f0@example.com", "\u01f0@example.com"),  # folds to two code points, composed again
        ("j\u030c@example.com", "\u01f0@example.com"),
        ("ﬁona@example.com", "fiona@example.com"),
        ("d\u0131lek@example.com", "d\u0131lek@example.com"),  # Turkish dotless i is its own letter
        ("a@b", "a@b"),
        ('"quoted"@example.com', '"quoted"@example.com'),
    ],
)
def test_spellings_of_an_email_share_one_form(text: str, canonical: str) -> None:
    """Case, width, composition and outer spaces do not make a second account (case F 106)."""
    assert canonical_email(text) == canonical


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "alice",
        "@example.com",
        "alice@",
        "a@b@c",
        "alice\uff20b@c",
        "al ice@example.com",
        "alice@exa\tmple.com",
        "alice@example.com\n",
        "al\u00a0ice@example.com",
        "al\u0000ice@example.com",
        "al\u200bice@example.com",  # zero-width space
        "al\u200dice@example.com",  # zero-width joiner
        "al\u00adice@example.com",  # soft hyphen
        "al\u202eice@example.com",  # right-to-left override
        "al\u200eice@example.com",  # left-to-right mark
        "al\ufeffice@example.com",  # byte order mark
        "al\u034fice@example.com",  # combining grapheme joiner
        "al\u3164ice@example.com",  # Hangul filler
        "al\ufe0fice@example.com",  # variation selector
        "al\U000e0100ice@example.com",
        "al\u2028ice@example.com",
        "al\ud800ice@example.com",
        "al\u0378ice@example.com",  # unassigned
        "al\ue000ice@example.com",  # private use
        "a" * 250 + "@b.de",
        "\ufdfa" * 250 + "@b.de",  # 18 code points each after NFKC
        "a" * 1_000_000,
    ],
)
def test_an_email_of_unsure_meaning_is_refused(text: str) -> None:
    """Invisible, bidi, control, unassigned and over-long text is refused (case F 106)."""
    with pytest.raises(IdentifierError) as refused:
        canonical_email(text)

    assert not text.strip() or text not in str(refused.value)


def test_the_longest_email_is_accepted() -> None:
    """254 characters is the limit, not one less."""
    assert len(canonical_email("a" * 249 + "@b.de")) == 254


@given(st.text(max_size=40), st.text(max_size=20))
def test_canonical_form_is_a_fixed_point(local: str, domain: str) -> None:
    """Folding twice changes nothing, so a stored form always finds itself again."""
    try:
        once = canonical_email(f"{local}@{domain}")
    except IdentifierError:
        return
    assert canonical_email(once) == once
    assert unicodedata.is_normalized("NFKC", once)


def test_folding_once_is_enough_for_every_character() -> None:
    """No code point, alone or with an accent that folds to a letter, needs a second pass."""
    for code_point in range(0x20, 0x20000):
        for accent in ("", "\u0345"):
            try:
                once = canonical_email(f"{chr(code_point)}{accent}@b")
            except IdentifierError:
                continue
            assert canonical_email(once) == once


@given(st.emails())
def test_ordinary_emails_fold_alike_in_any_case(email: str) -> None:
    """Upper case, lower case and padding of an ordinary address are the same account."""
    assert canonical_email(email.upper()) == canonical_email(f" {email.lower()} ")


@pytest.mark.parametrize("text", ["a", "orders-service", "A.b_c~d-9", "x" * 64, "user", "usr"])
def test_ordinary_client_ids_are_accepted(text: str) -> None:
    """The unreserved characters of URIs, up to 64 of them."""
    assert client_id_problem(text) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x" * 65,
        "a b",
        "a:b",
        "a/b",
        "ä",
        "a\n",
        "a\x00",
        "a%20",
        "usr_abc",
        "USR_abc",
        "\ud800",
    ],
)
def test_client_ids_that_need_escaping_or_look_like_users_are_refused(text: str) -> None:
    """`sub` of a machine token never reads as a user id, and ids need no escaping."""
    assert client_id_problem(text) is not None


@pytest.mark.parametrize("text", ["A", "Zoë", "محمد", "नेहा शर्मा", "x" * 100, "नमस्\u200dते"])
def test_names_of_all_scripts_are_accepted(text: str) -> None:
    """1 to 100 code points; joiners are part of some scripts."""
    assert name_problem(text) is None


@pytest.mark.parametrize(
    "text", ["", "  ", "x" * 101, "a\nb", "a\x00", "a\x1b[31m", "\ud800", "\u2028"]
)
def test_names_with_controls_are_refused(text: str) -> None:
    """Nothing that could break a line of a log or a terminal."""
    assert name_problem(text) is not None


@pytest.mark.parametrize("text", ["orders:read", "a", "!", "~", "urn:x/y?z", "x" * 128])
def test_scope_tokens_of_the_grammar_are_accepted(text: str) -> None:
    """RFC 6749 §3.3: %x21 / %x23-5B / %x5D-7E."""
    assert scope_token_problem(text) is None


@pytest.mark.parametrize("text", ["", "a b", 'a"', "a\\b", "ä", "a\t", "a\n", "\x7f", "x" * 129])
def test_scope_tokens_outside_the_grammar_are_refused(text: str) -> None:
    """RFC 6749 §3.3: no space, quote, backslash, control or non-ASCII."""
    assert scope_token_problem(text) is not None


@pytest.mark.parametrize(
    "text",
    [
        "https://orders.example",
        "https://orders.example:8443/v1?x=y",
        "http://127.0.0.1:8080",
        "http://[::1]:8080/",
        "urn:example:orders",
        "api://orders",
        "https://o.example/%C3%A4",
    ],
)
def test_absolute_uris_are_audiences(text: str) -> None:
    """RFC 8707 §2 asks for an absolute URI, of any scheme."""
    assert audience_problem(text) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "orders",
        "/orders",
        "//orders.example",
        "https:",
        "https://",
        "https:orders.example",
        "HTTPS:///path",
        "https://orders.example#a",
        "urn:example:orders#",
        "https://o.example/ä",
        "https://o.example/a b",
        "https://o.example/%zz",
        "https://o.example\n",
        "1http://x",
        "https://o.example/" + "x" * 512,
    ],
)
def test_relative_and_fragment_uris_are_no_audiences(text: str) -> None:
    """RFC 8707 §2: absolute, and no fragment."""
    assert audience_problem(text) is not None


def test_ids_are_made_of_the_given_entropy() -> None:
    """Lengths and prefixes are what the database columns and the documentation say."""
    assert new_user_id(bytes(16)) == "usr_" + "A" * 22
    assert new_secret_id(b"\xff" * 12) == "cs_" + "_" * 16
    with pytest.raises(ValueError, match="16 random bytes"):
        new_user_id(bytes(12))
