"""Reading what surrounds a request: header values, and from where it comes."""

import ipaddress
from collections.abc import Sequence
from functools import lru_cache, partial

from litestar.types import HTTPScope, Receive, Scope

from token_server.config import IPNetwork
from token_server.runtime import Runtime
from token_server.services.request_context import RequestContext

_MAX_USER_AGENT_LENGTH = 256
_MAX_HOPS = 32
REQUEST_ID_KEY = "token_server.request_id"  # in the ASGI scope, set by web/edge.py


def header_values(scope: HTTPScope, name: bytes) -> list[str]:
    """All values of a header in their order; bytes that are no text come out as Latin-1."""
    return [value.decode("latin-1") for key, value in scope["headers"] if key == name]


def request_id(scope: Scope) -> str:
    return str(scope.get(REQUEST_ID_KEY, ""))


def request_context(
    runtime: Runtime, scope: HTTPScope, receive: Receive | None = None
) -> RequestContext:
    """The context for services; the instant is read here, once. `receive` of a request whose
    body is read tells when the client goes away."""
    agents = header_values(scope, b"user-agent")
    return RequestContext(
        now=runtime.clock.now(),
        request_id=request_id(scope),
        ip_address=client_address(scope, runtime.settings.trusted_proxies),
        user_agent=_printable(agents[0]) if agents else None,
        departure=None if receive is None else partial(_departure, receive),
    )


async def _departure(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass  # the body of a request that nobody has read


def client_address(scope: HTTPScope, trusted: Sequence[IPNetwork]) -> str | None:
    """The peer; behind trusted proxies the right-most hop that is not one of them.

    X-Forwarded-For counts only when the peer itself is trusted, and is read from the right:
    what is further left was written by whoever came before, and may be made up.
    """
    peer = scope.get("client")
    if peer is None:
        return None
    if not trusted:
        return _peer_address(peer[0])
    address = _parse_address(peer[0])
    if address is None:
        return None  # a socket without addresses
    if not _is_trusted(address, trusted):
        return str(address)
    hops = ",".join(header_values(scope, b"x-forwarded-for")).split(",")
    for hop in reversed(hops[-_MAX_HOPS:]):
        claimed = _parse_address(hop.strip())
        if claimed is None:
            break
        address = claimed
        if not _is_trusted(address, trusted):
            break
    return str(address)


@lru_cache(maxsize=1024)  # connections are kept alive, and most come from the same few machines
def _peer_address(text: str) -> str | None:
    address = _parse_address(text)
    return None if address is None else str(address)


def untrusted_proxy(scope: HTTPScope, trusted: Sequence[IPNetwork]) -> str | None:
    """The peer, when it says for whom it forwards and is not believed; else None."""
    peer = scope.get("client")
    if peer is None or not any(name == b"x-forwarded-for" for name, _ in scope["headers"]):
        return None
    address = _parse_address(peer[0])
    return None if address is None or _is_trusted(address, trusted) else str(address)


def _parse_address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address):
        # Without its zone: whatever text follows a `%` would be part of the address.
        return address.ipv4_mapped or ipaddress.IPv6Address(int(address))
    return address


def _is_trusted(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address, trusted: Sequence[IPNetwork]
) -> bool:
    return any(address in network for network in trusted)


def _printable(text: str) -> str:
    return "".join(c if " " <= c <= "~" else "?" for c in text[:_MAX_USER_AGENT_LENGTH])
