"""The server's readers of requests: forms, JSON, headers, credentials.

Beyond "no foreign exception" each has a promise of its own: what was taken reads the same again,
is within its bounds, and holds no character that a log, a header or a query would stumble over.
"""

import contextlib
import ipaddress
import re
from typing import Any

from tests.fuzzing.target import Target, require
from tests.support.wire import form
from token_server.core.api_key import format_api_key, is_key_id, read_key_id
from token_server.core.audience import parse_resource
from token_server.core.client_auth import read_client
from token_server.core.identifiers import IdentifierError, canonical_email
from token_server.core.opaque import CLIENT_SECRET_PREFIX, digest, format_opaque, is_well_formed
from token_server.core.refresh import TokenText, decode_refresh_token, encode_refresh_token
from token_server.core.scope import format_scope, parse_scope
from token_server.core.status_list import parse_name
from token_server.errors import (
    CredentialsRefusedError,
    OAuthError,
    OriginRefusedError,
    ProblemError,
    ProxyConfigurationError,
)
from token_server.web import schemas
from token_server.web.cookies import COOKIE_NAME, check_origin, read_refresh_cookie
from token_server.web.forms import MAX_FIELDS, check_form_media_type, parse_form
from token_server.web.forward_auth import read_demand
from token_server.web.json_body import check_json_media_type, convert_json
from token_server.web.requests import client_address, untrusted_proxy
from token_server.web.well_known import Document, document_answer

_CONTROL = re.compile("[\x00-\x1f\x7f]")
_BODIES = (
    schemas.RegisterBody,
    schemas.LoginBody,
    schemas.RefreshBody,
    schemas.ChangePasswordBody,
    schemas.EndSessionsBody,
    schemas.CreateApiKeyBody,
)
_MAC_KEY = bytes(range(32))
_PROXIES = (ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("fd00::/8"))
_DOCUMENT = Document.of(b"{}", 60)
_AUDIENCE = "https://orders.example"


def form_body(data: bytes) -> None:
    """The body of a token request."""
    try:
        found = parse_form(data)
    except OAuthError:
        return
    require(len(found) <= MAX_FIELDS, "too many fields")
    for name, value in found.items():
        require(bool(name and value), "a field without name or value")
        require(_CONTROL.search(name + value) is None, "a control character in a field")
    require(parse_form(form(*found.items())) == found, "what was read reads differently again")


def json_body(data: bytes) -> None:
    """The body of each request of the account API."""
    for kind in _BODIES:
        try:
            found = convert_json(data, kind)
        except ProblemError:
            continue
        require("***" in repr(found), "a body shows its members")


def media_type(data: bytes) -> None:
    """Content-Type, of which there may be several."""
    values = data.decode("latin-1").split("\n")
    for check in (check_form_media_type, check_json_media_type):
        try:
            check(values)
        except (OAuthError, ProblemError):
            continue


def client(data: bytes) -> None:
    """Authorization headers, one a line, and behind an empty line a form."""
    head, _, body = data.partition(b"\n\n")
    values = head.decode("latin-1").split("\n") if head else []
    try:
        found = read_client(values, parse_form(body))
    except OAuthError:
        return
    texts = [found.client_id, *([found.secret.reveal()] if found.secret is not None else [])]
    for text in texts:
        is_plain = 0 < len(text) <= 512 and text.isascii() and text.isprintable()
        require(is_plain, "a strange name or secret of a client")


def scope(data: bytes) -> None:
    text = data.decode("latin-1")
    try:
        found = parse_scope(text)
    except OAuthError:
        return
    require(parse_scope(format_scope(found)) == found, "a scope that reads differently again")


def names(data: bytes) -> None:
    """`resource`, names of status lists, ids of keys, e-mails: texts with a form."""
    text = data.decode("utf-8", "surrogateescape")
    with contextlib.suppress(OAuthError):
        require(parse_resource(text) == text, "a resource that was changed")
    name = parse_name(text)
    require(name is None or f"{name.kind}{name.number}" == text, "two names of one list")
    require(not is_key_id(text) or text.startswith("key_"), "an id that is none")
    try:
        canonical = canonical_email(text)
    except IdentifierError:
        return
    require(canonical_email(canonical) == canonical, "a canonical e-mail that is not")


def demand(data: bytes) -> None:
    """The query of forward authentication."""
    try:
        found = read_demand(data, _AUDIENCE)
    except ProxyConfigurationError:
        return
    require(bool(found.audience), "a demand without audience")


def refresh_token(data: bytes) -> None:
    text = data.decode("latin-1")
    found = decode_refresh_token(text, lambda version: _MAC_KEY if version == 1 else None, 0)
    require(
        found is None or encode_refresh_token(found, _MAC_KEY, 0) == text, "one token, two texts"
    )


def opaque(data: bytes) -> None:
    """Client secrets and API keys: which text could be one."""
    text = data.decode("utf-8", "surrogateescape")
    require(len(digest(text)) == 32, "a digest of another length")
    if is_well_formed(CLIENT_SECRET_PREFIX, text):
        require(text.isascii() and len(text) == 52, "a client secret of another form")
    key_id = read_key_id(text)
    require(key_id is None or (is_key_id(key_id) and key_id[4:] in text), "another key's id")


def forwarded(data: bytes) -> None:
    """X-Forwarded-For, one header a line, from a trusted proxy and from a stranger."""
    headers = [(b"x-forwarded-for", value) for value in data.split(b"\n")]
    for peer in ("10.0.0.1", "192.0.2.1", "unix", "fd00::1%eth0"):
        asked = _scope(headers, client=(peer, 1))
        found = client_address(asked, _PROXIES)
        require(found is None or str(ipaddress.ip_address(found)) == found, "no address")
        require("%" not in (found or ""), "an address with a zone")
        if peer == "192.0.2.1":
            require(found == peer, "a stranger was believed")
        untrusted_proxy(asked, _PROXIES)


def cookie(data: bytes) -> None:
    """Cookie headers, one a line; the first line is Origin, the second Sec-Fetch-Site."""
    origin, _, rest = data.partition(b"\n")
    site, _, cookies = rest.partition(b"\n")
    headers = [(b"origin", origin), (b"sec-fetch-site", site)]
    headers += [(b"cookie", value) for value in cookies.split(b"\n")]
    asked = _scope(headers)
    try:
        check_origin(asked, (_AUDIENCE,))
        require(origin == _AUDIENCE.encode(), "a foreign origin")
    except OriginRefusedError:
        pass
    try:
        found = read_refresh_cookie(asked)
    except CredentialsRefusedError:
        return
    require(";" not in found, "more than one cookie")


def if_none_match(data: bytes) -> None:
    """Conditional requests for documents."""
    asked = _scope([(b"if-none-match", value) for value in data.split(b"\n")])
    answer = document_answer(asked, _DOCUMENT)
    is_named = _DOCUMENT.etag in data or b"*" in data
    require(answer.status == 200 or (answer.status == 304 and is_named), "unchanged by chance")


def _scope(headers: list[tuple[bytes, bytes]], **members: Any) -> Any:
    return {"type": "http", "headers": headers, **members}


_TOKEN = encode_refresh_token(TokenText(1, bytes(16), 7), _MAC_KEY, 0)
_SECRET = format_opaque(CLIENT_SECRET_PREFIX, bytes(range(32)))
_API_KEY = format_api_key("key_AAAAAAAAAAAAAAAA", bytes(range(32)))
TARGETS = {
    "form_body": Target(
        form_body,
        (b"grant_type=password&username=ada%40example.org&password=a+b%20c&scope=", b"&&a=%C3%A9&"),
    ),
    "json_body": Target(
        json_body,
        (
            b'{"email":"ada@example.org","password":"seven otters","name":"Ada"}',
            b'{"name":"a","scopes":["x"],"expires_in_s":60,"expires_at":"2030-01-01T00:00:00Z"}',
            b'{"refresh_token_in":"cookie"}',
        ),
    ),
    "media_type": Target(
        media_type,
        (b"application/x-www-form-urlencoded; charset=utf-8", b'application/json;charset="utf-8"'),
    ),
    "client": Target(
        client,
        (
            b"Basic YmlsbGluZzphJTNBYg==\n\nclient_id=billing",
            b"\n\nclient_id=billing&client_secret=" + _SECRET.encode(),
        ),
    ),
    "scope": Target(scope, (b"orders:read orders:write", b"a a b")),
    "names": Target(
        names,
        (b"https://orders.example/a?b=c", b"urn:example:orders", b"s12", b"m0", b"Ada@Example.org"),
    ),
    "demand": Target(demand, (b"audience=https%3A%2F%2Forders.example&scope=a&role=admin",)),
    "refresh_token": Target(refresh_token, (_TOKEN.encode(),)),
    "opaque": Target(opaque, (_SECRET.encode(), _API_KEY.encode(), b"key_AAAAAAAAAAAAAAAA")),
    "forwarded": Target(
        forwarded, (b"203.0.113.7, 10.0.0.2", b"::ffff:192.0.2.9,fd00::2\n2001:db8::1%eth0")
    ),
    "cookie": Target(
        cookie, (_AUDIENCE.encode() + b"\nsame-origin\n" + COOKIE_NAME.encode() + b"=rt_x; a=b",)
    ),
    "if_none_match": Target(if_none_match, (b'W/"a", ' + _DOCUMENT.etag, b"*")),
}
