"""Who asks, from where, when: what services need to know of a request without knowing HTTP."""

from collections.abc import Awaitable, Callable

import msgspec

from token_server.core.guess_budget import networks_of
from token_server.crypto.hash_queue import Asker


class RequestContext(msgspec.Struct, frozen=True):
    """`now` is read once a request, so that every decision in it sees the same instant.

    `departure` ends when the client has gone; it may be awaited once the whole request is read.
    """

    now: int
    request_id: str
    ip_address: str | None = None
    user_agent: str | None = None
    departure: Callable[[], Awaitable[object]] | None = None

    def asker(self) -> Asker:
        """Whom a password hash of this request is counted to: the widest network that one guesser
        may have for nothing."""
        networks = networks_of(self.ip_address)
        return Asker(networks.wide or networks.narrow, self.departure)
