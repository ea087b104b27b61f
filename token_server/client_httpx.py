"""A TokenSource as httpx authentication: the token to the named origins, and to no other.

Asks once more when the service answers 401 `invalid_token` (RFC 6750 3.1). Redirects are httpx's
business: it drops the header when they lead to another origin. Needs httpx, and nothing else
of this package imports this module.
"""

import re
from collections.abc import AsyncGenerator, Generator, Iterable

import httpx

from token_server.client import TokenSource, TokenSourceError
from token_server.client.endpoint import is_loopback

_DEFAULT_PORTS = {"http": 80, "https": 443}
# A parameter of a challenge, with whatever is quoted taken whole (RFC 9110 11.2).
_PART = re.compile(r'([\w!#$%&\'*+.^`|~-]+)(?:\s*=\s*("(?:[^"\\]|\\.)*"|[^\s,"]+))?')


class OriginRefusedError(TokenSourceError):
    """The request goes to an origin that this token is not for. Nothing was sent."""


class TokenAuth(httpx.Auth):
    """`httpx.Client(auth=TokenAuth(source, origins=["https://orders.example"]))`, also AsyncClient.

    `origins` are URLs of which scheme, host and port count; without them the source's `resource`.
    A request to another origin raises OriginRefusedError, errors of the source leave as they are.
    """

    def __init__(self, source: TokenSource, origins: Iterable[str] = ()) -> None:
        """Raises ValueError when there is no origin, or one that is not https (http on loopback
        only)."""
        named = tuple(origins) or ((source.resource,) if source.resource else ())
        if isinstance(origins, str) or not named:
            raise ValueError("origins is a list of URLs that the token may be sent to")
        self._source = source
        self._origins = frozenset(_checked_origin(url) for url in named)

    def sync_auth_flow(
        self, request: httpx.Request
    ) -> Generator[httpx.Request, httpx.Response, None]:
        self._check(request)
        token = self._source.get_token()
        response = yield _bearing(request, token)
        if not _is_worth_another(request, response) or not self._source.invalidate(token):
            return
        try:
            token = self._source.get_token()
        except TokenSourceError:
            return  # the service's 401 is the answer
        yield _bearing(request, token)

    async def async_auth_flow(
        self, request: httpx.Request
    ) -> AsyncGenerator[httpx.Request, httpx.Response]:
        self._check(request)
        token = await self._source.aget_token()
        response = yield _bearing(request, token)
        if not _is_worth_another(request, response) or not self._source.invalidate(token):
            return
        try:
            token = await self._source.aget_token()
        except TokenSourceError:
            return
        yield _bearing(request, token)

    def _check(self, request: httpx.Request) -> None:
        if _origin(request.url) not in self._origins:
            raise OriginRefusedError(f"the token is not for {request.url.host}")


def _bearing(request: httpx.Request, token: str) -> httpx.Request:
    request.headers["Authorization"] = f"Bearer {token}"
    return request


def _is_worth_another(request: httpx.Request, response: httpx.Response) -> bool:
    """Refused for its token, and with a body that can be sent twice (a generator cannot)."""
    return (
        response.status_code == httpx.codes.UNAUTHORIZED
        and isinstance(request.stream, httpx.ByteStream)
        and any(map(is_invalid_token, response.headers.get_list("WWW-Authenticate")))
    )


def is_invalid_token(challenges: str) -> bool:
    """Whether one value of WWW-Authenticate has a Bearer challenge with error="invalid_token"."""
    scheme = ""
    for match in _PART.finditer(challenges):
        name, value = match.group(1).lower(), match.group(2)
        if value is None:
            scheme = name
        elif scheme == "bearer" and name == "error" and value.strip('"') == "invalid_token":
            return True
    return False


def _checked_origin(url: str) -> tuple[str, str, int | None]:
    try:
        origin = _origin(httpx.URL(url))
    except httpx.InvalidURL:
        raise ValueError("an origin is no URL") from None
    scheme, host, _ = origin
    if not host or (scheme != "https" and not (scheme == "http" and is_loopback(host))):
        raise ValueError("an origin is neither https nor http on this machine")
    return origin


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port or _DEFAULT_PORTS.get(url.scheme)
