"""Registering clients, their secrets, and their end; on both engines."""

import asyncio
import hashlib
from dataclasses import replace

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
from token_server.core.opaque import is_well_formed
from token_server.errors import OperatorError
from token_server.records import AuditEventType, Client
from token_server.services.clients import (
    MAX_SECRETS,
    NewClient,
    SecretRotation,
    add_client,
    delete_client,
    disable_client,
    enable_client,
    list_clients,
    revoke_secret,
    rotate_secret,
    show_client,
)
from token_server.services.users import NewUser, add_user

BILLING = NewClient(
    "billing",
    ("client_credentials",),
    scopes=("orders:read", "orders:write"),
    audiences=("https://orders.example",),
)
APP = NewClient("app", ("password", "refresh_token"), is_public=True)
ALICE = NewUser("alice@example.com", "Alice", PASSWORD)
FULL = NewClient(
    "full",
    ("client_credentials", "password", "refresh_token"),
    scopes=("b", "a", "b"),
    audiences=("https://two.example", "https://one.example"),
    default_audience=("https://one.example",),
    name="Full of wishes",
    access_token_ttl_s=60,
    access_token_typ="JWT",
    refresh_idle_ttl_s=120,
    refresh_absolute_ttl_s=240,
    refresh_replay_window_s=0,
    shadow_limit=3,
)


async def test_added_client_is_durable_and_its_secret_only_a_digest(database_url: str) -> None:
    """The secret leaves once: what is stored is its SHA-256 (cases E 97 and 98)."""
    async with open_people(database_url) as runtime:
        added, secret = await add_client(runtime, BILLING)
    assert secret is not None
    text = secret.reveal()
    async with open_people(database_url) as runtime:
        stored = await show_client(runtime, "billing")

    assert stored == added
    assert is_well_formed("ts_", text)
    assert [s.secret_digest for s in stored.secrets] == [hashlib.sha256(text.encode()).digest()]
    assert text not in repr(stored)
    trail = await audit_trail(database_url)
    assert [(e.event, e.subject) for e in trail] == [(AuditEventType.CLIENT_CREATED, "billing")]
    assert text not in repr(trail)


async def test_whole_policy_of_a_client_is_kept(database_url: str) -> None:
    """Each field comes back as it was given; repeated values count once, in their order."""
    async with open_people(database_url) as runtime:
        await add_client(runtime, FULL)
        kept = await show_client(runtime, "full")

    assert kept.scopes == ("b", "a")
    assert kept.audiences == FULL.audiences
    assert kept.default_audience == FULL.default_audience
    assert kept.grant_types == frozenset(FULL.grant_types)
    for name in (
        "name",
        "is_public",
        "access_token_ttl_s",
        "access_token_typ",
        "refresh_idle_ttl_s",
        "refresh_absolute_ttl_s",
        "refresh_replay_window_s",
        "shadow_limit",
    ):
        assert getattr(kept, name) == getattr(FULL, name)


async def test_public_client_has_no_secret(sqlite_url: str) -> None:
    """RFC 6749 §2.1: it could not keep one; its name is its id unless given."""
    async with open_people(sqlite_url) as runtime:
        added, secret = await add_client(runtime, APP)

    assert secret is None
    assert added.secrets == ()
    assert added.name == "app"


async def test_taken_client_id_is_a_conflict_that_changes_nothing(database_url: str) -> None:
    """The first registration stays, secret included; of many at once one wins."""
    async with open_people(database_url) as runtime:
        outcomes = await asyncio.gather(
            *(add_client(runtime, BILLING) for _ in range(6)), return_exceptions=True
        )
        refused = [error for error in outcomes if isinstance(error, OperatorError)]
        assert [error.exit_code for error in refused] == [4] * 5
        before = await show_client(runtime, "billing")
        with pytest.raises(OperatorError, match="exists already"):
            await add_client(runtime, replace(APP, client_id="billing"))

        assert await show_client(runtime, "billing") == before
        assert len(before.secrets) == 1


async def test_impossible_registration_lists_all_problems_and_writes_nothing(
    sqlite_url: str,
) -> None:
    """One answer names every mistake, with exit code 2."""
    async with open_people(sqlite_url) as runtime:
        with pytest.raises(OperatorError) as refused:
            await add_client(
                runtime,
                NewClient(
                    "usr_x",
                    ("client_credentials", "implicit"),
                    scopes=("a b",),
                    audiences=("orders",),
                    is_public=True,
                    refresh_replay_window_s=301,
                ),
            )

        assert refused.value.exit_code == 2
        for told in ("usr_", "unknown", "public client", "scope", "absolute URI", "replay window"):
            assert told in refused.value.message
        assert [client.client_id for client in await list_clients(runtime)] == ["account"]


async def test_new_secret_lives_beside_the_old_ones(database_url: str) -> None:
    """A client moves to its new secret without an outage (case E 98)."""
    clock = StandingClock()
    async with open_people(database_url, clock) as runtime:
        added, _ = await add_client(runtime, BILLING)
        clock.at += 10
        record, secret = await rotate_secret(
            runtime, "billing", SecretRotation("blue", expires_in_s=90)
        )
        stored = await show_client(runtime, "billing")

    assert stored.secrets == (*added.secrets, record)
    assert record.secret_digest == hashlib.sha256(secret.reveal().encode()).digest()
    assert (record.label, record.created_at, record.expires_at) == (
        "blue",
        clock.at,
        clock.at + 90,
    )
    last = (await audit_trail(database_url))[-1]
    assert last.event is AuditEventType.CLIENT_SECRET_CREATED
    assert last.details == {"secret_id": record.secret_id}


async def test_other_secrets_end_after_the_overlap_and_never_later_than_before(
    database_url: str,
) -> None:
    """`--expire-others` shortens lives and lengthens none."""
    clock = StandingClock()
    async with open_people(database_url, clock) as runtime:
        first = (await add_client(runtime, BILLING))[0].secrets[0]
        soon, _ = await rotate_secret(runtime, "billing", SecretRotation("soon", expires_in_s=60))
        kept, _ = await rotate_secret(
            runtime, "billing", SecretRotation("kept", expire_others_in_s=3600)
        )
        stored = await show_client(runtime, "billing")

    assert {secret.secret_id: secret.expires_at for secret in stored.secrets} == {
        first.secret_id: clock.at + 3600,
        soon.secret_id: clock.at + 60,
        kept.secret_id: None,
    }


async def test_secrets_expired_at_once_are_cleared_at_the_next_rotation(database_url: str) -> None:
    """After a leak 0 ends the others now; monthly rotation never piles rows up."""
    async with open_people(database_url) as runtime:
        await add_client(runtime, BILLING)
        second, _ = await rotate_secret(
            runtime, "billing", SecretRotation("second", expire_others_in_s=0)
        )
        assert [
            secret.expires_at is None for secret in (await show_client(runtime, "billing")).secrets
        ].count(True) == 1
        third, _ = await rotate_secret(runtime, "billing", SecretRotation("third"))
        stored = await show_client(runtime, "billing")

    assert {secret.secret_id for secret in stored.secrets} == {second.secret_id, third.secret_id}


async def test_revoked_secret_is_gone_and_others_stay(database_url: str) -> None:
    """One secret ends at once, by its id, of its own client only."""
    async with open_people(database_url) as runtime:
        first = (await add_client(runtime, BILLING))[0].secrets[0]
        foreign = (await add_client(runtime, replace(BILLING, client_id="other")))[0].secrets[0]
        second, _ = await rotate_secret(runtime, "billing", SecretRotation("second"))
        left = await revoke_secret(runtime, "billing", first.secret_id)
        assert left.secrets == (second,)
        for unknown in (first.secret_id, foreign.secret_id, "cs_unknown"):
            with pytest.raises(OperatorError) as refused:
                await revoke_secret(runtime, "billing", unknown)
            assert refused.value.exit_code == 3
        assert (await show_client(runtime, "other")).secrets == (foreign,)
    trail = await audit_trail(database_url)
    revoked = [e for e in trail if e.event is AuditEventType.CLIENT_SECRET_REVOKED]
    assert [e.details for e in revoked] == [{"secret_id": first.secret_id}]


async def test_impossible_rotations_are_refused(sqlite_url: str) -> None:
    """A public client gets no secret, a client not more than ten, a label no control."""
    async with open_people(sqlite_url) as runtime:
        await add_client(runtime, APP)
        await add_client(runtime, BILLING)
        for _ in range(MAX_SECRETS - 1):
            await rotate_secret(runtime, "billing", SecretRotation("more"))
        for client_id, rotation, told in (
            ("app", SecretRotation("x"), "public client"),
            ("billing", SecretRotation("x"), "revoke one first"),
            ("billing", SecretRotation("a\nb"), "label"),
            ("billing", SecretRotation("x", expires_in_s=0), "at least a second"),
        ):
            with pytest.raises(OperatorError, match=told) as refused:
                await rotate_secret(runtime, client_id, rotation)
            assert refused.value.exit_code == 2
        assert len((await show_client(runtime, "billing")).secrets) == MAX_SECRETS


@pytest.mark.parametrize("end", ["disable", "delete"])
async def test_end_of_a_client_ends_its_sessions_and_no_others(database_url: str, end: str) -> None:
    """Its refresh tokens die in the same transaction, and no login can begin (case E 100)."""
    async with open_people(database_url) as runtime:
        user = await add_user(runtime, ALICE)
        await add_client(runtime, APP)
        await add_client(runtime, replace(APP, client_id="other"))
        assert await start_family(runtime, user, "app", 1) is not None
        assert await start_family(runtime, user, "other", 2) is not None
        if end == "disable":
            assert (await disable_client(runtime, "app")).is_enabled is False
        else:
            assert await delete_client(runtime, "app") == 1
    async with open_people(database_url) as runtime:
        assert await revoked_reason(runtime, 1) == f"client_{end}d"
        assert await revoked_reason(runtime, 2) is None
        assert await start_family(runtime, user, "app", 3) is None
        assert await start_family(runtime, user, "other", 4) is not None
    trail = await audit_trail(database_url)
    (ended,) = [event for event in trail if event.event.value == f"client.{end}d"]
    assert ended.details == {"sessions_ended": 1}


@pytest.mark.parametrize("end", [disable_client, delete_client])
async def test_end_of_a_client_racing_logins_leaves_no_live_session(
    database_url: str, end: object
) -> None:
    """However they interleave: a session is refused or revoked."""
    assert callable(end)
    async with open_people(database_url) as runtime:
        user = await add_user(runtime, ALICE)
        await add_client(runtime, APP)
        await asyncio.gather(
            *(start_family(runtime, user, "app", number) for number in range(1, 9)),
            end(runtime, "app"),
            *(start_family(runtime, user, "app", number) for number in range(9, 17)),
        )
        for number in range(1, 17):
            family = await find_family(runtime, number)
            assert family is None or family.revoked_at is not None


async def test_enabled_client_has_its_secrets_back_and_its_sessions_not(
    database_url: str,
) -> None:
    """Disabling is undone, the end of the sessions is not; both may be repeated."""
    async with open_people(database_url) as runtime:
        user = await add_user(runtime, ALICE)
        added, _ = await add_client(runtime, replace(APP, is_public=False))
        await start_family(runtime, user, "app")
        await disable_client(runtime, "app")
        await disable_client(runtime, "app")
        enabled = await enable_client(runtime, "app")
        assert await enable_client(runtime, "app") == enabled

        assert enabled.is_enabled is True
        assert enabled.secrets == added.secrets
        assert await revoked_reason(runtime) == "client_disabled"


async def test_deleted_client_id_starts_afresh(database_url: str) -> None:
    """Nothing of the old client works for a new one of the same id."""
    async with open_people(database_url) as runtime:
        user = await add_user(runtime, ALICE)
        old, _ = await add_client(runtime, replace(APP, is_public=False))
        await start_family(runtime, user, "app")
        await delete_client(runtime, "app")
        new, _ = await add_client(runtime, replace(APP, is_public=False))

        assert {s.secret_id for s in new.secrets}.isdisjoint(s.secret_id for s in old.secrets)
        assert (await show_client(runtime, "app")).secrets == new.secrets
        assert await revoked_reason(runtime) == "client_deleted"


async def test_unknown_clients_are_told_with_exit_code_3(sqlite_url: str) -> None:
    """Every verb on a client says the same of an unknown one."""
    async with open_people(sqlite_url) as runtime:
        for attempt in (
            show_client(runtime, "nobody"),
            disable_client(runtime, "nobody"),
            enable_client(runtime, "nobody"),
            delete_client(runtime, "nobody"),
            rotate_secret(runtime, "nobody", SecretRotation("x")),
            revoke_secret(runtime, "nobody", "cs_x"),
        ):
            with pytest.raises(OperatorError) as refused:
                await attempt
            assert refused.value.exit_code == 3
    assert await audit_trail(sqlite_url) == []


async def test_clients_are_listed_in_pages(sqlite_url: str) -> None:
    """Each client is on exactly one page, in the order of ids, with its secrets."""
    async with open_people(sqlite_url) as runtime:
        for number in range(5):
            await add_client(runtime, replace(BILLING, client_id=f"c{number}"))
        pages: list[Client] = []
        after = None
        while page := await list_clients(runtime, after, 2):
            pages += page
            after = page[-1].client_id

    built_in, *made = pages
    assert built_in.client_id == "account"
    assert [client.client_id for client in made] == ["c0", "c1", "c2", "c3", "c4"]
    assert all(len(client.secrets) == 1 for client in made)


async def test_built_in_client_is_disabled_but_never_deleted(sqlite_url: str) -> None:
    """The account API would not come back without its row; disabling is the way to close it."""
    async with open_people(sqlite_url) as runtime:
        with pytest.raises(OperatorError, match="disable") as refused:
            await delete_client(runtime, "account")
        assert refused.value.exit_code == 2
        assert (await disable_client(runtime, "account")).is_enabled is False
        assert (await enable_client(runtime, "account")).is_enabled is True
