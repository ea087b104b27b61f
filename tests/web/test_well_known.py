"""The public documents: JWKS (RFC 7517) and metadata (RFC 8414), over sockets."""

import json
import re

import pytest

from tests.support.server import ISSUER
from tests.support.wire import WireAnswer
from tests.web.conftest import EdgeServer
from token_server.core.client_auth import ClientAuthMethod
from token_server.grants.registry import GRANTS

JWKS = "/.well-known/jwks.json"
AUTHORIZATION_SERVER = "/.well-known/oauth-authorization-server"
OPENID = "/.well-known/openid-configuration"
DOCUMENTS = (JWKS, AUTHORIZATION_SERVER, OPENID)
ANSWER_OF_ITS_OWN = {"date", "x-request-id"}


def stable_headers(answer: WireAnswer) -> list[tuple[str, str]]:
    return [pair for pair in answer.headers if pair[0] not in ANSWER_OF_ITS_OWN]


def test_jwks_members_are_exactly_the_public_ones(edge: EdgeServer) -> None:
    """`kty use alg kid n e` and no private number (RFC 7517 §4, RFC 7518 §6.3)."""
    answer = edge.wire.request("GET", JWKS)
    document = answer.json()
    assert document.keys() == {"keys"}
    assert len(document["keys"]) == 2  # the active and the next one
    for key in document["keys"]:
        assert list(key) == ["kty", "use", "alg", "kid", "n", "e"]
        assert (key["kty"], key["use"], key["alg"], key["e"]) == ("RSA", "sig", "RS256", "AQAB")
        assert re.fullmatch(r"[\w-]{43}", key["kid"], re.ASCII)
    assert len({key["kid"] for key in document["keys"]}) == 2


def test_signing_key_comes_first(edge: EdgeServer) -> None:
    """The order is stable: by activation, so that bytes and ETag change only with the keys."""
    answer = edge.wire.request("GET", JWKS)
    now = edge.server.clock.now()
    assert answer.json()["keys"][0]["kid"] == edge.server.runtime.keyring.signer(now).kid
    assert edge.wire.request("GET", JWKS).body == answer.body


def test_metadata_is_exact_and_the_same_on_both_paths(edge: EdgeServer) -> None:
    """RFC 8414 §2, §3: what is served, and nothing that is not."""
    answer = edge.wire.request("GET", AUTHORIZATION_SERVER)
    assert answer.json() == {
        "issuer": ISSUER,
        "token_endpoint": ISSUER + "/oauth2/token",
        "jwks_uri": ISSUER + JWKS,
        "status_list_aggregation_endpoint": ISSUER + "/oauth2/status-lists",
        "response_types_supported": [],
        "grant_types_supported": [
            "client_credentials",
            "password",
            "refresh_token",
            "urn:ietf:params:oauth:grant-type:token-exchange",
        ],
        "token_endpoint_auth_methods_supported": [
            "client_secret_basic",
            "client_secret_post",
            "none",
        ],
        "revocation_endpoint": ISSUER + "/oauth2/revoke",
        "revocation_endpoint_auth_methods_supported": [
            "client_secret_basic",
            "client_secret_post",
            "none",
        ],
        "introspection_endpoint": ISSUER + "/oauth2/introspect",
        "introspection_endpoint_auth_methods_supported": [
            "client_secret_basic",
            "client_secret_post",
        ],
        "introspection_signing_alg_values_supported": ["RS256"],
    }
    other = edge.wire.request("GET", OPENID)
    assert other.body == answer.body
    assert stable_headers(other) == stable_headers(answer)


def test_metadata_follows_the_registry(edge: EdgeServer) -> None:
    """A grant or method is written once; every one named is answered by the token endpoint."""
    document = edge.wire.request("GET", AUTHORIZATION_SERVER).json()
    assert document["grant_types_supported"] == sorted(GRANTS)
    methods = document["token_endpoint_auth_methods_supported"]
    assert methods == [method.value for method in ClientAuthMethod]


@pytest.mark.parametrize("path", DOCUMENTS)
def test_document_headers_are_exact(edge: EdgeServer, path: str) -> None:
    """JSON, cacheable by everyone, readable by every origin, never with credentials."""
    answer = edge.wire.request("GET", path)
    max_age = {JWKS: 300}.get(path, 3600)
    assert answer.status == 200
    assert answer.values("content-type") == ["application/json"]
    assert answer.values("cache-control") == [
        f"public, max-age={max_age}, stale-while-revalidate=60, stale-if-error=86400, no-transform"
    ]
    assert answer.values("access-control-allow-origin") == ["*"]
    assert answer.values("access-control-allow-credentials") == []
    assert answer.values("access-control-expose-headers") == ["ETag"]
    assert answer.values("set-cookie") == []
    assert answer.values("content-length") == [str(len(answer.body))]
    assert re.fullmatch(r'"[0-9a-f]{32}"', answer.values("etag")[0])


@pytest.mark.parametrize("path", DOCUMENTS)
def test_head_has_the_headers_of_get_and_no_body(edge: EdgeServer, path: str) -> None:
    """RFC 9110 §9.3.2."""
    got = edge.wire.request("GET", path)
    headed = edge.wire.request("HEAD", path)
    assert (headed.status, headed.body) == (200, b"")
    assert stable_headers(headed) == stable_headers(got)


@pytest.mark.parametrize("path", DOCUMENTS)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    "lines",
    [
        pytest.param(["ETAG"], id="same"),
        pytest.param(["W/ETAG"], id="weak"),
        pytest.param(["*"], id="any"),
        pytest.param(['"a", W/"b" ,ETAG'], id="list"),
        pytest.param(['"a"', "ETAG"], id="two_lines"),
    ],
)
def test_unchanged_document_is_304(
    edge: EdgeServer, path: str, method: str, lines: list[str]
) -> None:
    """Compared weakly, with the headers that a cache renews (RFC 9110 §13.1.2, §15.4.5)."""
    got = edge.wire.request("GET", path)
    etag = got.values("etag")[0]
    headers = [("If-None-Match", line.replace("ETAG", etag)) for line in lines]
    answer = edge.wire.request(method, path, headers)
    assert (answer.status, answer.body) == (304, b"")
    assert answer.values("content-length") == []
    for name in ("etag", "cache-control", "access-control-allow-origin"):
        assert answer.values(name) == got.values(name)


@pytest.mark.parametrize("value", ['"a"', "W/W/ETAG", "BARE", '"*"', "", ",", "\xff", '"ETAG'])
def test_other_tag_gets_the_document(edge: EdgeServer, value: str) -> None:
    """A tag that is not exactly ours matches nothing (RFC 9110 §8.8.3)."""
    etag = edge.wire.request("GET", JWKS).values("etag")[0]
    sent = value.replace("ETAG", etag).replace("BARE", etag.strip('"'))
    assert edge.wire.request("GET", JWKS, [("If-None-Match", sent)]).status == 200


@pytest.mark.parametrize("path", DOCUMENTS)
def test_preflight_allows_reading_and_nothing_else(edge: EdgeServer, path: str) -> None:
    """CORS for public documents: no other method, no other header, no credentials."""
    headers = [
        ("Origin", "https://app.example"),
        ("Access-Control-Request-Method", "DELETE"),
        ("Access-Control-Request-Headers", "authorization, if-none-match"),
    ]
    answer = edge.wire.request("OPTIONS", path, headers)
    assert (answer.status, answer.body) == (204, b"")
    assert answer.values("content-length") == []  # RFC 9110 §8.6
    assert answer.values("allow") == ["GET, HEAD, OPTIONS"]
    assert answer.values("access-control-allow-origin") == ["*"]
    assert answer.values("access-control-allow-methods") == ["GET, HEAD"]
    assert answer.values("access-control-allow-headers") == ["If-None-Match"]
    assert answer.values("access-control-allow-credentials") == []


@pytest.mark.parametrize("path", DOCUMENTS)
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "TRACE"])
def test_other_method_is_405_as_a_problem(edge: EdgeServer, path: str, method: str) -> None:
    """Outside /oauth2 errors are RFC 9457 problem documents."""
    answer = edge.wire.request(method, path)
    assert answer.status == 405
    assert answer.values("allow") == ["GET, HEAD, OPTIONS"]
    assert answer.values("content-type") == ["application/problem+json"]
    assert answer.json() == {
        "type": "about:blank",
        "title": "Method Not Allowed",
        "status": 405,
        "code": "method_not_allowed",
    }


@pytest.mark.parametrize("path", DOCUMENTS)
@pytest.mark.parametrize(
    "headers",
    [
        [("Host", "evil.example")],
        [("Host", "auth.example"), ("X-Forwarded-Host", "evil.example")],
        [("Host", "auth.example"), ("X-Forwarded-Proto", "http"), ("X-Forwarded-Port", "1")],
        [("Host", "auth.example"), ("Forwarded", "host=evil.example;proto=http")],
        [("Host", "auth.example"), ("X-Original-URL", "/evil"), ("X-Rewrite-URL", "/evil")],
        [("Host", "auth.example"), ("Origin", "https://evil.example")],
    ],
)
def test_headers_have_no_influence_on_documents(
    edge: EdgeServer, path: str, headers: list[tuple[str, str]]
) -> None:
    """C62: a shared cache cannot be poisoned: nothing is built from what a request says."""
    plain = edge.wire.request("GET", path)
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers)
    answer = edge.wire.send(f"GET {path} HTTP/1.1\r\n{lines}\r\n".encode(), method="GET")
    assert answer.body == plain.body
    assert stable_headers(answer) == stable_headers(plain)
    assert b"evil" not in answer.body


def test_documents_are_compact_json(edge: EdgeServer) -> None:
    """Bytes are pinned by the ETag, so that they are the same on every instance and start."""
    for path in DOCUMENTS:
        body = edge.wire.request("GET", path).body
        assert json.dumps(json.loads(body), separators=(",", ":")).encode() == body
