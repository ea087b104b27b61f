"""Pruning and following the audit trail, on both engines."""

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest

from tests.support.guessing import buckets
from tests.support.people import (
    CONTEXT,
    PASSWORD,
    StandingClock,
    find_family,
    open_people,
    start_family,
)
from token_server.core.batch_pace import BatchPace
from token_server.core.guess_budget import NETWORK_BUDGETS, PASSWORD_BUDGETS
from token_server.records import AuditEvent, AuditEventType
from token_server.runtime import Runtime
from token_server.services import maintenance
from token_server.services.clients import NewClient, add_client
from token_server.services.guessing import Door, Guess, admit_guess
from token_server.services.maintenance import (
    FAMILY_MARGIN_S,
    follow_audit_events,
    latest_audit_events,
    mark_restored,
    prune_database,
)
from token_server.services.users import NewUser, add_user
from token_server.storage import status
from token_server.storage.machine_numbers import USE_FOR_S
from token_server.storage.revocations import DeniedToken

SESSION_S = 7200  # of start_family


@pytest.fixture
def clock() -> StandingClock:
    return StandingClock()


@pytest.fixture
async def runtime(database_url: str, clock: StandingClock) -> AsyncIterator[Runtime]:
    async with open_people(database_url, clock) as opened:
        yield opened


async def start_sessions(runtime: Runtime, count: int) -> None:
    user = await add_user(runtime, NewUser("ada@example.com", "Ada", PASSWORD))
    await add_client(runtime, NewClient("app", ("password", "refresh_token"), is_public=True))
    for number in range(1, count + 1):
        assert await start_family(runtime, user, "app", number) is not None


async def test_prune_keeps_a_session_until_its_margin_is_over(
    runtime: Runtime, clock: StandingClock
) -> None:
    """Its access tokens and its place in status lists may outlive it; afterwards the row goes."""
    await start_sessions(runtime, 1)

    clock.at += SESSION_S + FAMILY_MARGIN_S
    early = await prune_database(runtime, None)
    is_kept = await find_family(runtime) is not None
    clock.at += 1
    late = await prune_database(runtime, None)

    assert (early.sessions, is_kept, late.sessions) == (0, True, 1)
    assert await find_family(runtime) is None


async def test_prune_goes_on_until_all_is_done(
    runtime: Runtime, clock: StandingClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Small batches, but no rest left for the next night."""
    monkeypatch.setattr(maintenance, "BatchPace", lambda: BatchPace(limit=2))
    await start_sessions(runtime, 5)
    clock.at += SESSION_S + FAMILY_MARGIN_S + 1

    assert (await prune_database(runtime, None)).sessions == 5


async def test_prune_deletes_audit_events_beyond_the_named_age(
    runtime: Runtime, clock: StandingClock
) -> None:
    """Older ones go, younger ones stay, and the pruning itself is on record."""
    await mark_restored(runtime)
    clock.at += 100
    await mark_restored(runtime)

    pruned = await prune_database(runtime, 50)

    left = [row.event for row in await latest_audit_events(runtime, 10)]
    assert pruned.audit_events == 1
    assert [event.event.value for event in left] == ["database.restored", "database.pruned"]
    assert left[-1].details == {
        "sessions": 0,
        "audit_events": 1,
        "throttles": 0,
        "machine_blocks": 0,
        "denied_tokens": 0,
        "api_keys": 0,
    }


async def test_prune_forgets_machine_tokens_that_have_expired(
    runtime: Runtime, clock: StandingClock
) -> None:
    """Their positions and denials, and not while a token may still be shown."""
    number = await runtime.status.machine_number(clock.at)
    clock.at += USE_FOR_S
    newer = await runtime.status.machine_number(clock.at)
    async with runtime.store.write() as connection:
        await status.revoke_machine_token(connection, number, clock.at)
        await status.revoke_machine_token(connection, newer, clock.at)
    event = AuditEvent(AuditEventType.TOKEN_REVOKED, at=clock.at, actor="operator")
    await runtime.revocations.submit(DeniedToken("jti", clock.at + 86400, event))

    clock.at += 86400  # the last token of the first block has just expired
    early = await prune_database(runtime, None)
    clock.at += FAMILY_MARGIN_S - 86400 + 1
    late = await prune_database(runtime, None)

    assert (early.machine_blocks, early.denied_tokens) == (0, 0)
    assert (late.machine_blocks, late.denied_tokens) == (1, 1)
    async with runtime.store.read() as connection:
        left = await status.revoked_after(connection, "m", status.Revoked(0, 0), 9)
    assert [revoked.number for revoked in left] == [newer]


async def test_prune_deletes_guessing_budgets_that_are_full_again(
    runtime: Runtime, clock: StandingClock
) -> None:
    """What still counts against somebody stays."""
    await admit_guess(runtime, Guess(Door.LOGIN, "old@example.com"), CONTEXT)
    clock.at += 3600
    later = msgspec.structs.replace(CONTEXT, now=clock.at, ip_address="192.0.2.8")
    for _ in range(2):
        await admit_guess(runtime, Guess(Door.LOGIN, "new@example.com"), later)

    pruned = await prune_database(runtime, None)

    assert len(await buckets(runtime)) == len(PASSWORD_BUDGETS) + len(NETWORK_BUDGETS)
    assert all(full_at > clock.at * 1000 for _, full_at in await buckets(runtime))
    assert pruned.throttles == 0, "the guesses after it have deleted them already"

    clock.at += 3600
    assert (await prune_database(runtime, None)).throttles == len(PASSWORD_BUDGETS) + len(
        NETWORK_BUDGETS
    )
    assert await buckets(runtime) == []


async def test_following_shows_each_new_event_once(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was there is not repeated, what comes is not lost, whoever writes it."""
    monkeypatch.setattr(maintenance, "FOLLOW_INTERVAL_S", 0.01)
    await mark_restored(runtime)
    seen = await latest_audit_events(runtime, 200)
    epochs: list[object] = []

    async def follow() -> None:
        async for row in follow_audit_events(runtime, seen):
            epochs.append(row.event.details["epoch"])
            if len(epochs) == 3:
                return

    task = asyncio.create_task(follow())
    for _ in range(3):
        await mark_restored(runtime)
        await asyncio.sleep(0.03)
    await asyncio.wait_for(task, 10)

    assert epochs == [2, 3, 4]
