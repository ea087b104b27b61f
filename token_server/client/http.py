"""One bounded HTTP request by the standard library: no redirect, no endless answer.

A redirect would carry credentials to another host. For this machine no proxy is asked, whatever
the environment says: plain HTTP through a proxy would show it the secret. Blocks.
"""

import http.client
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field

_MAX_ANSWER_BYTES = 64 * 1024
_FORM = "application/x-www-form-urlencoded"


class NoAnswerError(Exception):
    """Nobody answered, or not in HTTP, or not in time; says which, never what was sent."""


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """Any status is an answer."""

    status: int
    retry_after: str | None
    body: bytes = field(repr=False)


def send(
    url: str, body: bytes | None, headers: dict[str, str], timeout_s: float, *, is_local: bool
) -> HttpAnswer:
    """GET the URL, or POST the form body to it; raises NoAnswerError. `timeout_s` bounds each
    wait for the network, and the reading of the body as a whole."""
    headers = {"Accept": "application/json", **headers}
    if body is not None:
        headers["Content-Type"] = _FORM
    request = urllib.request.Request(url, data=body, headers=headers)  # noqa: S310 - checked before
    answer: http.client.HTTPResponse
    try:
        with _opener(request.type, is_local=is_local).open(request, timeout=timeout_s) as answer:
            content = _read(answer, time.monotonic() + timeout_s)
            return HttpAnswer(answer.status, answer.headers.get("Retry-After"), content)
    except urllib.error.URLError as error:
        raise NoAnswerError(_reason(error.reason)) from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise NoAnswerError(_reason(error)) from None


def _opener(scheme: str | None, *, is_local: bool) -> urllib.request.OpenerDirector:
    """Only what is listed here happens: no redirect, cookie, password, file or ftp handler.

    Made anew each time, once in minutes, since proxies and certificates of the environment may
    change; the handler for https only where it is used, because it reads all certificates.
    """
    opener = urllib.request.OpenerDirector()
    if scheme == "https":
        opener.add_handler(urllib.request.HTTPSHandler())
    else:
        opener.add_handler(urllib.request.HTTPHandler())
    if not is_local:
        opener.add_handler(urllib.request.ProxyHandler())
    return opener


def _read(answer: http.client.HTTPResponse, deadline: float) -> bytes:
    content = b""
    while len(content) <= _MAX_ANSWER_BYTES:
        if time.monotonic() > deadline:
            raise NoAnswerError("the answer came too slowly")
        chunk = answer.read1(_MAX_ANSWER_BYTES)
        if not chunk:
            return content
        content += chunk
    raise NoAnswerError(f"the answer is larger than {_MAX_ANSWER_BYTES} bytes")


def _reason(error: object) -> str:
    """The system's words for it ("Connection refused"); for the rest its type, which says enough
    and quotes nothing."""
    if isinstance(error, TimeoutError):
        return "timed out"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return type(error).__name__
