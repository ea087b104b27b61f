"""Changing what a client may do, while somebody else changes it, too; on both engines."""

import asyncio

from tests.support.people import audit_trail, open_people
from token_server.records import AuditEventType
from token_server.services.client_changes import ClientChanges, change_client
from token_server.services.clients import NewClient, add_client, show_client

BILLING = NewClient("billing", ("client_credentials",), scopes=("a", "b"), audiences=("urn:a",))


async def test_changes_made_at_once_are_all_kept(database_url: str) -> None:
    """Each writes its own part over what the others have left, none over what it once read."""
    changes = [
        ClientChanges(name="Bills"),
        ClientChanges(scopes=("b", "c", "b")),
        ClientChanges(audiences=()),
        ClientChanges(serves_audiences=("urn:s",)),
        ClientChanges(exchange_audiences=("urn:e",)),
        ClientChanges(default_audience=("urn:d",)),
        ClientChanges(is_revocable=True),
    ]
    async with open_people(database_url) as first, open_people(database_url) as second:
        await add_client(first, BILLING)
        runtimes = [first, second] * len(changes)
        await asyncio.gather(
            *(
                change_client(runtime, "billing", change)
                for runtime, change in zip(runtimes, changes, strict=False)
            )
        )
        kept = await show_client(second, "billing")

    assert (kept.name, kept.scopes, kept.audiences) == ("Bills", ("b", "c"), ())
    assert (kept.serves_audiences, kept.exchange_audiences) == (("urn:s",), ("urn:e",))
    assert (kept.default_audience, kept.is_revocable) == (("urn:d",), True)
    assert kept.grant_types == {"client_credentials"}
    assert len(kept.secrets) == 1


async def test_change_to_what_it_was_leaves_no_trace(sqlite_url: str) -> None:
    """Repeated by a script, it neither stamps the client nor fills the audit trail."""
    async with open_people(sqlite_url) as runtime:
        added, _ = await add_client(runtime, BILLING)
        same = ClientChanges(scopes=("a", "b"), grant_types=("client_credentials",))
        assert await change_client(runtime, "billing", same) == added
    events = [event.event for event in await audit_trail(sqlite_url)]

    assert events == [AuditEventType.CLIENT_CREATED]
