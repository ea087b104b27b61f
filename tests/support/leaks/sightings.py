"""What is secret in a request, an answer or a command's words, and where it is shown on purpose.

A secret is shown once, in the answer that makes it: what is left of that answer when it is taken
out is an output like any other.
"""

import base64
import binascii
import json
import re
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any
from urllib.parse import parse_qsl, unquote_plus

from tests.support.leaks.spellings import FRAGMENT
from tests.support.leaks.watch import Watch
from token_server.config import Settings
from token_server.core.opaque import CHECKSUM_LENGTH
from token_server.grants.registry import GRANTS
from token_server.records import Secret
from token_server.web.openapi import openapi_document

Headers = Iterable[tuple[str, str]]

PASSWORDS = frozenset({"password", "current_password", "new_password"})
SHAPES = (
    ("refresh token", re.compile(r"\brt_[A-Za-z0-9_-]{72}")),
    ("client secret", re.compile(r"\bts_[A-Za-z0-9_-]{43}[0-9A-Za-z]{6}")),
    ("API key", re.compile(r"\btsk_[A-Za-z0-9_-]{59}[0-9A-Za-z]{6}")),
)
_JWT = re.compile(r"\b(eyJ[A-Za-z0-9_-]*)\.[A-Za-z0-9_-]*\.([A-Za-z0-9_-]{40,})")
_PUBLIC_TYPES = ("statuslist+jwt", "token-introspection+jwt")
_SHOWN = re.compile(
    rb'"(?:access_token|refresh_token|client_secret|api_key|secret)"\s*:\s*"[^"]*"'
    # A service of the tests tells which headers a proxy gave it.
    rb'|\["(?:X-Auth-Token|Authorization)", "[^"]*"\]',
    re.IGNORECASE,
)
# Tests send the user's own e-mail, a URL and our name as passwords: these are shown elsewhere.
_NO_PASSWORD = re.compile(
    r"[^@\s]+@[^@\s]+\.[a-z]+|(?:https?:|urn:)\S*|token-server", re.IGNORECASE
)
_COOKIE = re.compile(r"__Host-token_server_refresh=[^;]*", re.IGNORECASE)
# Commands whose standard output is a secret, all or part of it; their standard error is none.
SHOWING = (
    ("client", "add"),
    ("client", "rotate-secret"),
    ("token", "get"),
    ("keys", "export"),
    ("dev",),
)


def learn_password(watch: Watch, value: str) -> None:
    """Not an example of the interface's own document, which is there for everybody to read."""
    if not _NO_PASSWORD.fullmatch(value) and value[:FRAGMENT] not in _document():
        watch.learn("password", value)


@cache
def _document() -> str:
    settings = Settings(
        mode="tool", database_url=Secret("sqlite:///x"), default_audience="https://a.example"
    )
    return json.dumps(openapi_document(settings, GRANTS))


def learn_text(watch: Watch, text: str) -> None:
    """Whatever has the shape of a credential of ours, wherever it stands. Of a JWT the signature:
    what it says is no secret, and useless without. Junk in the place of a credential is none."""
    if "rt_" in text or "ts_" in text or "tsk_" in text:
        for kind, shape in SHAPES:
            for found in shape.findall(text):
                body = found.partition("_")[2]
                # Without the checksum, which ends all but refresh tokens.
                random = body if kind == "refresh token" else body[:-CHECKSUM_LENGTH]
                _learn_with_bytes(watch, kind, found, random)
    if "eyJ" in text:
        for head, signature in _JWT.findall(text):
            if not _is_public(head):
                _learn_with_bytes(watch, "access token", signature, signature)


def learn_request(watch: Watch, headers: Headers, body: bytes) -> None:
    """Credentials in headers, in a form and in JSON."""
    for name, value in headers:
        if name.lower() in ("authorization", "proxy-authorization"):
            _learn_authorization(watch, value)
        elif name.lower() in ("x-api-key", "cookie"):
            learn_text(watch, value)
    if not body:
        return
    text = body.decode("utf-8", "replace")
    learn_text(watch, text)
    if text.lstrip().startswith("{"):
        _learn_passwords(watch, body)
    elif "password=" in text:
        for name, value in parse_qsl(text, max_num_fields=None):
            if name in PASSWORDS:
                learn_password(watch, value)


def learn_answer(watch: Watch, body: bytes) -> None:
    """Tokens and secrets that an answer gives out."""
    if body.lstrip().startswith(b"{"):
        learn_text(watch, body.decode("utf-8", "replace"))


def hear_answer(watch: Watch, where: str, headers: Headers, body: bytes) -> None:
    """An answer without what it is there to show."""
    said = [
        f"{name}: {_COOKIE.sub('', value)}"
        for name, value in headers
        if name.lower() not in ("authorization", "x-auth-token")
    ]
    watch.hear(f"headers of {where}", "\n".join(said))
    watch.hear(f"body of {where}", _SHOWN.sub(b"", body))


def hear_command(
    watch: Watch, arguments: Sequence[str], stdout: str | bytes, stderr: str | bytes
) -> None:
    """What a command of ours printed."""
    words = tuple(word for word in arguments if not word.startswith("-"))
    name = " ".join(words[:2])
    is_showing = any(_holds(words, showing) for showing in SHOWING)
    text = stdout if isinstance(stdout, str) else stdout.decode("utf-8", "replace")
    if is_showing:
        learn_text(watch, text)
    else:
        watch.hear(f"stdout of {name}", stdout)
    watch.hear(f"stderr of {name}", stderr)


def _learn_with_bytes(watch: Watch, kind: str, text: str, base64url: str) -> None:
    """The text, and the bytes that it stands for: a database could keep those."""
    watch.learn(kind, text)
    watch.learn(kind, base64.urlsafe_b64decode(base64url + "=" * (-len(base64url) % 4)))


def _holds(words: tuple[str, ...], pair: tuple[str, ...]) -> bool:
    return any(words[i : i + len(pair)] == pair for i in range(len(words)))


def _learn_authorization(watch: Watch, value: str) -> None:
    scheme, _, credentials = value.partition(" ")
    if scheme.lower() != "basic":
        learn_text(watch, credentials)
        return
    try:
        pair = base64.b64decode(credentials, validate=True).decode()
    except (binascii.Error, ValueError):
        return
    learn_text(watch, unquote_plus(pair.partition(":")[2]))


def _learn_passwords(watch: Watch, body: bytes) -> None:
    try:
        members: Any = json.loads(body)
    except (ValueError, RecursionError):
        return
    for name in PASSWORDS & members.keys() if isinstance(members, dict) else ():
        if isinstance(members[name], str):
            learn_password(watch, members[name])


def _is_public(head: str) -> bool:
    """Lists of revoked tokens and signed answers are JWTs, too, and shown to everybody."""
    try:
        header = json.loads(base64.urlsafe_b64decode(head + "=" * (-len(head) % 4)))
    except (ValueError, RecursionError):
        return False
    return isinstance(header, dict) and header.get("typ") in _PUBLIC_TYPES
