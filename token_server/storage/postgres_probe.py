"""Whether PostgreSQL answers: a question on a new connection, past the pool; and breaking off the
pool's connections when it does not.

A link that swallows packets leaves connections that look open: a new one shows whether the server
is there, and the server knows which of the old ones it has nothing to do for.
"""

import asyncio
from typing import Any, cast
from weakref import WeakSet

from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine

from token_server.storage.backend import Operation
from token_server.storage.database_url import PostgresAddress
from token_server.storage.errors import UNAVAILABLE, unavailable

_TOO_MANY_CONNECTIONS = "53300"
_READ_ONLY = "25006"
# A request that waits for longer than this on a connection which the server calls idle waits for
# an answer that was lost.
_SILENCE_S = 1.5
_BUSY_PIDS = """
SELECT pid FROM pg_stat_activity
WHERE pid = ANY($1::int[])
    AND (state = 'active' OR clock_timestamp() - state_change < make_interval(secs => $2))
"""
# Of SQLAlchemy's dialect, not of the driver.
_DIALECT_ARGUMENTS = ("prepared_statement_cache_size", "prepared_statement_name_func")


class Connections:
    """The driver's connections of one pool: which are open, and which are in use since when."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._open: WeakSet[Any] = WeakSet()
        self._in_use: dict[object, tuple[Any, float]] = {}
        self._given_up: set[Operation] = set()
        self.is_read_only = False  # as the last probe found it: then it can be read
        pool_events = engine.sync_engine

        @event.listens_for(pool_events, "do_connect")
        def refuse(*_arguments: object) -> None:
            # Who waited for a place in the pool must not wait for a connection as well.
            if self._given_up and not self.is_read_only:
                raise ConnectionRefusedError

        @event.listens_for(pool_events, "connect")
        def connected(connection: Any, _record: object) -> None:
            self._open.add(connection.driver_connection)

        @event.listens_for(pool_events, "checkout")
        def taken(connection: Any, record: object, _proxy: object) -> None:
            taken_at = asyncio.get_running_loop().time()
            self._in_use[record] = (connection.driver_connection, taken_at)

        @event.listens_for(pool_events, "checkin")
        def given_back(_connection: Any, record: object) -> None:
            self._in_use.pop(record, None)

    def waiting(self, loop_time: float) -> dict[int, Any]:
        """By the server's process id: those in use for so long that an answer is overdue."""
        found = [one for one, at in self._in_use.values() if loop_time - at > _SILENCE_S]
        return {one.get_server_pid(): one for one in found if not one.is_closed()}

    def give_up(self, operation: Operation) -> None:
        """Break off all, those in use and those that wait in the pool: behind a failover they lead
        to the wrong server."""
        self._given_up.add(operation)
        for connection in list(self._open):
            break_off(connection)

    def resume(self, operation: Operation) -> None:
        self._given_up.discard(operation)


def break_off(connection: Any) -> None:
    """As the loss of a connection looks. After its `terminate()` the driver would fail whoever
    waits, or comes back for a second statement, in ways that do not say so."""
    if not connection.is_closed():
        connection._transport.abort()  # the driver has no other word for it


async def probe_server(
    address: PostgresAddress, connections: Connections, *, must_write: bool
) -> None:
    """Raises what the driver raises when PostgreSQL does not answer; when it does, connections
    that it has forgotten are broken off. The caller bounds the time."""
    import asyncpg  # an extra

    overdue = connections.waiting(asyncio.get_running_loop().time())
    connections.is_read_only = False
    try:
        connection = await asyncpg.connect(**_driver_arguments(address))
    except asyncpg.PostgresError as error:
        if error.sqlstate == _TOO_MANY_CONNECTIONS:
            return  # it answers, and those that are open go on
        raise
    try:
        connections.is_read_only = await connection.fetchval(
            "SELECT current_setting('transaction_read_only')::bool"
        )
        if must_write and connections.is_read_only:
            raise unavailable(UNAVAILABLE, f"{_READ_ONLY} (it is read-only)")
        if overdue and address.prepared_statements:  # behind PgBouncer the ids are not the server's
            busy = await connection.fetch(_BUSY_PIDS, list(overdue), _SILENCE_S)
            for pid in overdue.keys() - {row["pid"] for row in busy}:
                break_off(overdue[pid])
    finally:
        connection.terminate()


def _driver_arguments(address: PostgresAddress) -> dict[str, Any]:
    from sqlalchemy.dialects.postgresql.asyncpg import dialect

    _, found = cast("Any", dialect)().create_connect_args(address.url)
    arguments = {**found, **address.connect_args, "statement_cache_size": 0}
    return {name: value for name, value in arguments.items() if name not in _DIALECT_ARGUMENTS}
