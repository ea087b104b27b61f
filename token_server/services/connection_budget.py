"""Whether the connections that an instance may open fit into what PostgreSQL grants.

Each process has a pool of its own, bounded by `pool_size` in DATABASE_URL. Behind a pooler the
server's limit says nothing: PgBouncer has fewer connections than its clients.
"""

from dataclasses import dataclass

from token_server.config import Settings
from token_server.storage.database_url import PostgresAddress, parse_database_url
from token_server.storage.engine import Store
from token_server.storage.inspection import granted_connections

FIX = (
    "lower WORKERS or pool_size in DATABASE_URL, raise max_connections of PostgreSQL (or the "
    "limit of the role or database), or put PgBouncer between"
)


@dataclass(frozen=True, slots=True)
class ConnectionBudget:
    """Connections that one instance may open, and that PostgreSQL grants to all together."""

    processes: int
    pool_size: int
    granted: int

    @property
    def is_enough(self) -> bool:
        """For one instance, with one left for the command line."""
        return self.processes * self.pool_size < self.granted

    @property
    def text(self) -> str:
        wanted = self.processes * self.pool_size
        instances = max(0, self.granted - 1) // wanted
        return (
            f"{self.processes} x {self.pool_size} = {wanted} for this instance; PostgreSQL grants "
            f"{self.granted}: room for {instances} such instance{'' if instances == 1 else 's'}"
        )


async def connection_budget(store: Store, settings: Settings) -> ConnectionBudget | None:
    """None where there is nothing to count: SQLite, and behind a pooler."""
    address = parse_database_url(settings.database_url.reveal())
    if not isinstance(address, PostgresAddress) or not address.prepared_statements:
        return None
    async with store.read() as connection:
        granted = await granted_connections(connection)
    return ConnectionBudget(settings.workers, address.pool_size, granted)
