"""A runtime without keys for tests of accounts and clients, on the cheapest Argon2 profile."""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

from tests.support.databases import TEST_EPOCH
from tests.support.records import log_in
from token_server.config import Settings
from token_server.records import AuditEvent, Family, Secret, User
from token_server.runtime import Runtime, open_runtime
from token_server.services.request_context import RequestContext
from token_server.storage import audit, families

PASSWORD = Secret("correct horse battery staple")
CONTEXT = RequestContext(now=TEST_EPOCH, request_id="req-1", ip_address="192.0.2.7")


@dataclass(slots=True)
class StandingClock:
    """Stands still until a test moves `at`; durations stand still, too."""

    at: int = TEST_EPOCH

    def now(self) -> int:
        return self.at

    def monotonic(self) -> float:
        return float(self.at - TEST_EPOCH)

    def is_stepped_back(self) -> bool:
        return False

    def behind_s(self) -> float:
        return 0.0


@contextlib.asynccontextmanager
async def open_people(
    database_url: str, clock: StandingClock | None = None, *, memory_kib: int = 8
) -> AsyncIterator[Runtime]:
    settings = Settings(
        mode="tool",
        database_url=Secret(database_url),
        default_audience="https://auth.example",
        argon2_memory_kib=memory_kib,
        argon2_time_cost=1,
        argon2_parallelism=1,
        password_hash_slots=2,
    )
    async with open_runtime(settings, clock=clock or StandingClock(), with_keys=False) as runtime:
        yield runtime


async def start_family(
    runtime: Runtime, user: User, client_id: str, number: int = 1
) -> Family | None:
    """What a login does at its end, with the user as read before hashing; None when the user or
    the client may not (any more)."""
    now = runtime.clock.now()
    new = families.NewFamily(
        family_id=number.to_bytes(16, "big"),
        sid=f"ses_{number:022}",
        client_id=client_id,
        user_id=user.user_id,
        scope=("orders:read",),
        audience=("https://orders.example",),
        mac_version=1,
        auth_time=now,
        created_at=now,
        idle_expires_at=now + 3600,
        absolute_expires_at=now + 7200,
        label=None,
        ip_address=None,
        user_agent=None,
    )
    async with runtime.store.write() as connection:
        return await log_in(connection, new, user.credential_version)


async def find_family(runtime: Runtime, number: int = 1) -> Family | None:
    async with runtime.store.read() as connection:
        return await families.find_family(connection, number.to_bytes(16, "big"))


async def revoked_reason(runtime: Runtime, number: int = 1) -> str | None:
    family = await find_family(runtime, number)
    assert family is not None
    return family.revoked_reason


async def audit_trail(database_url: str) -> list[AuditEvent]:
    """All events in the order they were written; open it after the runtime that wrote them."""
    async with open_people(database_url) as runtime, runtime.store.read() as connection:
        return [stored.event for stored in await audit.list_events(connection, 0, 1000)]
