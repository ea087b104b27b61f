"""Audience by resource indicator (RFC 8707)."""

import pytest

from tests.support.records import new_client
from token_server.core.audience import choose_audience, default_audience, parse_resource
from token_server.errors import InvalidTargetError


@pytest.mark.parametrize("text", ["https://a.example", "https://a.example/x?y=1", "urn:service:a"])
def test_absolute_uri_is_a_resource(text: str) -> None:
    """Taken as it is, never normalised."""
    assert parse_resource(text) == text


@pytest.mark.parametrize(
    "text",
    ["a", "/a", "//a.example", "https://", "https://a.example/#f", "https://a.example/ b",
     "https://[::1", "https://\u00e9.example", "https://a.example/" + "a" * 2048],
)  # fmt: skip
def test_anything_else_is_an_invalid_target(text: str) -> None:
    """An absolute URI without fragment (RFC 8707 §2)."""
    with pytest.raises(InvalidTargetError):
        parse_resource(text)


def test_registered_resource_is_the_one_audience() -> None:
    """Among the client's audiences, or its default."""
    assert choose_audience("b", ("a", "b"), ("d",)) == ("b",)
    assert choose_audience("d", ("a", "b"), ("d",)) == ("d",)
    assert choose_audience(None, ("a", "b"), ("d", "e")) == ("d", "e")


def test_foreign_resource_is_an_invalid_target() -> None:
    """Compared as text."""
    with pytest.raises(InvalidTargetError):
        choose_audience("a/", ("a",), ("d",))


def test_default_is_own_then_first_audience_then_the_servers() -> None:
    """Never all audiences at once (RFC 9700 §2.3)."""
    own = new_client(audiences=("a", "b"), default_audience=("b",))
    assert default_audience(own, "s") == ("b",)
    several = new_client(audiences=("a", "b"), default_audience=())
    assert default_audience(several, "s") == ("a",)
    none = new_client(audiences=(), default_audience=())
    assert default_audience(none, "s") == ("s",)
