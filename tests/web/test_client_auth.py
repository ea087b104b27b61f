"""How a client says who it is, over sockets (security cases D84, E88 to E94, E99; RFC 6749 §2.3).

What that does to storage and caches is in tests/services/test_client_authentication.py.
"""

import base64
import contextlib

import pytest

from tests.support.wire import assert_refused, basic, form
from tests.web.conftest import APP, MACHINE, EdgeServer

GRANT = ("grant_type", "client_credentials")
MARK = "zq7mark"  # sent, and never to be seen again


def basic_text(text: bytes) -> tuple[str, str]:
    return ("Authorization", "Basic " + base64.b64encode(text).decode())


def test_secret_in_the_body_is_accepted(edge: EdgeServer) -> None:
    """`client_secret_post` (RFC 6749 §2.3.1)."""
    answer = edge.wire.post(form(GRANT, ("client_id", MACHINE), ("client_secret", edge.secret)))
    assert answer.status == 200, answer


def test_same_client_id_in_header_and_body_is_one_method(edge: EdgeServer) -> None:
    """E90: the id alone authenticates nobody (RFC 6749 §3.2.1)."""
    assert edge.machine_token(("client_id", MACHINE)).status == 200


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"client_id": MACHINE, "client_secret": "SECRET"}, id="E88_same"),
        pytest.param({"client_id": MACHINE, "client_secret": MARK}, id="E88_different"),
        pytest.param({"client_secret": "SECRET"}, id="E88_secret_alone"),
        pytest.param({"client_assertion": MARK}, id="E89_assertion"),
        pytest.param({"client_assertion_type": MARK}, id="E89_assertion_type"),
        pytest.param({"client_id": APP}, id="E90_other_client"),
        pytest.param({"client_id": MACHINE.upper()}, id="E90_case"),
        pytest.param({"client_id": MARK}, id="E90_unknown_client"),
    ],
)
def test_two_ways_to_say_who_is_asking_are_refused(
    edge: EdgeServer, fields: dict[str, str]
) -> None:
    """More than one method, or two ids: invalid_request, never "either" (RFC 6749 §2.3)."""
    sent = [(k, edge.secret if v == "SECRET" else v) for k, v in fields.items()]
    answer = edge.machine_token(*sent)
    assert_refused(answer, 400, "invalid_request")
    assert MARK not in answer


def test_two_authorization_headers_are_refused(edge: EdgeServer) -> None:
    """E88: even when both are right; which one counts would be a guess (RFC 9110 §11.6.2)."""
    answer = edge.machine_token(headers=(edge.authorization,))
    assert_refused(answer, 400, "invalid_request")


@pytest.mark.parametrize(
    ("header", "fields"),
    [
        pytest.param(None, {}, id="E94_nothing"),
        pytest.param(None, {"client_id": MACHINE}, id="E94_only_client_id"),
        pytest.param(None, {"client_id": MACHINE, "client_secret": ""}, id="E94_empty_secret"),
        pytest.param(None, {"client_secret": MARK}, id="E94_only_secret"),
        pytest.param(basic_text(b"billing:"), {}, id="E94_basic_empty_secret"),
        pytest.param(basic_text(b"billing"), {}, id="E94_basic_without_colon"),
        pytest.param(basic_text(b":x"), {}, id="E94_basic_without_id"),
        pytest.param(basic_text(b""), {}, id="E94_basic_empty"),
        pytest.param(("Authorization", "Basic"), {}, id="E94_basic_bare"),
        pytest.param(("Authorization", "Basic !!!!"), {}, id="E94_basic_not_base64"),
        pytest.param(("Authorization", "Bearer " + MARK), {}, id="E94_bearer"),
        pytest.param(("Authorization", ""), {}, id="E94_authorization_empty"),
        pytest.param(("Authorization", "\xff\xfe"), {}, id="E94_authorization_binary"),
        pytest.param(None, {"client_id": MACHINE, "client_secret": MARK}, id="E93_wrong_secret"),
        pytest.param(None, {"client_id": MARK, "client_secret": MARK}, id="E93_unknown_client"),
        pytest.param(None, {"client_id": MARK}, id="E93_unknown_public"),
        pytest.param(None, {"client_id": APP, "client_secret": MARK}, id="E93_public_with_secret"),
        pytest.param(basic("app", MARK), {}, id="E93_public_with_basic"),
        pytest.param(None, {"client_assertion": MARK}, id="E99_assertion"),
        pytest.param(
            None,
            {
                "client_id": MACHINE,
                "client_assertion": "eyJhbGciOiJub25lIn0.e30.",
                "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
            },
            id="E99_private_key_jwt",
        ),
        pytest.param(basic_text(b"billing\x00:x"), {}, id="E84_nul"),
        pytest.param(basic_text(b"billing%00:x"), {}, id="E84_encoded_nul"),
        pytest.param(basic_text(b"billing:" + b"s" * 3000), {}, id="E84_3_KB"),
        pytest.param(basic_text("b\u202eilling:x".encode()), {}, id="E84_bidi"),
        pytest.param(basic_text(b"b%E2%80%AEilling:x"), {}, id="E84_encoded_bidi"),
        pytest.param(
            None, {"client_id": "b\u202eilling", "client_secret": "x"}, id="E84_form_bidi"
        ),
        pytest.param(None, {"client_id": "b" * 9000, "client_secret": "x"}, id="E84_form_9_KB"),
    ],
)
def test_failed_client_authentication_is_one_answer(
    edge: EdgeServer, header: tuple[str, str] | None, fields: dict[str, str]
) -> None:
    """401 invalid_client with a challenge; the body is the same for every cause (RFC 6749 §5.2)."""
    headers = [] if header is None else [header]
    answer = edge.wire.post(form(GRANT, *fields.items()), headers)
    assert_refused(answer, 401, "invalid_client")
    assert answer.body == (
        b'{"error":"invalid_client","error_description":"Client authentication failed."}'
    )


def test_megabyte_of_credentials_is_bounded(edge: EdgeServer) -> None:
    """D84: refused by us, or cut off by the HTTP parser while it is still coming in; the server
    goes on."""
    with contextlib.suppress(ConnectionError):
        answer = edge.wire.post(form(GRANT), [basic_text(b"billing:" + b"s" * 1_000_000)])
        assert answer.status in (400, 401, 431), answer.status
    assert edge.machine_token().status == 200


@pytest.mark.parametrize(
    ("text", "reads_as"),
    [
        pytest.param("a%3Ab:x", "a:b", id="E92_encoded_colon"),
        pytest.param("a:b:x", "a", id="E92_raw_colon"),
        pytest.param("a%253Ab:x", "a%3Ab", id="E92_encoded_twice"),
        pytest.param("a+b:x", "a b", id="E92_plus"),
        pytest.param("a%20b:x", "a b", id="E92_space"),
        pytest.param("a%2Bb:x", "a+b", id="E92_encoded_plus"),
    ],
)
def test_basic_credentials_are_decoded_exactly_once(
    edge: EdgeServer, text: str, reads_as: str
) -> None:
    """RFC 6749 §2.3.1: seen through the body's client_id, which must be the same."""
    headers = [basic_text(text.encode())]
    same = edge.wire.post(form(GRANT, ("client_id", reads_as)), headers)
    assert_refused(same, 401, "invalid_client")
    other = edge.wire.post(form(GRANT, ("client_id", reads_as + "x")), headers)
    assert_refused(other, 400, "invalid_request")


def test_secret_is_form_decoded_in_the_header_and_not_twice_in_the_body(edge: EdgeServer) -> None:
    """E92: every character of the secret may be percent-encoded; the body is decoded once."""
    encoded = "".join(f"%{ord(c):02X}" for c in edge.secret)
    header = basic_text(f"billing:{encoded}".encode())
    assert edge.wire.post(form(GRANT), [header]).status == 200
    once = f"client_id={MACHINE}&client_secret={encoded}".encode()
    assert edge.wire.post(form(GRANT) + b"&" + once).status == 200
    twice = form(("client_id", MACHINE), ("client_secret", encoded))
    assert_refused(edge.wire.post(form(GRANT) + b"&" + twice), 401, "invalid_client")


@pytest.mark.parametrize("scheme", ["Basic  ", "basic ", "BASIC "])
def test_spelling_of_the_scheme_is_free(edge: EdgeServer, scheme: str) -> None:
    """Scheme names are case-insensitive, and more than one space may follow (RFC 9110 §11.4)."""
    credentials = edge.authorization[1].split(" ")[1]
    headers = [("authorization", scheme + credentials)]
    assert edge.wire.post(form(GRANT), headers).status == 200
