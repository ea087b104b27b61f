"""`token-server session` as an operator types it."""

import asyncio

import pytest

from tests.support.command import Command
from tests.support.databases import TEST_EPOCH
from tests.support.people import PASSWORD, StandingClock, audit_trail, open_people, start_family
from token_server.records import AuditEventType
from token_server.services.users import NewUser, add_user

FUTURE = StandingClock(4_000_000_000)  # what the command's real clock has not reached


@pytest.fixture
def command(sqlite_url: str) -> Command:
    async def prepare() -> None:
        async with open_people(sqlite_url, FUTURE) as runtime:
            user = await add_user(runtime, NewUser("ada@example.org", "Ada", PASSWORD))
            for number in (1, 2):
                assert await start_family(runtime, user, "account", number) is not None

    asyncio.run(prepare())
    return Command(sqlite_url)


def test_list_shows_the_live_sessions_of_one_user(command: Command) -> None:
    """The newest first, with what tells them apart; never a token."""
    listed = command.json("session", "list", "ada@example.org")

    assert [each["id"] for each in listed] == [f"ses_{number:022}" for number in (2, 1)]
    assert listed[0] == {
        "id": f"ses_{2:022}",
        "user_id": listed[0]["user_id"],
        "client_id": "account",
        "label": None,
        "ip_address": None,
        "user_agent": None,
        "created_at": FUTURE.at,
        "last_used_at": FUTURE.at,
        "expires_at": FUTURE.at + 3600,
    }
    assert f"ses_{1:022}  account" in command("session", "list", "ada@example.org").stdout


def test_revoke_ends_one_and_may_be_repeated(command: Command, sqlite_url: str) -> None:
    """The other goes on; one audit event, whoever repeats it."""
    for _ in range(2):
        assert command.json("session", "revoke", f"ses_{1:022}")["id"] == f"ses_{1:022}"
    left = command.json("session", "list", "ada@example.org")

    assert [each["id"] for each in left] == [f"ses_{2:022}"]
    revoked = [
        event
        for event in asyncio.run(audit_trail(sqlite_url))
        if event.event is AuditEventType.SESSION_REVOKED
    ]
    assert [(event.actor, event.subject) for event in revoked] == [("operator", f"ses_{1:022}")]
    assert revoked[0].at != TEST_EPOCH


@pytest.mark.parametrize(
    "arguments", [("list", "nobody@example.org"), ("revoke", "ses_x"), ("revoke", "x'--")]
)
def test_unknown_user_or_session_is_exit_code_3(
    command: Command, arguments: tuple[str, ...]
) -> None:
    """One line on stderr, nothing on stdout."""
    result = command("session", *arguments)

    assert result.exit_code == 3, result.output
    assert "There is no such" in result.stderr
    assert result.stdout == ""


def test_nobody_is_logged_in(command: Command) -> None:
    """An empty list says so."""
    for number in (1, 2):
        command.json("session", "revoke", f"ses_{number:022}")
    assert command("session", "list", "ada@example.org").stdout == "No sessions.\n"
