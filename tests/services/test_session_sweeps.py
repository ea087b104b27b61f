"""Ending a great many sessions in batches: all that were there, none that came later."""

import pytest

from tests.support.people import (
    PASSWORD,
    StandingClock,
    audit_trail,
    find_family,
    open_people,
    revoked_reason,
    start_family,
)
from token_server.records import AuditEventType
from token_server.services import clients, session_sweeps
from token_server.services.clients import NewClient, add_client
from token_server.services.maintenance import mark_restored
from token_server.services.sessions import end_user_sessions
from token_server.services.users import NewUser, add_user

APP = NewClient("app", ("password", "refresh_token"), is_public=True)
ADA = NewUser("ada@example.org", "Ada", PASSWORD)


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two sessions each, as if there were thousands."""
    monkeypatch.setattr(session_sweeps, "BATCH", 2)
    monkeypatch.setattr(clients, "BATCH", 2)
    monkeypatch.setattr("token_server.services.maintenance.SWEEP_BATCH", 2)


async def test_disabled_client_loses_all_its_sessions(database_url: str) -> None:
    """The first batch in the transaction of the change, the rest behind it; both are audited."""
    async with open_people(database_url) as runtime:
        user = await add_user(runtime, ADA)
        await add_client(runtime, APP)
        for number in range(1, 6):
            assert await start_family(runtime, user, "app", number) is not None
        await clients.disable_client(runtime, "app")
        for number in range(1, 6):
            assert await revoked_reason(runtime, number) == "client_disabled"
    told = [
        (event.event.value, event.subject, event.details.get("sessions_ended"))
        for event in await audit_trail(database_url)
    ]
    assert told[-2:] == [("client.disabled", "app", 2), ("session.revoked", "app", 3)]


async def test_each_batch_bears_its_own_instant(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sweep of minutes: what its last batches revoke must not look like long known to those who
    follow `revoked_at` for the status lists."""
    clock = StandingClock()

    async def minutes_pass(_: float) -> None:
        clock.at += 120

    async with open_people(database_url, clock) as runtime:
        user = await add_user(runtime, ADA)
        await add_client(runtime, APP)
        for number in range(1, 6):
            await start_family(runtime, user, "app", number)
        monkeypatch.setattr("token_server.services.session_sweeps.asyncio.sleep", minutes_pass)
        began_at = clock.at
        assert await end_user_sessions(runtime, ADA.email) == 5
        found = [await find_family(runtime, number) for number in range(1, 6)]
    at = [None if family is None else family.revoked_at for family in found]
    assert at == [began_at, began_at, began_at + 120, began_at + 120, began_at + 240]


async def test_exact_number_of_batches_leaves_no_empty_event(database_url: str) -> None:
    """Four sessions are two whole batches and a look that finds nothing."""
    async with open_people(database_url) as runtime:
        user = await add_user(runtime, ADA)
        await add_client(runtime, APP)
        for number in range(1, 5):
            await start_family(runtime, user, "app", number)
        assert await end_user_sessions(runtime, ADA.email) == 4
        assert await end_user_sessions(runtime, ADA.email) == 0
    ended = [
        (event.subject, event.details["sessions_ended"])
        for event in await audit_trail(database_url)
        if event.event is AuditEventType.SESSION_REVOKED
    ]
    assert ended == [(user.user_id, 2), (user.user_id, 2)]


async def test_sweep_of_an_enabled_client_spares_who_logs_in_meanwhile(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What began after the sweep is not its business, or it would never end."""
    async with open_people(sqlite_url) as runtime:
        user = await add_user(runtime, ADA)
        await add_client(runtime, APP)
        for number in range(1, 6):
            await start_family(runtime, user, "app", number)

        async def log_in_meanwhile(_: float) -> None:
            if await find_family(runtime, 99) is None:
                await start_family(runtime, user, "app", 99)

        monkeypatch.setattr("token_server.services.session_sweeps.asyncio.sleep", log_in_meanwhile)
        assert await clients.end_client_sessions(runtime, "app") == 5
        assert await revoked_reason(runtime, 99) is None
        assert await revoked_reason(runtime, 5) == "ended_by_operator"


@pytest.mark.parametrize("way_back", ["enable", "add again"])
async def test_broken_off_sweep_is_finished_before_the_client_comes_back(
    database_url: str, monkeypatch: pytest.MonkeyPatch, way_back: str
) -> None:
    """kill -9 after the first batch: no session of before lives when the client does."""

    async def killed(_: float) -> None:
        raise KeyboardInterrupt

    async with open_people(database_url) as runtime:
        user = await add_user(runtime, ADA)
        await add_client(runtime, APP)
        for number in range(1, 6):
            await start_family(runtime, user, "app", number)
        end = clients.disable_client if way_back == "enable" else clients.delete_client
        with monkeypatch.context() as broken:
            broken.setattr("token_server.services.session_sweeps.asyncio.sleep", killed)
            with pytest.raises(KeyboardInterrupt):
                await end(runtime, "app")
        assert await revoked_reason(runtime, 5) is None
        if way_back == "enable":
            await clients.enable_client(runtime, "app")
        else:
            await add_client(runtime, APP)
        for number in range(1, 6):
            assert await revoked_reason(runtime, number) is not None
        assert await start_family(runtime, user, "app", 6) is not None


async def test_restored_backup_ends_every_session(database_url: str) -> None:
    """G143: marked as ended one by one, so that no door has to know of the restore."""
    async with open_people(database_url) as runtime:
        user = await add_user(runtime, ADA)
        for number in range(1, 4):
            await start_family(runtime, user, "account", number)
        await mark_restored(runtime)
        for number in range(1, 4):
            assert await revoked_reason(runtime, number) == "backup_restored"
        assert await start_family(runtime, user, "account", 4) is not None
