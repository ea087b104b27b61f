"""Two addresses to guess from, and what of guesses is stored."""

from sqlalchemy import text

from token_server.runtime import Runtime
from token_server.services.request_context import RequestContext

HERE, ELSEWHERE = "203.0.113.9", "198.51.100.1"


def context(runtime: Runtime, ip_address: str | None = HERE) -> RequestContext:
    return RequestContext(runtime.clock.now(), "req-1", ip_address)


async def buckets(runtime: Runtime) -> list[tuple[str, int]]:
    """Every stored state: the bucket's name and the instant at which it is full, in ms."""
    async with runtime.store.read() as connection:
        rows = await connection.execute(text("SELECT bucket, full_at FROM throttles ORDER BY 1"))
        return [(row.bucket, row.full_at) for row in rows]
