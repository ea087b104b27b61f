"""Which client authentication method was used: exactly one (RFC 6749 §2.3; security cases E)."""

import base64

import pytest

from token_server.core.client_auth import ClientAuthMethod, read_client
from token_server.errors import InvalidClientError, InvalidRequestError


def basic(text: str) -> str:
    return "Basic " + base64.b64encode(text.encode()).decode()


def test_basic_credentials_are_read() -> None:
    """`client_secret_basic`; the scheme is case-insensitive (RFC 9110 §11.1)."""
    presented = read_client([basic("app:s3cret").replace("Basic", "bAsIc")], {})
    assert presented.client_id == "app"
    assert presented.method is ClientAuthMethod.CLIENT_SECRET_BASIC
    assert presented.secret is not None
    assert presented.secret.reveal() == "s3cret"


@pytest.mark.parametrize(
    ("sent", "client_id", "secret"),
    [
        ("a%3Ab:x", "a:b", "x"),
        ("a:b:c", "a", "b:c"),
        ("a%253Ab:x", "a%3Ab", "x"),
        ("a+b:c+d", "a b", "c d"),
        ("a%20b:%25", "a b", "%"),
    ],
)
def test_basic_credentials_are_form_decoded_exactly_once(
    sent: str, client_id: str, secret: str
) -> None:
    """RFC 6749 §2.3.1: form-encoded, then joined, then base64 (E92)."""
    presented = read_client([basic(sent)], {})
    assert presented.client_id == client_id
    assert presented.secret is not None
    assert presented.secret.reveal() == secret


def test_post_credentials_are_read() -> None:
    """`client_secret_post`."""
    presented = read_client([], {"client_id": "app", "client_secret": "x"})
    assert presented.method is ClientAuthMethod.CLIENT_SECRET_POST


def test_client_id_alone_is_a_public_client() -> None:
    """`none`: identified, not authenticated."""
    presented = read_client([], {"client_id": "app"})
    assert presented.method is ClientAuthMethod.NONE
    assert presented.secret is None


def test_basic_with_the_same_client_id_in_the_body_is_one_method() -> None:
    """A client_id is no authentication by itself (RFC 6749 §3.2.1)."""
    assert read_client([basic("app:x")], {"client_id": "app"}).client_id == "app"


@pytest.mark.parametrize(
    ("authorization", "form"),
    [
        pytest.param([basic("app:x")], {"client_id": "app", "client_secret": "x"}, id="E88_same"),
        pytest.param([basic("app:x")], {"client_id": "app", "client_secret": "y"}, id="E88_other"),
        pytest.param([basic("app:x")], {"client_secret": "x"}, id="E88_secret_alone"),
        pytest.param([basic("app:x")], {"client_assertion": "x"}, id="E89"),
        pytest.param(
            [], {"client_id": "a", "client_secret": "x", "client_assertion": "y"}, id="E89_post"
        ),
        pytest.param([basic("app:x")], {"client_id": "other"}, id="E90"),
        pytest.param([basic("app:x"), basic("app:x")], {}, id="two_headers"),
    ],
)
def test_more_than_one_method_is_an_invalid_request(
    authorization: list[str], form: dict[str, str]
) -> None:
    """The client MUST NOT use more than one method in each request (RFC 6749 §2.3)."""
    with pytest.raises(InvalidRequestError):
        read_client(authorization, form)


@pytest.mark.parametrize(
    "authorization",
    [
        "Basic",
        "Basic ",
        "Basic !!!",
        "Basic YXBw",  # no colon
        "Basic YXBwOng",  # padding missing
        "Basic YXBwOng=\u00e9",
        basic("%:x"),
        basic("%2:x"),
        basic("%zz:x"),
        basic("%ff:x"),
        basic("a%00b:x"),
        basic("a\x00b:x"),
        basic("a\u202eb:x"),
        basic(":x"),
        basic("app:"),
        basic("a" * 600 + ":x"),
        "Basic " + "A" * 1_000_000,
        "Bearer abc",
        "Digest username=app",
        "",
    ],
)
def test_unreadable_authorization_is_an_invalid_client(authorization: str) -> None:
    """NUL, 1 MB, bidi marks, other schemes: 401, bounded (E84, E94)."""
    with pytest.raises(InvalidClientError):
        read_client([authorization], {})


@pytest.mark.parametrize(
    "form",
    [
        {},
        {"client_secret": "x"},
        {"client_id": "a\u202eb"},
        {"client_id": "a" * 513},
        {"client_id": "app", "client_secret": "\u00e9"},
        {"client_assertion": "x"},
        {"client_id": "app", "client_assertion_type": "x"},
    ],
)
def test_missing_or_unreadable_form_credentials_are_an_invalid_client(form: dict[str, str]) -> None:
    """No client authentication included, or none that this server knows (RFC 6749 §5.2)."""
    with pytest.raises(InvalidClientError):
        read_client([], form)


def test_presented_secret_does_not_show() -> None:
    """Secrets are wrapped from the moment that they are read."""
    assert "s3cret" not in repr(read_client([basic("app:s3cret")], {}))
