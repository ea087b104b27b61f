"""Clients as this process knows them, no older than a stated age.

Every token request needs its client, and clients hardly ever change. A change made elsewhere
(command line, another instance) is seen after at most CLIENT_MAX_AGE_S; what must end at once,
the refresh-token families, ends in the transaction that makes the change.
"""

from collections.abc import Callable

from token_server.records import Client
from token_server.storage import clients
from token_server.storage.engine import Store

CLIENT_MAX_AGE_S = 5.0
_MAX_CLIENTS = 10_000


class ClientCache:
    """Made-up ids take no place of a client's; that they were looked for is kept apart."""

    def __init__(
        self, store: Store, monotonic: Callable[[], float], max_age_s: float = CLIENT_MAX_AGE_S
    ) -> None:
        self._store = store
        self._monotonic = monotonic
        self._max_age_s = max_age_s
        self._clients: dict[str, tuple[Client, float]] = {}
        self._absent: dict[str, float] = {}

    def peek(self, client_id: str) -> Client | None:
        """The client if it was read recently enough; no query."""
        cached = self._clients.get(client_id)
        if cached is None or self._monotonic() - cached[1] >= self._max_age_s:
            return None
        return cached[0]

    async def find(self, client_id: str) -> Client | None:
        """The client, or that there is none, as read recently enough; else as it is now. For
        floods: the same price for ids that exist and for those that do not."""
        client = self.peek(client_id)
        looked_at = self._absent.get(client_id)
        if client is not None or (
            looked_at is not None and self._monotonic() - looked_at < self._max_age_s
        ):
            return client
        return await self.refresh(client_id)

    async def refresh(self, client_id: str) -> Client | None:
        """The client as it is in the database now; None when there is none."""
        read_at = self._monotonic()
        async with self._store.read() as connection:
            client = await clients.find_client(connection, client_id)
        if client is None:
            self._clients.pop(client_id, None)
            if len(self._absent) >= _MAX_CLIENTS:
                self._absent.clear()
            self._absent[client_id] = read_at
            return None
        self._absent.pop(client_id, None)
        if len(self._clients) >= _MAX_CLIENTS and client_id not in self._clients:
            self._clients.clear()  # rare and cheap; the next requests fill it again
        self._clients[client_id] = (client, read_at)
        return client
