"""One bounded HTTP request by the standard library: no redirect, no endless answer.

A redirect would carry credentials to another host. For this machine no proxy is asked, whatever
the environment says: plain HTTP through a proxy would show it the secret. Blocks.
"""

import contextlib
import http.client
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from email.message import Message
from typing import IO

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


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(  # noqa: PLR0913, PLR0917 - urllib's shape
        self,
        req: urllib.request.Request,  # noqa: ARG002
        fp: IO[bytes],  # noqa: ARG002
        code: int,  # noqa: ARG002
        msg: str,  # noqa: ARG002
        headers: Message,  # noqa: ARG002
        newurl: str,  # noqa: ARG002
    ) -> None:
        return None


def send(
    url: str, body: bytes | None, headers: dict[str, str], timeout_s: float, *, is_local: bool
) -> HttpAnswer:
    """GET the URL, or POST the form body to it; raises NoAnswerError. `timeout_s` bounds each
    wait for the network, and the reading of the body as a whole."""
    headers = {"Accept": "application/json", **headers}
    if body is not None:
        headers["Content-Type"] = _FORM
    request = urllib.request.Request(url, data=body, headers=headers)  # noqa: S310 - checked before
    # Made anew each time, once in minutes: the environment's proxies may have changed.
    proxies = [urllib.request.ProxyHandler({})] if is_local else []
    opener = urllib.request.build_opener(_NoRedirect, *proxies)
    try:
        with _open(opener, request, timeout_s) as answer:
            content = _read(answer, time.monotonic() + timeout_s)
            return HttpAnswer(answer.status or 0, answer.headers.get("Retry-After"), content)
    except urllib.error.URLError as error:
        raise NoAnswerError(_reason(error.reason)) from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise NoAnswerError(_reason(error)) from None


def _open(
    opener: urllib.request.OpenerDirector, request: urllib.request.Request, timeout_s: float
) -> "contextlib.closing[http.client.HTTPResponse | urllib.error.HTTPError]":
    try:
        return contextlib.closing(opener.open(request, timeout=timeout_s))
    except urllib.error.HTTPError as error:  # an answer too, and a file to be closed
        return contextlib.closing(error)


def _read(answer: "http.client.HTTPResponse | urllib.error.HTTPError", deadline: float) -> bytes:
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
