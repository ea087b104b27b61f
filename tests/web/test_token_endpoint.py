"""The token endpoint's edge, over sockets (security cases D69 to D86 and E88 to E99).

The forms themselves are in test_forms.py; who the client is, with its effects on storage, in
tests/services/test_client_authentication.py.
"""

import base64
import contextlib
import json
import re
from typing import Any

import pytest

from tests.support.server import AUDIENCE, EMAIL, PASSWORD
from tests.support.wire import FORM, WireAnswer, assert_refused, basic, form, head
from tests.web.conftest import APP, MACHINE, EdgeServer

GRANT = ("grant_type", "client_credentials")
MARK = "zq7mark"  # in everything that is sent, and in nothing that may come out


def login(edge: EdgeServer) -> dict[str, Any]:
    answer = edge.wire.post(
        form(
            ("grant_type", "password"),
            ("client_id", APP),
            ("username", EMAIL),
            ("password", PASSWORD),
        )
    )
    assert answer.status == 200, answer
    return dict(answer.json())


def refresh(edge: EdgeServer, refresh_token: str, *fields: tuple[str, str]) -> WireAnswer:
    sound = [("grant_type", "refresh_token"), ("client_id", APP), ("refresh_token", refresh_token)]
    return edge.wire.post(form(*sound, *fields))


# --- methods and targets -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "method", ["GET", "HEAD", "PUT", "DELETE", "PATCH", "TRACE", "OPTIONS", "PROPFIND"]
)
def test_other_method_is_refused_with_allow(edge: EdgeServer, method: str) -> None:
    """D69: POST only, whatever else is right with the request (RFC 6749 §3.2, RFC 9110 §15.5.6)."""
    body = form(GRANT)
    lines = [("Host", "x"), ("Content-Type", FORM), ("Content-Length", str(len(body)))]
    request = head(method, "/oauth2/token", [*lines, edge.authorization])
    answer = edge.wire.send(request, body, method=method)
    if method == "HEAD":
        assert (answer.status, answer.values("allow"), answer.body) == (405, ["POST"], b"")
        return
    assert_refused(answer, 405, "invalid_request")


@pytest.mark.parametrize(
    "query",
    [
        pytest.param("grant_type=client_credentials", id="D70_grant_type"),
        pytest.param(f"client_id={MACHINE}&client_secret={MARK}", id="D70_client_secret"),
        pytest.param(f"password={MARK}", id="D70_password"),
        pytest.param(f"refresh_token={MARK}", id="D70_refresh_token"),
        pytest.param(f"access_token={MARK}", id="D70_access_token"),
        pytest.param(f"x={MARK}", id="D70_unknown"),
        pytest.param(MARK, id="D70_bare"),
    ],
)
def test_query_string_is_refused_and_not_logged(
    edge: EdgeServer, capfd: pytest.CaptureFixture[str], query: str
) -> None:
    """Credentials MUST NOT be in the request URI (RFC 6749 §2.3.1)."""
    answer = edge.wire.post(form(GRANT), [edge.authorization], "/oauth2/token?" + query)
    assert_refused(answer, 400, "invalid_request")
    logged = capfd.readouterr().err
    assert "query_string_present" in logged
    assert MARK not in answer
    assert MARK not in logged


def test_empty_query_string_is_none(edge: EdgeServer) -> None:
    """A lone `?` carries nothing (RFC 3986 §3.4)."""
    answer = edge.wire.post(form(GRANT), [edge.authorization], "/oauth2/token?")
    assert answer.status == 200, answer


# --- the answer that grants ----------------------------------------------------------------------


def test_machine_token_answer_is_exact(edge: EdgeServer) -> None:
    """D86: members, types and headers of RFC 6749 §5.1, and nothing else."""
    answer = edge.machine_token(("scope", "orders:read"))
    token = answer.json()["access_token"]
    assert answer.body == (
        b'{"access_token":"%s","token_type":"Bearer","expires_in":900,"scope":"orders:read"}'
        % token.encode()
    )
    assert re.fullmatch(r"[\w-]+\.[\w-]+\.[\w-]+", token, re.ASCII)
    assert answer.values("content-type") == ["application/json"]
    assert answer.values("cache-control") == ["no-store"]
    assert answer.values("pragma") == ["no-cache"]
    assert answer.values("www-authenticate") == []
    assert answer.values("set-cookie") == []


# --- grants, scopes, targets ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("grant_type", "error"),
    [
        pytest.param(None, "invalid_request", id="D79_missing"),
        pytest.param("", "invalid_request", id="D79_empty"),
        pytest.param(MARK, "unsupported_grant_type", id="D79_unknown"),
        pytest.param("CLIENT_CREDENTIALS", "unsupported_grant_type", id="D79_case"),
        pytest.param("authorization_code", "unsupported_grant_type", id="D79_not_served"),
        pytest.param(
            "urn:ietf:params:oauth:grant-type:token-exchange",
            "unsupported_grant_type",
            id="D79_extension",
        ),
        pytest.param("password", "unauthorized_client", id="D79_off_password"),
        pytest.param("refresh_token", "unauthorized_client", id="D79_off_refresh_token"),
    ],
)
def test_grant_that_cannot_be_used_is_named_by_its_code(
    edge: EdgeServer, grant_type: str | None, error: str
) -> None:
    """Missing, unknown, and known but not for this client are three errors (RFC 6749 §5.2)."""
    fields = [] if grant_type is None else [("grant_type", grant_type)]
    answer = edge.wire.post(form(*fields, ("x", "y")), [edge.authorization])
    assert_refused(answer, 400, error)
    assert MARK not in answer


def test_public_client_cannot_use_client_credentials(edge: EdgeServer) -> None:
    """D79: confidential clients only (RFC 6749 §4.4)."""
    assert_refused(edge.wire.post(form(GRANT, ("client_id", APP))), 400, "unauthorized_client")


@pytest.mark.parametrize(
    ("grant_type", "parameter"),
    [("password", "username"), ("password", "password"), ("refresh_token", "refresh_token")],
)
@pytest.mark.parametrize("sent", [None, ""], ids=["missing", "empty"])
def test_missing_parameter_of_a_grant_is_named(
    edge: EdgeServer, grant_type: str, parameter: str, sent: str | None
) -> None:
    """D73: an empty one is as if left out; the description is ours (RFC 6749 §5.2)."""
    fields = {"username": EMAIL, "password": PASSWORD, "refresh_token": MARK}
    fields.pop(parameter)
    if sent is not None:
        fields[parameter] = sent
    answer = edge.wire.post(form(("grant_type", grant_type), ("client_id", APP), *fields.items()))
    assert_refused(answer, 400, "invalid_request")
    description = f"The {parameter} parameter is missing."
    assert answer.json()["error_description"] == description


@pytest.mark.parametrize(
    "scope",
    [
        pytest.param("orders:read  orders:write", id="D81_double_space"),
        pytest.param(" orders:read", id="D81_leading_space"),
        pytest.param("orders:read ", id="D81_trailing_space"),
        pytest.param(" ", id="D81_space"),
        pytest.param('orders:"read"', id="D81_quote"),
        pytest.param("orders\\read", id="D81_backslash"),
        pytest.param("orders:r\u00e9ad", id="D81_not_ascii"),
        pytest.param("orders:read\u00a0orders:write", id="D81_no_break_space"),
        pytest.param("orders:read,orders:write", id="D81_comma"),
        pytest.param("s" * 10_240, id="D81_10_KB"),
        pytest.param(MARK, id="D81_unknown"),
        pytest.param("ORDERS:READ", id="D81_case"),
        pytest.param("orders", id="D81_prefix"),
        pytest.param("*", id="D81_star"),
        pytest.param("token-server:admin", id="D82_admin"),
        pytest.param("orders:read orders:delete", id="D82_one_not_granted"),
    ],
)
def test_scope_that_was_not_granted_is_refused(edge: EdgeServer, scope: str) -> None:
    """Malformed, unknown or too wide: never cut, never widened (RFC 6749 §3.3, §5.2)."""
    answer = edge.machine_token(("scope", scope))
    assert_refused(answer, 400, "invalid_scope")
    assert MARK not in answer


def test_tab_in_a_scope_is_refused(edge: EdgeServer) -> None:
    """D81: control characters end at the form already."""
    assert_refused(edge.machine_token(("scope", "a\tb")), 400, "invalid_request")


@pytest.mark.parametrize(
    ("scope", "granted"),
    [
        pytest.param("orders:write", "orders:write", id="D82_narrower"),
        pytest.param("orders:write orders:read", "orders:write orders:read", id="D82_order"),
        pytest.param("orders:read orders:read", "orders:read", id="D82_repeated_word"),
    ],
)
def test_granted_scope_is_what_was_asked_for(edge: EdgeServer, scope: str, granted: str) -> None:
    """The answer names what the token holds (RFC 6749 §5.1)."""
    assert edge.machine_token(("scope", scope)).json()["scope"] == granted


@pytest.mark.parametrize(
    "resource",
    [
        AUDIENCE + "/",
        AUDIENCE.upper(),
        AUDIENCE + "#x",
        AUDIENCE + "?x=" + MARK,
        "https://other.example",
        "orders",
        "//orders.example",
        "https://orders.example]",
        "http://[",
        "https://" + "a" * 3000,
        "https://orders.example\u202e",
    ],
)
def test_resource_that_is_not_the_clients_is_refused(edge: EdgeServer, resource: str) -> None:
    """Compared as text, one registered audience at a time (RFC 8707 §2)."""
    answer = edge.machine_token(("resource", resource))
    assert_refused(answer, 400, "invalid_target")
    assert MARK not in answer


def test_refused_widening_does_not_spend_the_refresh_token(edge: EdgeServer) -> None:
    """D83: invalid_scope, and the same token still works; narrowing touches only the access token
    (RFC 6749 §6)."""
    tokens = login(edge)
    wider = refresh(edge, tokens["refresh_token"], ("scope", "orders:read orders:delete"))
    assert_refused(wider, 400, "invalid_scope")
    other = refresh(edge, tokens["refresh_token"], ("resource", "https://other.example"))
    assert_refused(other, 400, "invalid_target")
    narrower = refresh(edge, tokens["refresh_token"], ("scope", "orders:read")).json()
    assert narrower["scope"] == "orders:read"
    again = refresh(edge, narrower["refresh_token"]).json()
    assert again["scope"] == "orders:read orders:write"


# --- client authentication -----------------------------------------------------------------------


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


# --- the whole matrix, byte for byte -------------------------------------------------------------

INVALID_GRANT = (
    b'{"error":"invalid_grant","error_description":"The credentials or the refresh token are'
    b' invalid, expired or revoked."}'
)
MATRIX = {
    "invalid_request": (
        400,
        [("client_id", MACHINE), ("client_secret", "SECRET")],
        b'{"error":"invalid_request","error_description":"The grant_type parameter is missing."}',
    ),
    "invalid_client": (
        401,
        [GRANT, ("client_id", MACHINE), ("client_secret", MARK)],
        b'{"error":"invalid_client","error_description":"Client authentication failed."}',
    ),
    "invalid_grant_password": (
        400,
        [("grant_type", "password"), ("client_id", APP), ("username", MARK), ("password", MARK)],
        INVALID_GRANT,
    ),
    "invalid_grant_refresh_token": (
        400,
        [("grant_type", "refresh_token"), ("client_id", APP), ("refresh_token", MARK)],
        INVALID_GRANT,
    ),
    "unauthorized_client": (
        400,
        [GRANT, ("client_id", APP)],
        (
            b'{"error":"unauthorized_client",'
            b'"error_description":"This client may not use this grant type."}'
        ),
    ),
    "unsupported_grant_type": (
        400,
        [("grant_type", MARK), ("client_id", APP)],
        (
            b'{"error":"unsupported_grant_type",'
            b'"error_description":"This grant type is not supported."}'
        ),
    ),
    "invalid_scope": (
        400,
        [GRANT, ("client_id", MACHINE), ("client_secret", "SECRET"), ("scope", MARK)],
        (
            b'{"error":"invalid_scope","error_description":'
            b'"The scope is malformed, unknown or exceeds what was granted."}'
        ),
    ),
    "invalid_target": (
        400,
        [GRANT, ("client_id", MACHINE), ("client_secret", "SECRET"), ("resource", "x:" + MARK)],
        (
            b'{"error":"invalid_target","error_description":'
            b'"The resource is not one that this client may ask for."}'
        ),
    ),
}


@pytest.mark.parametrize("case", MATRIX)
def test_error_answer_is_exact(
    edge: EdgeServer, capfd: pytest.CaptureFixture[str], case: str
) -> None:
    """D85, D86: each code of RFC 6749 §5.2 and RFC 8707 §2 by its bytes; nothing sent is echoed
    or logged, and the refusal is one log line with its request id."""
    status, fields, body = MATRIX[case]
    sent = [(k, edge.secret if v == "SECRET" else v) for k, v in fields]
    answer = edge.wire.post(form(*sent), [("User-Agent", MARK), ("X-Request-Id", MARK)])
    assert answer.body == body
    assert_refused(answer, status, json.loads(body)["error"])
    logged = capfd.readouterr().err
    lines = [json.loads(line) for line in logged.splitlines()]
    refusals = [line for line in lines if line["event"] == "token_request_refused"]
    assert [line["request_id"] for line in refusals] == answer.values("x-request-id")
    for text in (MARK, edge.secret):
        assert text not in answer
        assert text not in logged


def test_refusals_are_counted_by_error(edge: EdgeServer) -> None:
    """What never became a grant counts too: `/metrics` shows malformed requests."""

    def count() -> float:
        text = edge.server.runtime.metrics.render()[0].decode()
        label = 'token_server_token_requests_total{grant="unknown",outcome="invalid_request"}'
        return sum(float(x.rsplit(" ", 1)[1]) for x in text.splitlines() if x.startswith(label))

    before = count()
    assert_refused(edge.wire.post(b"%"), 400, "invalid_request")
    assert count() == before + 1


@pytest.mark.parametrize("scheme", ["Basic  ", "basic ", "BASIC "])
def test_spelling_of_the_scheme_is_free(edge: EdgeServer, scheme: str) -> None:
    """Scheme names are case-insensitive, and more than one space may follow (RFC 9110 §11.4)."""
    credentials = edge.authorization[1].split(" ")[1]
    headers = [("authorization", scheme + credentials)]
    assert edge.wire.post(form(GRANT), headers).status == 200
