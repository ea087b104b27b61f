"""The token endpoint's edge, over sockets (security cases D69 to D86; RFC 6749 §3.2, §5).

The forms themselves are in test_forms.py, client authentication is in test_client_auth.py.
"""

import asyncio
import json
import re
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.support.server import AUDIENCE, EMAIL, PASSWORD, RunningServer
from tests.support.wire import FORM, WireAnswer, assert_refused, form, head
from tests.web.conftest import APP, MACHINE, EdgeServer
from token_server.services.clients import SecretRotation, rotate_secret

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
            "urn:ietf:params:oauth:grant-type:saml2-bearer",
            "unsupported_grant_type",
            id="D79_extension",
        ),
        pytest.param("token-exchange", "unsupported_grant_type", id="D79_short_name"),
        pytest.param(
            "urn:ietf:params:oauth:grant-type:token-exchange",
            "unauthorized_client",
            id="D79_off_token_exchange",
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


async def test_instant_is_read_when_the_body_has_come(sqlite_server: RunningServer) -> None:
    """Whoever sends a body slowly must not choose an older "now": an expired secret stays expired
    and a token is not dated back."""
    await sqlite_server.add_client("slow", grant_types=("client_credentials",))
    _, secret = await rotate_secret(
        sqlite_server.runtime, "slow", SecretRotation("short", expires_in_s=60)
    )
    body = form(GRANT, ("client_id", "slow"), ("client_secret", secret.reveal()))
    lines = [("Host", "x"), ("Content-Type", FORM), ("Content-Length", str(len(body)))]
    address = urlsplit(sqlite_server.base_url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    try:
        writer.write(head("POST", "/oauth2/token", [*lines, ("Expect", "100-continue")]))
        # The invitation comes when the handler has begun to read.
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        sqlite_server.clock.advance(60)
        writer.write(body)
        assert (await reader.readline()).startswith(b"HTTP/1.1 401 ")
    finally:
        writer.close()
        await writer.wait_closed()
