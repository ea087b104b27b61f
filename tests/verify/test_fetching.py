"""Fetching over real HTTP: what is asked, followed, bounded and refused (group C, 57 to 63)."""

import http.server
import ssl
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from tests.verify import forge
from tests.verify.key_servers import METADATA_PATH, KeyServer, key_server, key_set, token_of
from token_server.verify import (
    FetchError,
    Fetching,
    FetchResult,
    KeysUnavailableError,
    RemoteKeySet,
    Verifier,
)
from token_server.verify.fetch import MAX_BODY_BYTES
from token_server.verify.http_fetch import HttpFetcher
from token_server.verify.urls import metadata_url

Handler = http.server.BaseHTTPRequestHandler


@pytest.fixture
def issuer() -> Iterator[KeyServer]:
    with key_server() as served:
        yield served


def verifier_for(served: KeyServer) -> Verifier:
    return Verifier(
        issuer=served.issuer,
        audience=forge.AUDIENCE,
        fetching=Fetching(timeout_s=0.5),
        clock=lambda: forge.NOW,
    )


def test_keys_are_found_by_discovery(issuer: KeyServer) -> None:
    """RFC 8414 3: metadata first, then the key set that it names; no body is asked compressed."""
    claims = verifier_for(issuer).verify_sync(token_of(iss=issuer.issuer))

    assert claims.issuer == issuer.issuer
    assert issuer.requests == [METADATA_PATH, "/jwks"]
    assert issuer.headers[1]["Accept-Encoding"] == "identity"


def test_jwks_uri_needs_no_discovery(issuer: KeyServer) -> None:
    """For issuers without metadata."""
    verifier = Verifier(
        issuer=forge.ISSUER,
        audience=forge.AUDIENCE,
        jwks_uri=issuer.jwks_uri,
        clock=lambda: forge.NOW,
    )
    assert verifier.verify_sync(token_of()).issuer == forge.ISSUER
    assert issuer.requests == ["/jwks"]


@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("https://a.example", "https://a.example/.well-known/oauth-authorization-server"),
        ("https://a.example/", "https://a.example/.well-known/oauth-authorization-server"),
        ("https://a.example:8/t/1", "https://a.example:8/.well-known/oauth-authorization-server/t/1"),
        ("http://[::1]:80", "http://[::1]:80/.well-known/oauth-authorization-server"),
    ],
)  # fmt: skip
def test_metadata_is_where_the_rfc_says(name: str, url: str) -> None:
    """RFC 8414 3.1: between host and path."""
    assert metadata_url(name) == url


REFUSED_URLS = [
    "http://auth.example/jwks",
    "http://localhost.evil.example/jwks",
    "http://127.evil.example/jwks",
    "http://127.0.0.1.evil.example/jwks",
    "http://127.0.0.1@evil.example/jwks",
    "http://2130706433/jwks",
    "http://169.254.169.254/jwks",
    "http://0.0.0.0/jwks",
    "file:///etc/passwd",
    "ftp://auth.example/jwks",
    "data:application/json,{}",
    "gopher://auth.example/",
    "HTTPS//auth.example",
    "//auth.example/jwks",
    "auth.example/jwks",
    "https://",
    "https:///jwks",
    "https://user:pw@auth.example/jwks",
    "https://auth.example/jwks#keys",
    "https://auth.example/jw ks",
    "https://auth.example/jwks\r\nHost: evil.example",
    "https://auth.example\\@evil.example/",
    "https://auth.ex\u00e4mple/jwks",
    "https://auth.example:99999/jwks",
    "https://[::1/jwks",
    "",
]


@pytest.mark.parametrize("url", REFUSED_URLS, ids=[f"C57_{url[:40]!r}" for url in REFUSED_URLS])
def test_other_urls_are_refused_by_the_constructor(url: str) -> None:
    """CVE-2026-48522: https, or http on a loopback host; as jwks_uri and as issuer."""
    with pytest.raises(ValueError, match="jwks_uri"):
        Verifier(issuer=forge.ISSUER, audience=forge.AUDIENCE, jwks_uri=url)
    with pytest.raises(ValueError, match="issuer"):
        Verifier(issuer=url, audience=forge.AUDIENCE)


def test_issuer_with_a_query_is_refused() -> None:
    """RFC 8414 2."""
    with pytest.raises(ValueError, match="query"):
        Verifier(issuer="https://auth.example?x=1", audience=forge.AUDIENCE)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("path", [METADATA_PATH, "/jwks"], ids=["metadata", "jwks"])
def test_redirect_is_not_followed(issuer: KeyServer, status: int, path: str) -> None:
    """C58, GHSA-9v7f-9g4p-ffgj: keys come from the host that was configured."""
    with key_server() as elsewhere:
        issuer.answers[path] = (status, {"Location": elsewhere.jwks_uri}, b"")
        with pytest.raises(KeysUnavailableError):
            verifier_for(issuer).verify_sync(token_of(iss=issuer.issuer))
        assert elsewhere.requests == []


def _metadata(issuer: KeyServer, /, **changes: object) -> bytes:
    document = {"issuer": issuer.issuer, "jwks_uri": issuer.jwks_uri}
    return forge.compact_json(forge.changed(document, changes))


METADATA: dict[str, tuple[Callable[[KeyServer], bytes], str]] = {
    "C63_other_issuer": (lambda i: _metadata(i, issuer="https://evil.example"), "another issuer"),
    "C63_trailing_slash": (lambda i: _metadata(i, issuer=i.issuer + "/"), "another issuer"),
    "C63_no_issuer": (lambda i: _metadata(i, issuer=forge.REMOVED), "another issuer"),
    "C63_list": (lambda i: _metadata(i, issuer=[i.issuer]), "another issuer"),
    "C57_http": (lambda i: _metadata(i, jwks_uri="http://evil.example/"), "must be https"),
    "C57_file": (lambda i: _metadata(i, jwks_uri="file:///etc/passwd"), "must be an https URL"),
    "C57_none": (lambda i: _metadata(i, jwks_uri=forge.REMOVED), "no jwks_uri"),
    "C57_list": (lambda i: _metadata(i, jwks_uri=[i.jwks_uri]), "no jwks_uri"),
    "A33_not_json": (lambda _: b"<html>", "not strict JSON: not_json"),
    "A33_repeated": (lambda i: _metadata(i)[:-1] + b',"issuer":"x"}', "member_repeated"),
}


@pytest.mark.parametrize(("make", "problem"), METADATA.values(), ids=METADATA)
def test_bad_metadata_is_refused(
    issuer: KeyServer,
    make: Callable[[KeyServer], bytes],
    problem: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """RFC 8414 3.3, C63: no key set is fetched on its word, and the log says why."""
    issuer.answers[METADATA_PATH] = (200, {}, make(issuer))
    with pytest.raises(KeysUnavailableError):
        verifier_for(issuer).verify_sync(token_of(iss=issuer.issuer))

    assert issuer.requests == [METADATA_PATH]
    assert problem in caplog.text
    assert "evil.example" not in caplog.text


class FarIssuer:
    """Metadata of a far issuer that points to this machine."""

    def __init__(self) -> None:
        self.urls: list[str] = []

    def fetch(self, url: str, _etag: str | None, _timeout_s: float) -> FetchResult:
        self.urls.append(url)
        document = {"issuer": forge.ISSUER, "jwks_uri": "http://127.0.0.1:9001/internal"}
        return FetchResult(forge.compact_json(document))


def test_far_issuer_cannot_point_to_this_machine() -> None:
    """C57: loopback is for whoever configured it, not for whoever answers (SSRF)."""
    far = FarIssuer()
    verifier = Verifier(issuer=forge.ISSUER, audience=forge.AUDIENCE, fetcher=far)
    with pytest.raises(KeysUnavailableError):
        verifier.verify_sync(token_of())

    assert far.urls == [metadata_url(forge.ISSUER)]


def _drip(handler: Handler) -> None:
    """One byte every 100 ms: each read is in time, the whole never is."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    for _ in range(60):
        handler.wfile.write(b" ")
        time.sleep(0.1)


def _drip_headers(handler: Handler) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
    for number in range(60):
        handler.wfile.write(b"X-%d: y\r\n" % number)
        time.sleep(0.1)


def _hang(handler: Handler) -> None:
    time.sleep(3)


def _cut(handler: Handler) -> None:
    body = key_set("good")
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(body) + 10))
    handler.end_headers()
    handler.wfile.write(body)
    handler.close_connection = True


def _cut_chunk(handler: Handler) -> None:
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    handler.wfile.write(b"fff\r\n{")
    handler.close_connection = True


def _endless(handler: Handler) -> None:
    handler.send_response(200)
    handler.send_header("Connection", "close")
    handler.end_headers()
    for _ in range(100):
        handler.wfile.write(b" " * 65536)


def _garbage(handler: Handler) -> None:
    handler.wfile.write(b"\x16\x03\x01 s3cret not HTTP\r\n\r\n")
    handler.close_connection = True


def _close(handler: Handler) -> None:
    handler.close_connection = True


SPOILED: dict[str, tuple[Callable[[Handler], None], str]] = {
    "C59_slow_body": (_drip, "timed out"),
    "C59_slow_headers": (_drip_headers, "timed out"),
    "C59_time_out": (_hang, "timed out"),
    "C59_half_a_body": (_cut, "cut short"),
    "C59_half_a_chunk": (_cut_chunk, "IncompleteRead"),
    "C59_endless_body": (_endless, f"larger than {MAX_BODY_BYTES} bytes"),
    "C59_not_http": (_garbage, "BadStatusLine"),
    "C59_closed": (_close, "RemoteDisconnected"),
}


@pytest.mark.parametrize(("spoil", "problem"), SPOILED.values(), ids=SPOILED)
def test_spoiled_answer_ends_in_time_with_one_problem(
    issuer: KeyServer, spoil: Callable[[Handler], None], problem: str
) -> None:
    """C59: bounded in time as a whole and in size, and what was sent is not quoted."""
    issuer.answers["/jwks"] = spoil
    begun = time.monotonic()
    with pytest.raises(FetchError, match=problem) as caught:
        HttpFetcher().fetch(issuer.jwks_uri, None, 0.5)

    assert time.monotonic() - begun < 2.5
    assert "s3cret" not in str(caught.value)


STATUSES = {
    "C59_500": (500, {"Retry-After": "7"}, "answered 500", 7),
    "C59_503_date": (503, {"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}, "answered 503", None),
    "C59_404": (404, {}, "answered 404", None),
    "C59_204": (204, {}, "answered 204", None),
    "C59_304_unasked": (304, {}, "answered 304", None),
    "gzip": (200, {"Content-Encoding": "gzip"}, "content encoding", None),
}


@pytest.mark.parametrize(
    ("status", "headers", "problem", "retry_after_s"), STATUSES.values(), ids=STATUSES
)
def test_other_answers_are_no_key_set(
    issuer: KeyServer,
    status: int,
    headers: dict[str, str],
    problem: str,
    retry_after_s: int | None,
) -> None:
    """Only a 200 is, and a 304 that was asked for."""
    issuer.answers["/jwks"] = (status, headers, b"")
    with pytest.raises(FetchError, match=problem) as caught:
        HttpFetcher().fetch(issuer.jwks_uri, None, 2)

    assert caught.value.retry_after_s == retry_after_s


CACHING = {
    "max_age": ({"Cache-Control": "public, max-age=60"}, 60),
    "less_age": ({"Cache-Control": "max-age=60", "Age": "45"}, 15),
    "older_than_max_age": ({"Cache-Control": "max-age=60", "Age": "90"}, 0),
    "quoted": ({"Cache-Control": 'Max-Age="60"'}, 60),
    "no_store": ({"Cache-Control": "max-age=60, no-store"}, 0),
    "no_cache": ({"Cache-Control": "no-cache"}, 0),
    "negative": ({"Cache-Control": "max-age=-1"}, None),
    "garbage": ({"Cache-Control": "max-age=" + "9" * 400, "Age": "x"}, None),
    "none": ({}, None),
}


@pytest.mark.parametrize(("headers", "max_age_s"), CACHING.values(), ids=CACHING)
def test_freshness_is_read_from_the_headers(
    issuer: KeyServer, headers: dict[str, str], max_age_s: int | None
) -> None:
    """RFC 9111 4.2.1, 5.2.2."""
    issuer.answers["/jwks"] = (200, headers, b"{}")

    assert HttpFetcher().fetch(issuer.jwks_uri, None, 2).max_age_s == max_age_s


@pytest.mark.parametrize(
    ("sent", "kept"),
    [('"v1"', '"v1"'), ('W/"v1"', 'W/"v1"'), ("v1", None), ('"a"\r\n b', None), ('"\u00e9"', None)],
    ids=["strong", "weak", "bare", "folded", "foreign"],
)
def test_etag_is_sent_back_as_it_came(issuer: KeyServer, sent: str, kept: str | None) -> None:
    """RFC 9110 8.8.3: or not at all, when it is none."""
    issuer.answers["/jwks"] = (200, {"ETag": sent}, b"{}")
    etag = HttpFetcher().fetch(issuer.jwks_uri, None, 2).etag
    assert etag == kept

    if etag is not None:
        issuer.answers["/jwks"] = (304, {}, b"")
        assert HttpFetcher().fetch(issuer.jwks_uri, etag, 2).body is None
        assert issuer.headers[-1]["If-None-Match"] == etag


def _certificate(directory: Path, name: str) -> tuple[Path, Path]:
    key = forge.private_key("tls")
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, SHA256())
    )
    chain, private = directory / "chain.pem", directory / "key.pem"
    chain.write_bytes(certificate.public_bytes(Encoding.PEM))
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return chain, private


@pytest.mark.parametrize(
    ("name", "trusts", "problem"),
    [
        ("localhost", True, None),
        ("localhost", False, "certificate refused: self-signed certificate"),
        ("other.example", True, "certificate refused: Hostname mismatch"),
    ],
    ids=["good", "C59_unknown_authority", "C59_other_host"],
)
def test_certificates_are_checked(
    tmp_path: Path, name: str, trusts: bool, problem: str | None
) -> None:
    """C59, RFC 9525: authority and host name; a private authority is given as an SSL context."""
    chain, private = _certificate(tmp_path, name)
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(chain, private)
    trusting = ssl.create_default_context(cafile=str(chain) if trusts else None)
    with key_server(serving) as served:
        url = served.jwks_uri.replace("http://127.0.0.1", "https://localhost")
        if problem is None:
            assert HttpFetcher(trusting).fetch(url, None, 5).body == key_set("good")
            return
        with pytest.raises(FetchError, match=problem):
            HttpFetcher(trusting).fetch(url, None, 5)


def test_nobody_there_is_one_clear_problem() -> None:
    """C59."""
    with key_server() as served:
        url = served.jwks_uri
    with pytest.raises(FetchError, match="Connection refused"):
        HttpFetcher().fetch(url, None, 2)


def test_proxy_of_the_environment_is_not_asked_about_loopback(
    issuer: KeyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Plain http leaves this machine for nobody."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)

    assert HttpFetcher().fetch(issuer.jwks_uri, None, 2).body == key_set("good")


def test_moved_key_set_is_found_again(issuer: KeyServer) -> None:
    """RFC 8414: when the set is gone from where it was, the metadata is asked again."""
    now = [0.0]
    keys = RemoteKeySet(issuer=issuer.issuer, monotonic=lambda: now[0])
    verifier = Verifier(
        issuer=issuer.issuer,
        audience=forge.AUDIENCE,
        keys=keys,
        clock=lambda: forge.NOW,
    )
    verifier.start_sync()
    issuer.answers["/jwks"] = (404, {}, b"")
    issuer.answers["/new"] = (200, {}, key_set("other"))
    issuer.answers[METADATA_PATH] = (200, {}, _metadata(issuer, jwks_uri=f"{issuer.issuer}/new"))
    for _ in range(2):
        now[0] += 400
        verifier.start_sync()

    assert verifier.verify_sync(token_of("other", iss=issuer.issuer)).token_id
    assert issuer.requests == [METADATA_PATH, "/jwks", "/jwks", METADATA_PATH, "/new"]
