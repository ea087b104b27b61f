"""Accounts: making, changing, ending, and proving that one is one's own; on both engines."""

import asyncio
import os
import time
from dataclasses import replace

import msgspec
import pytest

from tests.support.people import (
    CONTEXT,
    PASSWORD,
    StandingClock,
    audit_trail,
    find_family,
    open_people,
    revoked_reason,
    start_family,
)
from token_server.crypto import passwords
from token_server.crypto.argon2id import Argon2Cost
from token_server.crypto.hash_queue import HashCapacity
from token_server.crypto.passwords import PasswordHasher
from token_server.errors import OperatorError, UnavailableError
from token_server.records import AuditEventType, Secret, User
from token_server.runtime import Runtime
from token_server.services.clients import NewClient, add_client
from token_server.services.guessing import Door, Guess
from token_server.services.users import (
    NewUser,
    add_user,
    authenticate_user,
    disable_user,
    enable_user,
    list_users,
    set_password,
    show_user,
)
from token_server.storage import users

EMAIL = "Alice.Smith@example.com"
LOGIN = Guess(Door.LOGIN, EMAIL)
ALICE = NewUser(EMAIL, "Alice Smith", PASSWORD)
OTHER = Secret("an entirely other phrase")


async def add_alice_and_app(runtime: Runtime) -> User:
    await add_client(runtime, NewClient("app", ("password", "refresh_token"), is_public=True))
    return await add_user(runtime, ALICE)


async def test_added_user_is_durable_and_logs_in(database_url: str) -> None:
    """What `add` answered is there for the next process, under any spelling of the e-mail."""
    async with open_people(database_url) as runtime:
        added = await add_user(runtime, replace(ALICE, email=f" {EMAIL} "))
    async with open_people(database_url) as runtime:
        found = await authenticate_user(
            runtime, Guess(Door.LOGIN, "ALICE.smith@EXAMPLE.com"), PASSWORD, CONTEXT
        )

        assert found is not None
        assert (found.user_id, found.email, found.name) == (added.user_id, EMAIL, "Alice Smith")
        assert found.email_canonical == "alice.smith@example.com"
        assert added.user_id.startswith("usr_")
        assert len(added.user_id) == 26
        assert PASSWORD.reveal() not in found.password_hash.reveal()
    assert [event.event for event in await audit_trail(database_url)] == [
        AuditEventType.USER_CREATED
    ]


@pytest.mark.parametrize("email", ["alice.smith@EXAMPLE.com", "\uff21lice.smith@example.com"])
async def test_second_spelling_of_a_taken_email_is_a_conflict(
    database_url: str, email: str
) -> None:
    """One mailbox, one account (case F 106); the conflict leaves an audit event and no user."""
    async with open_people(database_url) as runtime:
        await add_user(runtime, ALICE)
        with pytest.raises(OperatorError) as refused:
            await add_user(runtime, replace(ALICE, email=email))

        assert refused.value.exit_code == 4
        assert email not in refused.value.message
        assert len(await list_users(runtime)) == 1
    created, conflict = await audit_trail(database_url)
    assert created.event is AuditEventType.USER_CREATED
    assert (conflict.event, conflict.subject, conflict.reason) == (
        AuditEventType.REGISTRATION_REFUSED,
        None,
        "email_taken",
    )


async def test_racing_registrations_of_one_email_make_one_account(database_url: str) -> None:
    """The database decides, not a look before the write."""
    async with open_people(database_url) as runtime:
        outcomes = await asyncio.gather(
            *(add_user(runtime, ALICE) for _ in range(8)), return_exceptions=True
        )

        assert sum(isinstance(outcome, User) for outcome in outcomes) == 1
        refused = [outcome for outcome in outcomes if isinstance(outcome, OperatorError)]
        assert [error.exit_code for error in refused] == [4] * 7
        assert len(await list_users(runtime)) == 1


async def test_all_problems_of_a_new_user_are_told_at_once(sqlite_url: str) -> None:
    """Nobody has to try again for each mistake, and nothing is half-written."""
    async with open_people(sqlite_url) as runtime:
        with pytest.raises(OperatorError) as refused:
            await add_user(runtime, NewUser("no at sign", "", Secret("short")))

        assert refused.value.exit_code == 2
        for told in ("e-mail", "name is empty", "at least 8"):
            assert told in refused.value.message
        assert await list_users(runtime) == []


@pytest.mark.parametrize(
    ("password", "told"),
    [
        ("password1", "common"),
        ("Alice Smith", "e-mail, the name"),
        ("alice.smith@example.com", "e-mail, the name"),
        ("x" * 101, "at most 100"),
        ("nul\x00inside", "control"),
    ],
)
async def test_refused_passwords_are_not_set(sqlite_url: str, password: str, told: str) -> None:
    """The same policy when an account is made and when a password is changed (F 115 to 119)."""
    async with open_people(sqlite_url) as runtime:
        with pytest.raises(OperatorError, match=told):
            await add_user(runtime, replace(ALICE, password=Secret(password)))
        await add_user(runtime, ALICE)
        with pytest.raises(OperatorError, match=told) as refused:
            await set_password(runtime, EMAIL, Secret(password))

        assert password not in refused.value.message
        assert await authenticate_user(runtime, LOGIN, PASSWORD, CONTEXT) is not None


async def test_password_typed_decomposed_logs_in_composed(sqlite_url: str) -> None:
    """NFC before hashing: one password on every keyboard; spaces stay (F 115, 121)."""
    async with open_people(sqlite_url) as runtime:
        await add_user(runtime, replace(ALICE, password=Secret(" caf\u0065\u0301 au lait ")))

        typed = Secret(" caf\u00e9 au lait ")
        trimmed = Secret("caf\u00e9 au lait")
        assert await authenticate_user(runtime, LOGIN, typed, CONTEXT) is not None
        assert await authenticate_user(runtime, LOGIN, trimmed, CONTEXT) is None


async def test_password_change_ends_sessions_in_the_same_transaction(database_url: str) -> None:
    """Afterwards no session from before it lives, and only the new password works (F 124)."""
    async with open_people(database_url) as runtime:
        alice = await add_alice_and_app(runtime)
        bob = await add_user(runtime, NewUser("bob@example.com", "Bob", PASSWORD))
        assert await start_family(runtime, alice, "app", 1) is not None
        assert await start_family(runtime, bob, "app", 2) is not None
        changed = await set_password(runtime, alice.user_id, OTHER)
        assert changed.credential_version == alice.credential_version + 1
    async with open_people(database_url) as runtime:
        assert await revoked_reason(runtime, 1) == "password_changed"
        assert await revoked_reason(runtime, 2) is None
        assert await authenticate_user(runtime, LOGIN, PASSWORD, CONTEXT) is None
        assert await authenticate_user(runtime, LOGIN, OTHER, CONTEXT) is not None
    events = await audit_trail(database_url)
    changes = [e for e in events if e.event is AuditEventType.USER_PASSWORD_CHANGED]
    assert [(e.subject, e.details, e.actor) for e in changes] == [
        (alice.user_id, {"sessions_ended": 1}, "operator")
    ]


@pytest.mark.parametrize("change", ["password", "disable"])
async def test_login_that_was_hashing_meanwhile_makes_no_session(
    database_url: str, change: str
) -> None:
    """The credentials as read before hashing are checked again by the write (refresh.md 9)."""
    async with open_people(database_url) as runtime:
        await add_alice_and_app(runtime)
        read = await authenticate_user(runtime, LOGIN, PASSWORD, CONTEXT)
        assert read is not None
        if change == "password":
            await set_password(runtime, EMAIL, OTHER)
        else:
            await disable_user(runtime, EMAIL)
            await enable_user(runtime, EMAIL)

        assert await start_family(runtime, read, "app") is None
        assert await find_family(runtime) is None


async def test_password_change_racing_logins_leaves_no_old_session(database_url: str) -> None:
    """However they interleave, no session of the old password survives (F 125)."""
    async with open_people(database_url) as runtime:
        await add_alice_and_app(runtime)

        async def log_in(number: int) -> None:
            elsewhere = msgspec.structs.replace(
                CONTEXT, ip_address=f"192.0.2.{number}"
            )  # a budget of its own
            read = await authenticate_user(runtime, LOGIN, PASSWORD, elsewhere)
            if read is not None:
                await start_family(runtime, read, "app", number)

        await asyncio.gather(
            *(log_in(number) for number in range(1, 13)), set_password(runtime, EMAIL, OTHER)
        )
        for number in range(1, 13):
            family = await find_family(runtime, number)
            assert family is None or family.revoked_reason == "password_changed"


async def test_disabled_user_cannot_log_in_until_enabled(database_url: str) -> None:
    """Disabling ends the sessions; enabling brings back the login and not the sessions."""
    async with open_people(database_url) as runtime:
        alice = await add_alice_and_app(runtime)
        await start_family(runtime, alice, "app")
        assert (await disable_user(runtime, EMAIL)).is_active is False
        assert await authenticate_user(runtime, LOGIN, PASSWORD, CONTEXT) is None
        assert await start_family(runtime, alice, "app", 2) is None
        assert (await enable_user(runtime, EMAIL)).is_active is True
        assert await authenticate_user(runtime, LOGIN, PASSWORD, CONTEXT) is not None
        assert await revoked_reason(runtime) == "user_disabled"
    events = [event.event for event in await audit_trail(database_url)]
    assert events.count(AuditEventType.USER_DISABLED) == 1
    assert events.count(AuditEventType.USER_ENABLED) == 1


async def test_disabling_and_enabling_may_be_repeated(sqlite_url: str) -> None:
    """A script that runs twice does no harm; enabling an active user changes nothing."""
    async with open_people(sqlite_url) as runtime:
        await add_user(runtime, ALICE)
        assert (await enable_user(runtime, EMAIL)).credential_version == 0
        await disable_user(runtime, EMAIL)
        assert (await disable_user(runtime, EMAIL)).is_active is False


@pytest.mark.parametrize(
    ("email", "password", "reason"),
    [
        (EMAIL, "wrong password", "password_wrong"),
        (EMAIL, "\ud800", "password_wrong"),
        (EMAIL, PASSWORD.reveal() + " ", "password_wrong"),
        ("nobody@example.com", PASSWORD.reveal(), "user_unknown"),
        ("no at sign", PASSWORD.reveal(), "user_unknown"),
        ("\ud800@example.com", PASSWORD.reveal(), "user_unknown"),
        ("", "", "user_unknown"),
        ("disabled@example.com", PASSWORD.reveal(), "user_disabled"),
        ("disabled@example.com", "wrong password", "password_wrong"),
    ],
)
async def test_failed_logins_look_alike_and_are_audited_apart(
    database_url: str, email: str, password: str, reason: str
) -> None:
    """None for each cause (F 102); the trail knows which, who and from where, and no e-mail."""
    async with open_people(database_url) as runtime:
        await add_user(runtime, ALICE)
        await add_user(runtime, NewUser("disabled@example.com", "Dis", PASSWORD))
        await disable_user(runtime, "disabled@example.com")

        assert (
            await authenticate_user(
                runtime, Guess(Door.LOGIN, email), Secret(password), CONTEXT, "app"
            )
            is None
        )
    failed = [e for e in await audit_trail(database_url) if e.event is AuditEventType.LOGIN_FAILED]
    assert [(e.reason, e.client_id, e.ip_address, e.request_id) for e in failed] == [
        (reason, "app", "192.0.2.7", "req-1")
    ]
    assert (failed[0].subject is None) is (reason == "user_unknown")
    assert not email or email not in repr(failed[0])


async def test_login_rehashes_under_new_parameters_once(database_url: str) -> None:
    """Raising the cost reaches each account at its next login, and ends no session."""
    async with open_people(database_url) as runtime:
        added = await add_user(runtime, ALICE)
    async with open_people(database_url, memory_kib=16) as runtime:
        assert await authenticate_user(runtime, LOGIN, Secret("wrong"), CONTEXT) is None
        assert (await show_user(runtime, EMAIL)).password_hash.reveal() == (
            added.password_hash.reveal()
        )
        assert await authenticate_user(runtime, LOGIN, PASSWORD, CONTEXT) is not None
        rehashed = await show_user(runtime, EMAIL)
        assert rehashed.password_hash.reveal().startswith("$argon2id$v=19$m=16,t=1,p=1$")
        assert rehashed.credential_version == added.credential_version
        assert await authenticate_user(runtime, LOGIN, PASSWORD, CONTEXT) is not None
        again = await show_user(runtime, EMAIL)
        assert again.password_hash.reveal() == rehashed.password_hash.reveal()


async def test_failing_rehash_does_not_fail_the_login(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rehash is a service to tomorrow; today's login is good without it."""
    async with open_people(sqlite_url) as runtime:
        await add_user(runtime, ALICE)

    def fail(*_args: object) -> str:  # where a new hash is made, and nowhere else
        raise UnavailableError("hash_failed")

    async with open_people(sqlite_url, memory_kib=16) as runtime:
        with monkeypatch.context() as patch:
            patch.setattr(passwords, "format_phc", fail)
            assert await authenticate_user(runtime, LOGIN, PASSWORD, CONTEXT) is not None
        assert "$m=8," in (await show_user(runtime, EMAIL)).password_hash.reveal()


async def test_unusable_stored_hash_fails_closed_with_an_alarm(database_url: str) -> None:
    """A damaged row is no way in and has an audit event of its own (case F 128)."""
    async with open_people(database_url) as runtime:
        added = await add_user(runtime, ALICE)
        async with runtime.store.write() as connection:
            broken = Secret("$argon2id$v=19$m=4194304,t=2,p=1$damaged")
            assert await users.rehash_password(connection, added.user_id, 0, broken)

        assert await authenticate_user(runtime, LOGIN, PASSWORD, CONTEXT) is None
    last = (await audit_trail(database_url))[-1]
    assert (last.event, last.subject) == (
        AuditEventType.PASSWORD_HASH_UNUSABLE,
        added.user_id,
    )


async def test_full_hash_queue_is_unavailable_and_not_a_failed_login(sqlite_url: str) -> None:
    """Load never tells somebody that their password is wrong (case F 126)."""
    async with open_people(sqlite_url) as runtime:
        await add_user(runtime, ALICE)
        narrow = PasswordHasher(
            Argon2Cost(8, 1, 1),
            HashCapacity(slots=1, queue=0),
            token_bytes=os.urandom,
            monotonic=time.monotonic,
        )
        busy = replace(runtime, hasher=narrow)
        answers = await asyncio.gather(
            *(
                authenticate_user(
                    busy,
                    LOGIN,
                    PASSWORD,
                    msgspec.structs.replace(CONTEXT, ip_address=f"192.0.2.{number}"),
                )
                for number in range(8)
            ),
            return_exceptions=True,
        )
        await narrow.close()

        assert any(isinstance(answer, User) for answer in answers)
        refused = [answer for answer in answers if not isinstance(answer, User)]
        assert all(isinstance(answer, UnavailableError) for answer in refused)
        assert refused


async def test_users_are_listed_in_pages(sqlite_url: str) -> None:
    """Each user is on exactly one page, in the order of ids."""
    async with open_people(sqlite_url) as runtime:
        for number in range(5):
            await add_user(runtime, NewUser(f"u{number}@example.com", "U", PASSWORD))
        first = await list_users(runtime, None, 2)
        second = await list_users(runtime, first[-1].user_id, 2)
        third = await list_users(runtime, second[-1].user_id, 2)

        ids = [user.user_id for user in (*first, *second, *third)]
        assert len(ids) == 5
        assert ids == sorted(set(ids))


@pytest.mark.parametrize("who", ["nobody@example.com", "usr_" + "x" * 22, "", "x", "a b@c"])
async def test_unknown_users_are_told_with_exit_code_3(sqlite_url: str, who: str) -> None:
    """Every verb on a user says the same of an unknown one."""
    async with open_people(sqlite_url) as runtime:
        for verb in (show_user, disable_user, enable_user):
            with pytest.raises(OperatorError) as refused:
                await verb(runtime, who)
            assert refused.value.exit_code == 3
        with pytest.raises(OperatorError) as refused:
            await set_password(runtime, who, OTHER)
        assert refused.value.exit_code == 3


async def test_instants_come_from_the_clock(sqlite_url: str) -> None:
    """Creation and change carry the runtime's time."""
    clock = StandingClock()
    async with open_people(sqlite_url, clock) as runtime:
        added = await add_user(runtime, ALICE)
        clock.at += 60
        changed = await set_password(runtime, EMAIL, OTHER)

        assert (added.created_at, added.password_changed_at) == (clock.at - 60, clock.at - 60)
        assert (changed.created_at, changed.password_changed_at) == (clock.at - 60, clock.at)
