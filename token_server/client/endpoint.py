"""One request to the token endpoint: what is sent, and what the answer means (RFC 6749 2.3.1, 5).

Also finds the endpoint by the issuer's metadata (RFC 8414 3). Strict about what comes back: it
will be sent on in a header. Decides nothing about when to ask; never logs.
"""

import base64
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import quote_plus, urlencode, urlsplit

from token_server.client.errors import (
    REMEDIES,
    SessionEndedError,
    TokenRefusedError,
    TokenSourceError,
    TokenUnavailableError,
)
from token_server.client.http import HttpAnswer, NoAnswerError, send

AuthMethod = Literal["client_secret_basic", "client_secret_post"]

_METADATA = "/.well-known/oauth-authorization-server"
_MAX_TOKEN_CHARACTERS = 16 * 1024
_ACCESS_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")  # RFC 6750 2.1: safe in a header
_REFRESH_TOKEN = re.compile(r"[ -~]+")  # RFC 6749 A.17
_SECRET = re.compile(r"[ -~]+")  # RFC 6749 A.2
_LIFETIME_UNSTATED_S = 60  # `expires_in` is only recommended (RFC 6749 5.1): then guess low
_MAX_LIFETIME_S = 86_400
_MAX_RETRY_AFTER_S = 3600
_TOO_MANY_REQUESTS = 429


@dataclass(frozen=True, slots=True)
class ClientIdentity:
    """Who asks. The secret is read for each request, so that a rotated one is found."""

    client_id: str
    read_secret: Callable[[], str] | None = field(repr=False)  # None: a public client
    auth_method: AuthMethod = "client_secret_basic"


@dataclass(frozen=True, slots=True)
class TokenResponse:
    """RFC 6749 5.1; `expires_in_s` counts from when the request was sent."""

    access_token: str = field(repr=False)
    expires_in_s: int
    refresh_token: str | None = field(repr=False)


class TokenEndpoint:
    """The token endpoint at `url`, or where the metadata of the issuer `url` says it is."""

    def __init__(
        self, url: str, identity: ClientIdentity, timeout_s: float, *, is_issuer: bool
    ) -> None:
        self._url = url
        self._identity = identity
        self._timeout_s = timeout_s
        self._is_issuer = is_issuer
        self._found: str | None = None if is_issuer else url

    def request(self, form: Mapping[str, str]) -> TokenResponse:
        """Blocks. Raises TokenUnavailableError when asking again may help, else TokenRefusedError
        (SessionEndedError for a refresh token that is no longer good)."""
        url = self._found or self._discover()
        try:
            response = self._request(url, form)
        except TokenSourceError:
            if self._is_issuer:
                self._found = None  # it may have moved
            raise
        self._found = url
        return response

    def _request(self, url: str, form: Mapping[str, str]) -> TokenResponse:
        headers, credentials = _credentials(self._identity)
        body = urlencode({**form, **credentials}).encode("ascii")
        answer = _ask(url, body, headers, self._timeout_s)
        if answer.status != 200:
            raise _refusal(url, answer, form["grant_type"])
        return _read_response(url, answer)

    def _discover(self) -> str:
        url = metadata_url(self._url)
        answer = _ask(url, None, {}, self._timeout_s)
        if answer.status != 200:
            raise _failure(url, answer)
        document = _json_object(url, answer)
        # RFC 8414 3.3: another issuer's document would send our secret to another server.
        if document.get("issuer") != self._url:
            raise TokenRefusedError(f"{url} is the metadata of another issuer than {self._url}")
        endpoint = document.get("token_endpoint")
        if not isinstance(endpoint, str):
            raise TokenRefusedError(f"{url} names no token_endpoint")
        problem = url_problem(endpoint)
        if problem is not None:
            raise TokenRefusedError(f"{url} names a token_endpoint that is {problem}")
        return endpoint


def metadata_url(issuer: str) -> str:
    """RFC 8414 3.1: the well-known part goes between host and path."""
    parts = urlsplit(issuer)
    return f"{parts.scheme}://{parts.netloc}{_METADATA}{parts.path.rstrip('/')}"


def url_problem(url: str) -> str | None:
    """Why a secret must not be sent there; None when it may. Never quotes the URL."""
    try:
        parts = urlsplit(url)
        host, _port = parts.hostname, parts.port
    except ValueError:
        return "not a URL"
    if not url.isascii() or not url.isprintable() or " " in url or not host:
        return "not a URL"
    if parts.username is not None or parts.query or parts.fragment:
        return "with user name, query or fragment"
    if parts.scheme != "https" and not (parts.scheme == "http" and is_loopback(host)):
        return "neither https nor http on this machine"
    return None


def is_loopback(host: str) -> bool:
    return host in {"localhost", "::1"} or re.fullmatch(r"127(\.\d{1,3}){3}", host) is not None


def _credentials(identity: ClientIdentity) -> tuple[dict[str, str], dict[str, str]]:
    """Headers and form fields that authenticate the client (RFC 6749 2.3.1, 3.2.1)."""
    if identity.read_secret is None:
        return {}, {"client_id": identity.client_id}
    try:
        secret: object = identity.read_secret()
    except Exception as error:  # noqa: BLE001 - the caller's function: whatever it raises
        failed = f"client_secret could not be read ({type(error).__name__})"
        raise TokenRefusedError(failed) from None
    if not isinstance(secret, str) or _SECRET.fullmatch(secret) is None:
        raise TokenRefusedError(
            "client_secret is empty or holds what no secret does (a line break at its end?)"
        )
    if identity.auth_method == "client_secret_post":
        return {}, {"client_id": identity.client_id, "client_secret": secret}
    # Both form-encoded before they are joined: a colon in the id would move the border.
    user_pass = f"{quote_plus(identity.client_id)}:{quote_plus(secret)}"
    return {"Authorization": "Basic " + base64.b64encode(user_pass.encode()).decode()}, {}


def _ask(url: str, body: bytes | None, headers: dict[str, str], timeout_s: float) -> HttpAnswer:
    try:
        return send(
            url, body, headers, timeout_s, is_local=is_loopback(urlsplit(url).hostname or "")
        )
    except NoAnswerError as error:
        raise TokenUnavailableError(f"{url} did not answer: {error}") from None


def _read_response(url: str, answer: HttpAnswer) -> TokenResponse:
    body = _json_object(url, answer)
    access_token = _token(body.get("access_token"), _ACCESS_TOKEN)
    refresh_token = _token(body.get("refresh_token"), _REFRESH_TOKEN)
    if access_token is None:
        raise TokenUnavailableError(f"{url} answered without a usable access_token")
    if refresh_token is None and body.get("refresh_token") is not None:
        raise TokenUnavailableError(f"{url} answered with an unusable refresh_token")
    token_type, lifetime = body.get("token_type"), body.get("expires_in", _LIFETIME_UNSTATED_S)
    if not isinstance(token_type, str) or token_type.lower() != "bearer":
        raise TokenRefusedError(f"{url} answered with another token_type than Bearer")
    if not isinstance(lifetime, int) or isinstance(lifetime, bool) or lifetime <= 0:
        raise TokenUnavailableError(f"{url} answered with an unusable expires_in")
    return TokenResponse(access_token, min(lifetime, _MAX_LIFETIME_S), refresh_token)


def _token(value: object, form: re.Pattern[str]) -> str | None:
    if not isinstance(value, str) or len(value) > _MAX_TOKEN_CHARACTERS:
        return None
    return value if form.fullmatch(value) else None


def _refusal(url: str, answer: HttpAnswer, grant_type: str) -> TokenSourceError:
    """The error for an answer of the token endpoint that grants nothing."""
    try:
        code = _json_object(url, answer).get("error")
    except TokenSourceError:
        code = None
    failure = _failure(url, answer, code if isinstance(code, str) and code in REMEDIES else None)
    is_over = grant_type == "refresh_token" and failure.error == "invalid_grant"
    if is_over and isinstance(failure, TokenRefusedError):
        return SessionEndedError(failure.message, error=failure.error, status=failure.status)
    return failure


def _failure(url: str, answer: HttpAnswer, code: str | None = None) -> TokenSourceError:
    said = f"{url} answered {answer.status}" + (f" {code}: {REMEDIES[code]}" if code else "")
    if answer.status >= 500 or answer.status == _TOO_MANY_REQUESTS:
        return TokenUnavailableError(
            said, error=code, status=answer.status, retry_after_s=_retry_after_s(answer)
        )
    if 300 <= answer.status < 400:
        said += "; redirects are not followed, they would take the secret along"
    return TokenRefusedError(said, error=code, status=answer.status)


def _retry_after_s(answer: HttpAnswer) -> float | None:
    """RFC 9110 10.2.3; only the form in seconds, since the other needs two clocks to agree."""
    value = answer.retry_after
    if value is None or re.fullmatch(r"[0-9]{1,9}", value) is None:
        return None
    return float(min(int(value), _MAX_RETRY_AFTER_S))


def _json_object(url: str, answer: HttpAnswer) -> dict[str, object]:
    try:
        document = json.loads(answer.body)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise TokenUnavailableError(f"{url} answered with something that is no JSON object")
    return document
