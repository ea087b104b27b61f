"""What leaves: one Answer shape, and how results and errors become one.

Under /oauth2 errors are RFC 6749 §5.2, everywhere else RFC 9457 problem documents. Texts are
constants of ours: nothing of the request is ever echoed.
"""

from collections.abc import Mapping
from http import HTTPStatus

import msgspec
from litestar.types import Send

from token_server.config import Settings
from token_server.core.scope import format_scope
from token_server.errors import (
    InvalidFieldError,
    InvalidRequestError,
    OAuthError,
    ProblemError,
    UnavailableError,
)
from token_server.services.issuing import TokenResponse
from token_server.verify import TokenError, challenge

_JSON = b"application/json"
_PROBLEM = b"application/problem+json"
NO_STORE = (b"cache-control", b"no-store")
_PRAGMA = (b"pragma", b"no-cache")  # RFC 6749 §5.1 asks for both
# A 401 names the scheme to use (RFC 6749 §5.2); sent whatever scheme was tried.
_CHALLENGE = (b"www-authenticate", b'Basic realm="token-server", charset="UTF-8"')
_REALM = "token-server"
_BEARER = f'Bearer realm="{_REALM}"'

# Not from HTTPStatus: its names change between versions of Python.
_HTTP_ERROR_CODES = {
    400: "bad_request",
    404: "not_found",
    405: "method_not_allowed",
    408: "request_timeout",
    413: "content_too_large",
    414: "uri_too_long",
    417: "expectation_failed",
    431: "header_fields_too_large",
    503: "temporarily_unavailable",
}
# JSON is never framed, sniffed, scripted or told to others.
_SECURITY_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),  # public documents say otherwise
)
_HSTS = (b"strict-transport-security", b"max-age=31536000")
_NOTHING: Mapping[str, str] = {}
_WITHOUT_CONTENT = (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED)  # RFC 9110 §8.6

_encode = msgspec.json.Encoder().encode


class Answer(msgspec.Struct, frozen=True):
    """A whole response; `headers` are lower-case pairs without content-length."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...] = ()
    body: bytes = b""

    def __repr__(self) -> str:  # the body may hold tokens
        return f"Answer({self.status})"


def security_headers(settings: Settings) -> tuple[tuple[bytes, bytes], ...]:
    """Of every answer on the public port; an answer may say one for itself."""
    is_https = settings.issuer.startswith("https:")
    return (*_SECURITY_HEADERS, _HSTS) if is_https else _SECURITY_HEADERS


async def send_answer(send: Send, answer: Answer, *, without_body: bool = False) -> None:
    """`without_body` answers a HEAD: the headers of the GET, and nothing else."""
    headers = list(answer.headers)
    if answer.status not in _WITHOUT_CONTENT:
        headers.append((b"content-length", b"%d" % len(answer.body)))
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    body = b"" if without_body else answer.body
    await send({"type": "http.response.body", "body": body, "more_body": False})


def token_answer(response: TokenResponse) -> Answer:
    """RFC 6749 §5.1, RFC 8693 §2.2.1; `scope` is left out when it is empty, which its grammar
    cannot express."""
    body: dict[str, str | int] = {
        "access_token": response.access_token.reveal(),
        "token_type": "Bearer",
        "expires_in": response.expires_in_s,
    }
    if response.refresh_token is not None:
        body["refresh_token"] = response.refresh_token.reveal()
    if response.scope:
        body["scope"] = format_scope(response.scope)
    if response.issued_token_type is not None:
        body["issued_token_type"] = response.issued_token_type
    return _oauth_answer(200, body)


def oauth_error_answer(error: OAuthError, status: int | None = None) -> Answer:
    """RFC 6749 §5.2; `status` replaces the error's own (a path that does not exist)."""
    status = status or error.status
    headers = (_CHALLENGE,) if status == HTTPStatus.UNAUTHORIZED else ()
    if status == HTTPStatus.METHOD_NOT_ALLOWED:
        headers = ((b"allow", b"POST"),)
    return _oauth_answer(
        status, {"error": error.error, "error_description": error.description}, headers
    )


def bearer_refusal_answer(error: TokenError, status: int) -> Answer:
    """RFC 6750 §3, for a path under /oauth2; the challenge of a request without credentials names
    no error."""
    header = (b"www-authenticate", challenge(error, realm=_REALM).encode("ascii"))
    code = error.error or InvalidRequestError.error
    return _oauth_answer(status, {"error": code, "error_description": error.description}, (header,))


def oauth_unavailable_answer(error: UnavailableError) -> Answer:
    """Registered for the authorization endpoint (RFC 6749 §4.1.2.1) and used here in its
    meaning: the same request may succeed later, nothing was spent or revoked."""
    status = 429 if error.is_throttled else 503
    body = {
        "error": "temporarily_unavailable",
        "error_description": "Not now: try again after the time in Retry-After.",
    }
    return _oauth_answer(status, body, (_retry_after(error),))


def oauth_server_error_answer() -> Answer:
    body = {"error": "server_error", "error_description": "The server failed; it is logged."}
    return _oauth_answer(500, body)


def json_answer(body: object, status: int = 200) -> Answer:
    """What the JSON APIs answer about a person: for nobody's cache."""
    return Answer(status, ((b"content-type", _JSON), NO_STORE), _encode(body))


def problem_answer(
    status: int,
    code: str,
    headers: tuple[tuple[bytes, bytes], ...] = (),
    members: Mapping[str, str] = _NOTHING,
) -> Answer:
    """RFC 9457, with a stable `code` for programs; `title` is the phrase of the status."""
    body: Mapping[str, str | int] = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "code": code,
        **members,
    }
    return Answer(status, ((b"content-type", _PROBLEM), NO_STORE, *headers), _encode(body))


def problem_error_answer(error: ProblemError) -> Answer:
    """A 401 names the scheme, and an error code only where a token was sent (RFC 6750 §3)."""
    headers: tuple[tuple[bytes, bytes], ...] = ()
    if error.status == HTTPStatus.UNAUTHORIZED:
        challenge = _BEARER if error.challenge is None else f"{_BEARER}, {error.challenge}"
        headers = ((b"www-authenticate", challenge.encode("ascii")),)
    members: dict[str, str] = {}
    if isinstance(error, InvalidFieldError):
        members["detail"] = error.detail
        if error.field is not None:
            members["field"] = error.field
    return problem_answer(error.status, error.code, headers, members)


def problem_unavailable_answer(error: UnavailableError) -> Answer:
    status, code = (503, "temporarily_unavailable")
    if error.is_throttled:
        status, code = (429, "too_many_attempts")
    return problem_answer(status, code, (_retry_after(error),))


def http_error_answer(path: str, status: int) -> Answer:
    """For a request that reached no handler: no such path, or not even a readable target."""
    if _is_oauth(path):
        is_unknown = status == HTTPStatus.NOT_FOUND
        description = "There is no such endpoint." if is_unknown else None
        return oauth_error_answer(InvalidRequestError("http_error", description), status)
    return problem_answer(status, _HTTP_ERROR_CODES.get(status, "request_refused"))


def failure_answer(path: str, error: Exception) -> Answer:
    """For what no handler answered: "not now", or a failure of ours without any detail."""
    is_oauth = _is_oauth(path)
    if isinstance(error, UnavailableError):
        return oauth_unavailable_answer(error) if is_oauth else problem_unavailable_answer(error)
    return oauth_server_error_answer() if is_oauth else problem_answer(500, "server_error")


def _is_oauth(path: str) -> bool:
    return path == "/oauth2" or path.startswith("/oauth2/")


def _retry_after(error: UnavailableError) -> tuple[bytes, bytes]:
    return (b"retry-after", b"%d" % max(1, error.retry_after_s))


def _oauth_answer(
    status: int, body: Mapping[str, str | int], headers: tuple[tuple[bytes, bytes], ...] = ()
) -> Answer:
    return Answer(status, ((b"content-type", _JSON), NO_STORE, _PRAGMA, *headers), _encode(body))
