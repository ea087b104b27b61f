"""The refresh token in a cookie that scripts cannot read, for pages of our own origins.

`__Host-` (RFC 6265bis §4.1.3.2) binds it to this host over TLS; HttpOnly keeps scripts from it
and SameSite=Strict other sites. Because a cookie is sent by itself, whoever asks for it or uses
it must also say an Origin of the exact list. There is no CORS here, for nobody.
"""

from collections.abc import Sequence

from litestar.types import HTTPScope

from token_server.errors import CredentialsRefusedError, OriginRefusedError
from token_server.records import Secret
from token_server.web.requests import header_values

COOKIE_NAME = "__Host-token_server_refresh"
_ATTRIBUTES = "Path=/; Secure; HttpOnly; SameSite=Strict"
# `none` is a person typing an address, who cannot send these requests.
_OWN_SITES = ("same-origin", "same-site")

Header = tuple[bytes, bytes]


def check_origin(scope: HTTPScope, origins: Sequence[str]) -> None:
    """The page that asks is one of ours; OriginRefusedError otherwise, and when it is not said.

    Sec-Fetch-Site is a second opinion where the browser has one.
    """
    named = header_values(scope, b"origin")
    if len(named) != 1 or named[0] not in origins:
        raise OriginRefusedError("origin_not_listed")
    sites = header_values(scope, b"sec-fetch-site")
    if any(site not in _OWN_SITES for site in sites):
        raise OriginRefusedError("sec_fetch_site")


def has_refresh_cookie(scope: HTTPScope) -> bool:
    return bool(_values(scope))


def read_refresh_cookie(scope: HTTPScope) -> str:
    """The token in the cookie. CredentialsRefusedError without one, and with two: which of them a
    subdomain or an older page planted, nobody can tell."""
    values = _values(scope)
    if len(values) != 1:
        raise CredentialsRefusedError("refresh_cookie_repeated" if values else "no_refresh_cookie")
    return values[0]


def refresh_cookie(token: Secret[str], max_age_s: int) -> Header:
    return _header(f"{COOKIE_NAME}={token.reveal()}; Max-Age={max_age_s}; {_ATTRIBUTES}")


def cleared_cookie() -> Header:
    return _header(f"{COOKIE_NAME}=; Max-Age=0; {_ATTRIBUTES}")


def _values(scope: HTTPScope) -> list[str]:
    pairs = ";".join(header_values(scope, b"cookie")).split(";")
    split = (pair.strip(" \t").partition("=") for pair in pairs)
    # Names of cookies are case-sensitive; the prefix is not, to browsers.
    return [value for name, _, value in split if name.lower() == COOKIE_NAME.lower()]


def _header(text: str) -> Header:
    return (b"set-cookie", text.encode("ascii"))
