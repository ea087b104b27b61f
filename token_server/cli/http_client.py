"""HTTP as the command line speaks it: one bounded request, no redirect, standard library only.

A redirect is never followed: it would carry credentials, or trust, to another host.
"""

import base64
import http.client
import time
import urllib.error
import urllib.parse
import urllib.request
import urllib.response
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.message import Message
from typing import IO
from urllib.parse import quote

from token_server.errors import OperatorError

_TIMEOUT_S = 10  # without a byte
_DEADLINE_S = 30
_PART_BYTES = 65536
_MAX_ANSWER_BYTES = 1024 * 1024
_LOOPBACK_HOSTS = frozenset({"127.0.0.1", "::1", "localhost"})


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    status: int
    body: bytes = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)  # names in lower case


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


_OPENER = urllib.request.build_opener(_NoRedirect)


def request(
    url: str,
    *,
    form: Mapping[str, str] | None = None,
    headers: Mapping[str, str] | None = None,
    is_private: bool = False,
) -> HttpAnswer:
    """GET the URL, or POST the form to it; any status is an answer. `is_private` is for our own
    management port, which speaks plain HTTP wherever it is.

    Raises OperatorError when the URL is no https (http on loopback) one, nobody answers, or the
    answer is beyond 1 MiB.
    """
    parts = urllib.parse.urlsplit(url)
    is_loopback = parts.hostname in _LOOPBACK_HOSTS
    is_plain_ok = parts.scheme == "http" and (is_loopback or is_private)
    if parts.scheme != "https" and not is_plain_ok:
        raise OperatorError(f"{url} is neither https nor http on this machine.", exit_code=2)
    data = None if form is None else urllib.parse.urlencode(form).encode("ascii")
    outgoing = urllib.request.Request(url, data=data, headers=dict(headers or {}))  # noqa: S310
    deadline = time.monotonic() + _DEADLINE_S
    try:
        with _open(outgoing) as answer:
            return _read(url, answer, deadline)
    except (urllib.error.URLError, http.client.HTTPException, OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise OperatorError(
            f"{url} did not answer ({reason}). Is the server running?", exit_code=5
        ) from None


def basic_authorization(client_id: str, secret: str) -> str:
    """The value of the header; RFC 6749 §2.3.1: both form-encoded before they are joined."""
    user_pass = f"{quote(client_id, safe='')}:{quote(secret, safe='')}"
    return "Basic " + base64.b64encode(user_pass.encode("ascii")).decode("ascii")


def _open(outgoing: urllib.request.Request) -> urllib.response.addinfourl:
    """The answer, whatever its status."""
    try:
        answer: urllib.response.addinfourl = _OPENER.open(outgoing, timeout=_TIMEOUT_S)
    except urllib.error.HTTPError as error:
        answer = error
    return answer


def _read(url: str, answer: urllib.response.addinfourl, deadline: float) -> HttpAnswer:
    content = b""
    while part := answer.read(_PART_BYTES):
        content += part
        if len(content) > _MAX_ANSWER_BYTES:
            raise OperatorError(f"The answer of {url} is larger than {_MAX_ANSWER_BYTES} bytes.")
        if time.monotonic() > deadline:
            raise TimeoutError("it takes too long")
    headers = {name.lower(): text for name, text in answer.headers.items()}
    return HttpAnswer(answer.status or 0, content, headers)
