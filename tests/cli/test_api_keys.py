"""`token-server user api-keys` and `user revoke-api-key` as an operator types them."""

import asyncio
from dataclasses import dataclass

import pytest

from tests.support.api_keys import EMAIL, SCOPES, add_owner, make_key
from tests.support.command import Command
from tests.support.people import StandingClock, audit_trail, open_people
from token_server.records import AuditEventType

FUTURE = StandingClock(4_000_000_000)  # what the command's real clock has not reached


@dataclass(frozen=True)
class Keys:
    """The command line, and the ids of two keys, the newest first."""

    run: Command
    ids: list[str]
    secrets: list[str]


@pytest.fixture
def keys(sqlite_url: str) -> Keys:
    async def prepare() -> Keys:
        async with open_people(sqlite_url, FUTURE) as runtime:
            user = await add_owner(runtime)
            old, old_text = await make_key(runtime, user, expires_at=FUTURE.at + 60)
            FUTURE.at += 1
            new, new_text = await make_key(runtime, user, ())
            return Keys(Command(sqlite_url), [new.key_id, old.key_id], [new_text, old_text])

    return asyncio.run(prepare())


def test_list_shows_the_live_keys_of_one_user(keys: Keys) -> None:
    """By e-mail or id, the newest first; never the secret."""
    listed = keys.run.json("user", "api-keys", EMAIL)
    assert [each["id"] for each in listed] == keys.ids
    assert listed[1] == {
        "id": keys.ids[1],
        "user_id": listed[1]["user_id"],
        "name": "Nightly export",
        "scopes": list(SCOPES),
        "created_at": FUTURE.at - 1,
        "expires_at": FUTURE.at + 59,
        "last_used_at": None,
    }
    assert keys.run.json("user", "api-keys", listed[1]["user_id"]) == listed
    shown = keys.run("user", "api-keys", EMAIL).stdout
    assert all(key_id in shown for key_id in keys.ids)
    assert not any(secret in shown for secret in keys.secrets)


def test_one_key_is_revoked_and_the_other_stays(keys: Keys, sqlite_url: str) -> None:
    """Repeating it says that there is no such key any more: exit code 3."""
    new, old = keys.ids
    assert keys.run.json("user", "revoke-api-key", EMAIL, old) == {"revoked": [old]}
    assert [each["id"] for each in keys.run.json("user", "api-keys", EMAIL)] == [new]
    again = keys.run("user", "revoke-api-key", EMAIL, old)
    assert again.exit_code == 3
    assert "user api-keys" in again.stderr
    found = [
        (event.actor, event.subject)
        for event in asyncio.run(audit_trail(sqlite_url))
        if event.event is AuditEventType.API_KEY_REVOKED
    ]
    assert found == [("operator", old)]


def test_all_keys_are_revoked_at_once(keys: Keys) -> None:
    """And saying so twice is harmless."""
    revoked = keys.run.json("user", "revoke-api-key", EMAIL, "--all")["revoked"]
    assert sorted(revoked) == sorted(keys.ids)
    assert keys.run("user", "revoke-api-key", EMAIL, "--all").stdout == "Revoked 0 API keys.\n"
    assert keys.run("user", "api-keys", EMAIL).stdout == "No API keys.\n"


@pytest.mark.parametrize("arguments", [(), ("key_x", "--all")])
def test_what_to_revoke_has_to_be_said(keys: Keys, arguments: tuple[str, ...]) -> None:
    """One key or all: neither by default, nor both."""
    refused = keys.run("user", "revoke-api-key", EMAIL, *arguments)
    assert refused.exit_code == 2
    assert len(keys.run.json("user", "api-keys", EMAIL)) == 2


def test_nobody_has_no_keys(keys: Keys) -> None:
    """An unknown user is said to be unknown: exit code 3."""
    for command in (("api-keys",), ("revoke-api-key", "--all")):
        refused = keys.run("user", command[0], "nobody@example.org", *command[1:])
        assert refused.exit_code == 3
