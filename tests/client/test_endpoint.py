"""What is sent to a token endpoint, and what of its answers is believed (RFC 6749 2.3.1, 5)."""

import base64
import logging
import ssl
import traceback
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from tests.client.conftest import SECRET, StoppedClock
from tests.support.token_endpoint import (
    Asked,
    Said,
    ScriptedEndpoint,
    granted,
    refused,
    said_json,
    scripted_endpoint,
)
from token_server.client import (
    TokenRefusedError,
    TokenSource,
    TokenSourceError,
    TokenUnavailableError,
)
from token_server.client.endpoint import metadata_url

MakeSource = Callable[..., TokenSource]


# --- what is sent --------------------------------------------------------------------------------


def test_client_authenticates_by_basic_with_both_parts_form_encoded(
    make_source: MakeSource, endpoint: ScriptedEndpoint
) -> None:
    """RFC 6749 2.3.1: a colon in the id, a space or a percent sign do not move the border."""
    make_source(client_id="a:b c").get_token()
    [asked] = endpoint.asked
    assert asked.authorization is not None
    scheme, _, text = asked.authorization.partition(" ")
    assert scheme == "Basic"
    assert base64.b64decode(text) == b"a%3Ab+c:s3cr3t%3Awith%25signs%2Band+spaces"
    assert asked.form == {"grant_type": "client_credentials"}


def test_client_may_authenticate_in_the_body(
    make_source: MakeSource, endpoint: ScriptedEndpoint
) -> None:
    """`client_secret_post` on request."""
    make_source(auth_method="client_secret_post").get_token()
    [asked] = endpoint.asked
    assert asked.authorization is None
    assert asked.form["client_id"] == "billing"
    assert asked.form["client_secret"] == SECRET


def test_scope_and_resource_are_asked_for(
    make_source: MakeSource, endpoint: ScriptedEndpoint
) -> None:
    """RFC 6749 3.3, RFC 8707 2."""
    make_source(scope="orders:read", resource="https://orders.example").get_token()
    assert endpoint.asked[0].form == {
        "grant_type": "client_credentials",
        "scope": "orders:read",
        "resource": "https://orders.example",
    }


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"token_endpoint": "http://auth.example/token"}, "neither https nor http on this machine"),
        ({"token_endpoint": "http://127.0.0.1.evil.example/"}, "neither https nor http"),
        ({"token_endpoint": "https://user:pw@auth.example/"}, "user name"),
        ({"token_endpoint": "https://auth.example/token?x=1"}, "query"),
        ({"token_endpoint": "https://auth.example:port/"}, "not a URL"),
        ({"token_endpoint": "https://auth.example/\r\nX: y"}, "not a URL"),
        ({"token_endpoint": ""}, "not a URL"),
        ({"token_endpoint": None}, "either issuer or token_endpoint"),
        ({"issuer": "https://auth.example"}, "either issuer or token_endpoint"),
        ({"client_secret": None}, "need a client_secret"),
        ({"client_id": ""}, "client_id is empty"),
        ({"timeout_s": 0}, "timeout_s"),
        ({"refresh_token": "rt_1"}, "go together"),
        ({"on_refresh_token": print}, "go together"),
    ],
)
def test_unsafe_setting_is_refused_at_once(
    make_source: MakeSource, settings: dict[str, Any], problem: str
) -> None:
    """A ValueError that says what is wrong, and nothing was sent."""
    with pytest.raises(ValueError, match=problem):
        make_source(**settings)


@pytest.mark.parametrize("secret", ["", "line break\n", b"bytes"])
def test_unusable_secret_is_not_sent(
    make_source: MakeSource, endpoint: ScriptedEndpoint, secret: Any
) -> None:
    """What a file with a line break at its end gives is said, not tried."""
    with pytest.raises(TokenRefusedError, match="client_secret"):
        make_source(client_secret=lambda: secret).get_token()
    assert endpoint.asked == []


def test_secret_that_cannot_be_read_is_said(make_source: MakeSource) -> None:
    """The caller's own function fails: its type is named, its text could hold anything."""

    def read() -> str:
        raise PermissionError(f"cannot read {SECRET}")

    with pytest.raises(TokenRefusedError, match="PermissionError") as caught:
        make_source(client_secret=read).get_token()
    assert SECRET not in "".join(traceback.format_exception(caught.value))


# --- what comes back -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "said",
    [
        pytest.param(Said(200, b"<html>"), id="html"),
        pytest.param(Said(200, b""), id="empty"),
        pytest.param(Said(200, b"\xff\xfe"), id="no_utf8"),
        pytest.param(Said(200, b"[" * 60_000), id="deep"),
        pytest.param(Said(200, b" " * 70_000), id="large"),
        pytest.param(Said(200, b"[]"), id="list"),
        pytest.param(said_json(200, {"token_type": "Bearer"}), id="no_token"),
        pytest.param(granted(""), id="empty_token"),
        pytest.param(granted("a\r\nX-Injected: 1"), id="header_injection"),
        pytest.param(granted("tök"), id="no_ascii"),
        pytest.param(granted("a" * 20_000), id="huge_token"),
        pytest.param(granted(expires_in="900"), id="lifetime_text"),
        pytest.param(granted(expires_in=0), id="lifetime_zero"),
        pytest.param(granted(expires_in=True), id="lifetime_bool"),
        pytest.param(granted(refresh_token="a\nb"), id="refresh_token_with_line_break"),
        pytest.param(Said(500, b"oops"), id="error_500"),
        pytest.param(Said(502, b"<html>"), id="error_502"),
    ],
)
def test_unusable_answer_is_unavailability(
    make_source: MakeSource, endpoint: ScriptedEndpoint, said: Said
) -> None:
    """Some proxy's page, a broken server: asked three times, then said; never a foreign error."""
    endpoint.will_say(said)
    with pytest.raises(TokenUnavailableError):
        make_source().get_token()
    assert len(endpoint.asked) == 3


@pytest.mark.parametrize(
    ("said", "error"),
    [
        (refused(400, "invalid_scope"), "invalid_scope"),
        (refused(400, "invalid_target"), "invalid_target"),
        (refused(400, "unauthorized_client"), "unauthorized_client"),
        (refused(400, "invalid_grant"), "invalid_grant"),
        (refused(400, f"echo {SECRET}"), None),
        (Said(404, b"<html>"), None),
        (granted(token_type="DPoP"), None),
    ],
)
def test_refusal_is_told_from_unavailability(
    make_source: MakeSource, endpoint: ScriptedEndpoint, said: Said, error: str | None
) -> None:
    """Asked once: another try would not help. Only registered codes are repeated."""
    endpoint.will_say(said)
    with pytest.raises(TokenRefusedError) as caught:
        make_source().get_token()
    assert caught.value.error == error
    assert len(endpoint.asked) == 1


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirect_is_not_followed(
    make_source: MakeSource, endpoint: ScriptedEndpoint, status: int
) -> None:
    """It would take the secret to another host."""
    with scripted_endpoint() as elsewhere:
        endpoint.will_say(Said(status, headers={"Location": elsewhere.token_endpoint}))
        with pytest.raises(TokenRefusedError, match="redirects are not followed"):
            make_source().get_token()
        assert elsewhere.asked == []


def test_nobody_there_is_said(make_source: MakeSource) -> None:
    """A closed port."""
    with scripted_endpoint() as gone:
        url = gone.token_endpoint
    with pytest.raises(TokenUnavailableError, match="did not answer: Connection refused"):
        make_source(token_endpoint=url).get_token()


def test_lifetime_that_is_not_stated_is_guessed_low(
    make_source: MakeSource, endpoint: ScriptedEndpoint, clock: StoppedClock
) -> None:
    """RFC 6749 5.1 only recommends `expires_in`."""
    endpoint.answer = lambda _: said_json(
        200, {"access_token": f"token-{len(endpoint.asked)}", "token_type": "bearer"}
    )
    source = make_source()
    assert source.get_token() == "token-1"
    clock.now += 61
    assert source.get_token() == "token-2"


def test_proxy_of_the_environment_is_not_asked_for_this_machine(
    make_source: MakeSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Plain HTTP through a proxy would show it the secret."""
    with scripted_endpoint() as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        monkeypatch.delenv("no_proxy", raising=False)
        assert make_source().get_token() == "token-1"
        assert proxy.asked == []


def test_certificate_is_checked(
    make_source: MakeSource, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Self-signed is refused before anything is sent; a private authority is named by the
    environment (SSL_CERT_FILE), as docs/calling.md says."""
    certificate = self_signed(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with scripted_endpoint(context) as secure:
        with pytest.raises(TokenUnavailableError, match="CERTIFICATE_VERIFY_FAILED"):
            make_source(token_endpoint=secure.token_endpoint).get_token()
        assert secure.asked == []
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        assert make_source(token_endpoint=secure.token_endpoint).get_token() == "token-1"


# --- discovery -----------------------------------------------------------------------------------


def test_token_endpoint_is_found_by_the_issuer(
    make_source: MakeSource, endpoint: ScriptedEndpoint
) -> None:
    """RFC 8414: asked once; the endpoint is remembered until it fails."""
    endpoint.answer = metadata_of(endpoint, endpoint.token_endpoint)
    source = make_source(token_endpoint=None, issuer=endpoint.url)
    source.invalidate(source.get_token())
    source.get_token()
    paths = [asked.path for asked in endpoint.asked]
    assert paths == ["/.well-known/oauth-authorization-server", "/oauth2/token", "/oauth2/token"]


def test_token_endpoint_that_moved_is_found_again(
    make_source: MakeSource, endpoint: ScriptedEndpoint
) -> None:
    """The old one is gone: the metadata is asked once more, in the same fetch."""
    with scripted_endpoint() as old:
        endpoint.answer = metadata_of(endpoint, old.token_endpoint)
        source = make_source(token_endpoint=None, issuer=endpoint.url)
        source.invalidate(source.get_token())
    endpoint.answer = metadata_of(endpoint, endpoint.token_endpoint)
    assert source.get_token().startswith("token-")
    paths = [asked.path for asked in endpoint.asked]
    assert paths == ["/.well-known/oauth-authorization-server"] * 2 + ["/oauth2/token"]


def test_metadata_of_another_issuer_is_refused(
    make_source: MakeSource, endpoint: ScriptedEndpoint
) -> None:
    """RFC 8414 3.3: the secret would go to another server."""
    endpoint.answer = metadata_of(endpoint, endpoint.token_endpoint)
    with pytest.raises(TokenRefusedError, match="another issuer"):
        make_source(token_endpoint=None, issuer=endpoint.url + "/").get_token()
    assert [asked.path for asked in endpoint.asked] == ["/.well-known/oauth-authorization-server"]


@pytest.mark.parametrize("named", [None, 5, "http://evil.example/token", "/oauth2/token"])
def test_metadata_with_an_unsafe_endpoint_is_refused(
    make_source: MakeSource, endpoint: ScriptedEndpoint, named: object
) -> None:
    """The secret goes by https or stays on this machine."""
    endpoint.answer = metadata_of(endpoint, named)
    with pytest.raises(TokenRefusedError, match="token_endpoint"):
        make_source(token_endpoint=None, issuer=endpoint.url).get_token()
    assert len(endpoint.asked) == 1


@pytest.mark.parametrize(
    ("issuer", "url"),
    [
        ("https://a.example", "https://a.example/.well-known/oauth-authorization-server"),
        ("https://a.example/", "https://a.example/.well-known/oauth-authorization-server"),
        (
            "https://a.example:1/t/1",
            "https://a.example:1/.well-known/oauth-authorization-server/t/1",
        ),
    ],
)
def test_well_known_part_goes_between_host_and_path(issuer: str, url: str) -> None:
    """RFC 8414 3.1."""
    assert metadata_url(issuer) == url


# --- what stays secret ---------------------------------------------------------------------------


def test_secret_and_token_are_in_no_text(
    make_source: MakeSource, endpoint: ScriptedEndpoint, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither in repr, nor in a log, nor in an error whose answer echoes what was sent."""
    caplog.set_level(logging.DEBUG)
    endpoint.will_say(granted("tell-nobody"))
    source = make_source()
    source.get_token()
    texts = [repr(source), str(vars(source))]

    def echo(asked: Asked) -> Said:
        body = {"error": asked.authorization, "error_description": f"{SECRET} {asked}"}
        return said_json(400, body, {"X-Echo": str(asked.authorization)})

    endpoint.answer = echo
    source.invalidate("tell-nobody")
    with pytest.raises(TokenSourceError) as caught:
        source.get_token()
    texts += [caplog.text, "".join(traceback.format_exception(caught.value))]
    frames = [frame for frame, _ in traceback.walk_tb(caught.value.__traceback__)]
    ours = [str(frame.f_locals) for frame in frames if "token_server" in frame.f_code.co_filename]
    assert ours  # what an error collector would send away
    assert "access_token_fetched" in caplog.text
    assert "access_token_fetch_failed" in caplog.text
    assert endpoint.asked[0].authorization is not None
    for text in texts + ours:
        for hidden in (SECRET, "tell-nobody", endpoint.asked[0].authorization):
            assert hidden not in text


def metadata_of(endpoint: ScriptedEndpoint, token_endpoint: object) -> Callable[[Asked], Said]:
    def answer(asked: Asked) -> Said:
        if asked.path.startswith("/.well-known/"):
            return said_json(200, {"issuer": endpoint.url, "token_endpoint": token_endpoint})
        return granted(f"token-{len(endpoint.asked)}")

    return answer


def self_signed(directory: Path) -> Path:
    """Key and certificate for 127.0.0.1 in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "loopback")])
    now = datetime.now(UTC)
    address = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(address, critical=False)
        # What Python 3.13 wants of an authority.
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, SHA256())
    )
    path = directory / "certificate.pem"
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.write_bytes(private + certificate.public_bytes(Encoding.PEM))
    return path
