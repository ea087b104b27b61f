"""The outermost layer: every answer is ours, whatever was asked (M218, M221, M224).

What breaks inside the server is in test_faults.py.
"""

import asyncio
import json
import re
import string
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.server import copy_keys, make_settings, running_server
from tests.support.wire import FORM, Wire, WireAnswer, assert_refused, form, head
from tests.web.conftest import APP, MACHINE, EdgeServer
from token_server.grants.registry import GRANTS

GRANT = ("grant_type", "client_credentials")
SECURITY_HEADERS = {
    "x-content-type-options": "nosniff",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "strict-transport-security": "max-age=31536000",
}


def assert_security_headers(answer: WireAnswer) -> None:
    for name, value in SECURITY_HEADERS.items():
        assert answer.values(name) == [value], (name, answer)


def assert_edge_headers(answer: WireAnswer) -> None:
    assert_security_headers(answer)
    assert re.fullmatch(r"[\w-]{16}", answer.values("x-request-id")[0], re.ASCII)
    assert answer.values("server") == []
    assert answer.values("x-powered-by") == []


def assert_problem(answer: WireAnswer, status: int, code: str) -> None:
    """RFC 9457, as everywhere outside /oauth2."""
    assert answer.status == status, answer
    assert answer.values("content-type") == ["application/problem+json"]
    assert answer.values("cache-control") == ["no-store"]
    body = answer.json()
    assert body.keys() == {"type", "title", "status", "code"}
    assert (body["type"], body["status"], body["code"]) == ("about:blank", status, code)


def every_answer(edge: EdgeServer) -> dict[str, WireAnswer]:
    wire, jwks = edge.wire, "/.well-known/jwks.json"
    etag = wire.request("GET", jwks).values("etag")[0]
    long_body = head(
        "POST",
        "/oauth2/token",
        [("Host", "x"), ("Content-Type", FORM), ("Content-Length", "99999")],
    )
    return {
        "200_token": edge.machine_token(),
        "200_document": wire.request("GET", jwks),
        "200_head": wire.request("HEAD", jwks),
        "204": wire.request("OPTIONS", jwks),
        "304": wire.request("GET", jwks, [("If-None-Match", etag)]),
        "400": wire.post(b"%"),
        "401": wire.post(form(GRANT)),
        "404": wire.request("GET", "/none"),
        "404_oauth": wire.request("GET", "/oauth2/none"),
        "404_head": wire.request("HEAD", "/none"),
        "405": wire.request("PUT", jwks),
        "405_oauth": wire.request("GET", "/oauth2/token"),
        "413": wire.send(long_body),
        "414": wire.request("GET", "/" + "a" * 3000),
        "415": wire.post(b"{}", [("Content-Type", "application/json")]),
    }


def test_only_public_documents_may_be_embedded_elsewhere(edge: EdgeServer) -> None:
    """Cross-Origin-Resource-Policy: tokens and problems are for their own origin."""
    public = {"200_document", "200_head", "204", "304"}
    for name, answer in every_answer(edge).items():
        policy = "cross-origin" if name in public else "same-origin"
        assert answer.values("cross-origin-resource-policy") == [policy], name


def test_every_answer_has_the_security_headers(edge: EdgeServer) -> None:
    """M224: errors are answers, too (ASVS 3.4.1 to 3.4.8); 500 and 503 are in test_faults.py."""
    for name, answer in every_answer(edge).items():
        assert answer.status == int(name[:3]), (name, answer)
        assert_edge_headers(answer)


def test_request_ids_are_unique_and_ours(edge: EdgeServer) -> None:
    """A request id of the client's would let it write into our log (ASVS 16.4.1)."""
    sent = [("X-Request-Id", "evil"), ("X-Correlation-Id", "evil")]
    ids = [
        edge.wire.request("GET", "/.well-known/jwks.json", sent).values("x-request-id")
        for _ in range(50)
    ]
    assert all(len(values) == 1 for values in ids)
    assert len({values[0] for values in ids}) == 50
    assert "evil" not in {values[0] for values in ids}


@pytest.mark.parametrize(
    "path",
    [
        "/oauth2",
        "/oauth2/",
        "/oauth2/none",
        "/oauth2/token/x",
        "/oauth2/token/",
        "/oauth2//token",
        "/oauth2/./token",
        "/oauth2/Token",
        "/oauth2/%00",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_unknown_oauth_path_answers_as_oauth(edge: EdgeServer, path: str, method: str) -> None:
    """404 in the shape of RFC 6749 §5.2."""
    answer = edge.wire.request(method, path)
    assert_refused(answer, 404, "invalid_request")
    assert answer.json()["error_description"] == "There is no such endpoint."


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/none",
        "/OAUTH2/token",
        "/oauth2x",
        "/docs",
        "/docs/swagger-ui-bundle.js",
        "/schema",
        "/metrics",
        "/debug",
        "/admin",
        "/.well-known",
        "/.well-known/jwks.json/x",
        "/.well-known/jwks.json/",
        "//.well-known/jwks.json",
        "//oauth2//token/",
        "/..%2f..%2fetc%2fpasswd",
        "/%ff%fe",
        "/<script>alert(1)</script>",
        "/?x=<script>",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
def test_unknown_path_answers_as_a_problem(edge: EdgeServer, path: str, method: str) -> None:
    """404 as RFC 9457 says; no pages, debugging or metrics on this port (M223)."""
    answer = edge.wire.request(method, path)
    assert_problem(answer, 404, "not_found")
    assert "script" not in answer


@pytest.mark.parametrize("target", ["/oauth2/" + "a" * 5000, "/" + "a" * 5000])
def test_path_too_long_is_refused_in_its_shape(edge: EdgeServer, target: str) -> None:
    """M218: 414, before any cache of routes sees it."""
    answer = edge.wire.request("GET", target)
    if target.startswith("/oauth2/"):
        assert_refused(answer, 414, "invalid_request")
    else:
        assert_problem(answer, 414, "uri_too_long")


@pytest.mark.parametrize(
    "line",
    [
        "GET http://evil.example/oauth2/token HTTP/1.1",
        "POST http://evil.example/oauth2/token HTTP/1.1",
        "OPTIONS * HTTP/1.1",
        "CONNECT evil.example:443 HTTP/1.1",
        "GET /../../etc/passwd HTTP/1.1",
        "GET //evil.example/ HTTP/1.1",
        "BREW / HTTP/1.1",
        "A" * 100 + " / HTTP/1.1",
        "get / HTTP/1.1",
        "GET / HTTP/1.0",
        "GET / HTTP/2.0",
        "GET /\xe9 HTTP/1.1",
        "GET",
        "",
    ],
)
def test_strange_request_line_is_answered_or_cut_off(edge: EdgeServer, line: str) -> None:
    """M221: never a 5xx, never HTML; the server goes on."""
    method = line.partition(" ")[0]
    try:
        answer = edge.wire.send(f"{line}\r\nHost: x\r\n\r\n".encode("latin-1"), method=method)
    except ConnectionError:
        answer = None
    if answer is not None:
        assert 400 <= answer.status < 500, answer
        assert_json_or_parser(answer)
    assert edge.wire.request("GET", "/.well-known/jwks.json").status == 200


@pytest.mark.parametrize(
    "host", ["", "evil.example", "x y", "<script>", "a\xff", "[::1", "x:99999999", "../etc"]
)
def test_host_header_changes_nothing_but_may_be_refused(edge: EdgeServer, host: str) -> None:
    """K199: the configured issuer is used everywhere; a malformed Host is a 400 in the path's
    shape (RFC 9112 §3.2)."""
    body = form(GRANT)
    lines = [("Host", host), ("Content-Type", FORM), ("Content-Length", str(len(body)))]
    answer = edge.wire.send(head("POST", "/oauth2/token", [*lines, edge.authorization]), body)
    if answer.status == 200:
        return
    if is_from_parser(answer):
        assert answer.status == 400
        return
    assert_refused(answer, 400, "invalid_request")
    assert answer.json()["error_description"] == "The request is malformed."


@pytest.mark.parametrize("upgrade", ["websocket", "h2c", "TLS/1.3"])
def test_upgrade_is_not_followed(edge: EdgeServer, upgrade: str) -> None:
    """M221: an upgrade may be ignored (RFC 9110 §7.8); the request is answered as it is."""
    headers = [("Connection", "Upgrade"), ("Upgrade", upgrade)]
    answer = edge.wire.request("GET", "/.well-known/jwks.json", headers)
    assert answer.status in (200, 400)
    posted = edge.wire.post(form(GRANT), [edge.authorization, *headers])
    assert posted.status in (200, 400), posted


# --- never a 5xx, never an echo ------------------------------------------------------------------

MARK = "zq7mark"


def is_from_parser(answer: WireAnswer) -> bool:
    """A refusal of what is not HTTP, or not ours: before there is a request."""
    return answer.values("x-request-id") == []


def assert_json_or_parser(answer: WireAnswer) -> None:
    if is_from_parser(answer):
        assert answer.status in (400, 414, 417, 431), answer
        assert_security_headers(answer)
    else:
        assert_edge_headers(answer)
    if answer.body:
        assert answer.values("content-type")[0].startswith("application/")
        assert isinstance(json.loads(answer.body), dict)


def marked(text: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return text.map(lambda value: MARK + value)


tokens = st.text(string.ascii_letters + string.digits + "!#$%&'*+-.^_`|~", min_size=1, max_size=20)
latin = st.text(st.characters(max_codepoint=255, exclude_characters="\r\n\x00"), max_size=60)
header_names = st.sampled_from(
    [
        "Authorization",
        "Content-Type",
        "Content-Encoding",
        "Accept",
        "Cookie",
        "Host",
        "Origin",
        "User-Agent",
        "X-Forwarded-For",
        "X-Request-Id",
        "If-None-Match",
        "Range",
        "Connection",
        "X-HTTP-Method-Override",
    ]
)
headers_sent = st.lists(
    st.tuples(header_names | tokens.map("X-".__add__), marked(latin)), max_size=5
)
texts = st.text(max_size=30) | st.text("'\";-%_\\()*\t\u202e\u0000\ud7ff\U0010ffff", max_size=30)
secrets_sent = {
    "scope": marked(texts),
    "resource": marked(texts),
    "username": marked(texts),
    "password": marked(texts),
    "refresh_token": marked(texts) | marked(texts).map("rt_".__add__),
    "client_secret": marked(texts),
    "client_assertion": marked(texts),
}
fields_sent = st.fixed_dictionaries(
    {"grant_type": st.sampled_from(sorted(GRANTS)) | marked(texts)},
    optional={"client_id": st.sampled_from([MACHINE, APP]) | marked(texts), **secrets_sent},
)
logins_sent = st.fixed_dictionaries(
    {
        "grant_type": st.sampled_from(["password", "refresh_token"]),
        "client_id": st.just(APP),
        "username": secrets_sent["username"],
        "password": secrets_sent["password"],
        "refresh_token": secrets_sent["refresh_token"],
    },
    optional={"scope": secrets_sent["scope"]},
)


def assert_bad_input_is_refused(
    wire: Wire, capfd: pytest.CaptureFixture[str], request: tuple[bytes, list[tuple[str, str]]]
) -> None:
    body, headers = request
    try:
        answer = wire.post(body, headers)
    except ConnectionError:
        return  # cut off by the HTTP parser
    finally:
        logged = capfd.readouterr().err
        assert MARK not in logged
        assert "Traceback" not in logged
    assert 400 <= answer.status < 500, answer
    assert_json_or_parser(answer)
    assert MARK not in answer


FUZZ = settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@FUZZ
@given(body=st.binary(max_size=300), headers=headers_sent)
def test_any_bytes_are_refused_without_an_echo(
    edge: EdgeServer, capfd: pytest.CaptureFixture[str], body: bytes, headers: list[tuple[str, str]]
) -> None:
    """Bad input is 4xx in JSON, appears in no answer and no log line (ASVS 16.5.1)."""
    assert_bad_input_is_refused(edge.wire, capfd, (body, headers))


@FUZZ
@given(fields=fields_sent | logins_sent, headers=headers_sent)
def test_any_form_is_refused_without_an_echo(
    edge: EdgeServer,
    capfd: pytest.CaptureFixture[str],
    fields: dict[str, str],
    headers: list[tuple[str, str]],
) -> None:
    """Sound forms with made-up credentials get as far as the database, and no further."""
    body = form(*fields.items())
    assert_bad_input_is_refused(edge.wire, capfd, (body, headers))


@FUZZ
@given(fields=fields_sent)
def test_any_form_of_an_authenticated_client_is_answered(
    edge: EdgeServer, capfd: pytest.CaptureFixture[str], fields: dict[str, str]
) -> None:
    """The same behind client authentication: 200 or 4xx, and still no echo."""
    answer = edge.wire.post(form(*fields.items()), [edge.authorization])
    assert 200 <= answer.status < 500, answer
    assert_json_or_parser(answer)
    assert MARK not in answer
    assert MARK not in capfd.readouterr().err


async def test_forwarded_header_of_an_untrusted_proxy_is_told_once(
    sqlite_url: str, shared_keys: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Else every client behind the proxy shares one guessing budget, and nobody knows why."""
    copy_keys(shared_keys, tmp_path)
    settings = make_settings(sqlite_url, tmp_path, trusted_proxies=())
    async with running_server(settings) as server:
        for _ in range(3):
            await server.http.get("/livez", headers={"X-Forwarded-For": "192.0.2.1"})
    assert capfd.readouterr().err.count("forwarded_header_ignored") == 1


async def test_too_many_requests_under_way_are_told_to_come_back(
    sqlite_url: str, shared_keys: Path, tmp_path: Path
) -> None:
    """MAX_REQUESTS: 503 in the path's shape, but the key set is answered; places come back."""
    copy_keys(shared_keys, tmp_path)
    settings = make_settings(sqlite_url, tmp_path, max_requests=1)
    unfinished = head(
        "POST", "/oauth2/token", [("Host", "x"), ("Content-Type", FORM), ("Content-Length", "9")]
    )
    async with running_server(settings) as server:
        address = urlsplit(server.base_url)
        _, writer = await asyncio.open_connection(address.hostname, address.port)
        writer.write(unfinished)
        async with asyncio.timeout(20):
            while (full := await server.http.post("/oauth2/token")).status_code != 503:  # noqa: ASYNC110 - no event
                await asyncio.sleep(0.02)
        account = await server.http.get("/api/auth/me")
        keys = await server.http.get("/.well-known/jwks.json")
        alive = await server.http.get("/livez")
        writer.close()
        await writer.wait_closed()
        async with asyncio.timeout(20):
            while (again := await server.http.post("/oauth2/token")).status_code == 503:  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.02)

    assert full.json()["error"] == "temporarily_unavailable"
    assert full.headers["retry-after"] == "1"
    assert (account.status_code, account.json()["code"]) == (503, "temporarily_unavailable")
    assert (keys.status_code, alive.status_code) == (200, 200)
    assert again.status_code == 415
