"""Scope: grammar and narrowing (RFC 6749 §3.3, §6; security cases D81 to D83)."""

import pytest

from token_server.core.scope import format_scope, narrow_scope, parse_scope
from token_server.errors import InvalidScopeError


@pytest.mark.parametrize(
    ("text", "scope"),
    [
        ("a", ("a",)),
        ("orders:read orders:write", ("orders:read", "orders:write")),
        ("b a b", ("b", "a")),
        ("!#[]~", ("!#[]~",)),
    ],
)
def test_scope_reads_in_order_without_repeats(text: str, scope: tuple[str, ...]) -> None:
    """`scope-token *( SP scope-token )`; order and repetition mean nothing."""
    assert parse_scope(text) == scope


@pytest.mark.parametrize(
    "text",
    ["", " ", " a", "a ", "a  b", "a\tb", "a\nb", 'a"b', "a\\b", "a\u00e9", "a\x7f", "a" * 2049],
)
def test_malformed_scope_is_refused(text: str) -> None:
    """Bad characters, double or outer spaces, tabs, 10 KB: never repaired."""
    with pytest.raises(InvalidScopeError):
        parse_scope(text)


def test_nothing_asked_means_all_that_was_granted() -> None:
    """The documented default (RFC 6749 §3.3)."""
    assert narrow_scope(None, ("a", "b")) == ("a", "b")


def test_scope_narrows_in_the_order_asked() -> None:
    """A part of what was granted is granted."""
    assert narrow_scope(("b",), ("a", "b")) == ("b",)


def test_wider_scope_is_refused_not_cut() -> None:
    """One token too many refuses all: never silently widened or cut."""
    with pytest.raises(InvalidScopeError):
        narrow_scope(("a", "c"), ("a", "b"))


def test_scope_formats_as_it_parses() -> None:
    """One space between tokens."""
    assert format_scope(parse_scope("a b")) == "a b"
