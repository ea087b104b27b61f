"""`token-server client` as a person types it."""

import json
from typing import Any

import pytest

from tests.support.command import Command
from token_server.core.opaque import is_well_formed

POLICY = [
    "access_token_ttl_s",
    "access_token_typ",
    "audiences",
    "client_id",
    "created_at",
    "default_audience",
    "exchange_audiences",
    "grant_types",
    "is_enabled",
    "is_public",
    "is_revocable",
    "name",
    "refresh_absolute_ttl_s",
    "refresh_idle_ttl_s",
    "refresh_replay_window_s",
    "scopes",
    "secrets",
    "serves_audiences",
    "shadow_limit",
    "updated_at",
]


@pytest.fixture
def command(sqlite_url: str) -> Command:
    return Command(sqlite_url)


def add_billing(command: Command) -> Any:
    return command.json(
        *("client", "add", "billing", "--grant", "client_credentials"),
        *("--scope", "orders:read", "--audience", "https://orders.example"),
    )


def test_add_prints_the_secret_once(command: Command) -> None:
    """`client_id` and `client_secret` come first; no later command shows the secret again."""
    added = add_billing(command)
    secret = added.pop("client_secret")

    assert is_well_formed("ts_", secret)
    assert sorted(added) == POLICY
    assert command.json("client", "show", "billing") == added
    assert command.json("client", "list", "--after", "account") == [added]
    for arguments in (("client", "show", "billing"), ("client", "list"), ("audit", "tail")):
        assert secret not in command(*arguments).output


def test_public_client_prints_no_secret(command: Command) -> None:
    """There is none, and the member is absent rather than empty."""
    added = command.json(
        "client", "add", "app", "--public", "--grant", "password", "--grant", "refresh_token"
    )

    assert sorted(added) == POLICY
    assert added["is_public"] is True
    assert added["secrets"] == []


def test_resource_server_needs_no_grant(command: Command) -> None:
    """A service that only introspects names the audience that it is (RFC 7662 §2.1)."""
    added = command.json("client", "add", "orders", "--serves", "https://orders.example")

    assert (added["serves_audiences"], added["grant_types"]) == (["https://orders.example"], [])
    assert command.json("client", "show", "orders")["serves_audiences"] == added["serves_audiences"]
    refused = command("client", "add", "spa", "--public", "--serves", "https://orders.example")
    assert (refused.exit_code, "cannot introspect" in refused.stderr) == (2, True)


def test_machine_tokens_are_made_revocable(command: Command) -> None:
    """`--revocable` is kept, and pointed out where it does nothing."""
    arguments = ("--revocable", "--scope", "a")
    added = command.json("client", "add", "job", "--grant", "client_credentials", *arguments)
    assert added["is_revocable"] is True
    idle = command("client", "add", "app", "--public", "--grant", "password", *arguments)
    assert "revocable does nothing here" in idle.stderr


def test_policy_options_take_durations(command: Command) -> None:
    """Units as in the settings; what is not given stays null, the server's setting."""
    added = command.json(
        *("client", "add", "app", "--public", "--grant", "password", "--grant", "refresh_token"),
        *("--access-token-ttl", "5m", "--refresh-idle-ttl", "12h", "--refresh-absolute-ttl", "7d"),
        *("--replay-window", "0", "--access-token-typ", "JWT", "--shadow-limit", "3"),
        *("--default-audience", "urn:example:all", "--name", "The app"),
    )

    assert added["access_token_ttl_s"] == 300
    assert added["refresh_idle_ttl_s"] == 43200
    assert added["refresh_absolute_ttl_s"] == 604800
    assert added["refresh_replay_window_s"] == 0
    assert (added["access_token_typ"], added["shadow_limit"]) == ("JWT", 3)
    assert (added["default_audience"], added["name"]) == (["urn:example:all"], "The app")


EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
GATEWAY = (
    *("client", "add", "gateway", "--scope", "orders:read", "--serves", "https://gateway.example"),
    *("--exchange-audience", "https://orders.example"),
)


@pytest.mark.parametrize("name", ["token-exchange", EXCHANGE])
def test_exchange_policy_is_registered_by_its_short_name_or_its_own(
    command: Command, name: str
) -> None:
    """Stored and shown is always the name of RFC 8693 §2.1."""
    added = command.json(*GATEWAY, "--grant", name)

    assert added["grant_types"] == [EXCHANGE]
    assert added["exchange_audiences"] == ["https://orders.example"]
    assert "exchanges for     https://orders.example" in command("client", "show", "gateway").stdout


def test_change_replaces_what_is_named_and_keeps_the_rest(command: Command) -> None:
    """An option stands for the whole of its list, an empty text for nothing."""
    before = add_billing(command)
    del before["client_secret"]
    changed = command.json(
        *("client", "change", "billing", "--grant", "client_credentials"),
        *("--grant", "token-exchange", "--serves", "urn:a", "--serves", "urn:b", "--revocable"),
        *("--exchange-audience", "urn:c", "--name", "Bills"),
    )
    expected = {
        "grant_types": ["client_credentials", EXCHANGE],
        "serves_audiences": ["urn:a", "urn:b"],
        "exchange_audiences": ["urn:c"],
        "is_revocable": True,
        "name": "Bills",
    }

    assert changed == {**before, **expected, "updated_at": changed["updated_at"]}
    cleared = command.json(
        *("client", "change", "billing", "--serves", "", "--not-revocable"),
        *("--grant", "client_credentials", "--exchange-audience", ""),
    )
    assert cleared == {**before, "name": "Bills", "updated_at": cleared["updated_at"]}
    assert command.json("client", "show", "billing") == cleared
    newest, older = command("audit", "tail", "--json").stdout.splitlines()[::-1][:2]
    assert json.loads(newest)["event"] == json.loads(older)["event"] == "client.changed"
    assert json.loads(newest)["details"] == {
        "changed": "grant_types serves_audiences exchange_audiences is_revocable"
    }


def test_built_in_client_is_given_scopes(command: Command) -> None:
    """What logins at the account API and API keys may be given is the operator's to say."""
    changed = command.json("client", "change", "account", "--scope", "a", "--scope", "b")
    assert changed["scopes"] == ["a", "b"]
    assert command.json("client", "change", "account", "--scope", "")["scopes"] == []


@pytest.mark.parametrize(
    ("arguments", "exit_code", "told"),
    [
        (("billing",), 2, "Say what is to change"),
        (("billing", "--grant", ""), 2, "at least one --grant"),
        (("billing", "--grant", "token-exchange"), 2, "--exchange-audience"),
        (("billing", "--audience", "orders"), 2, "absolute URI"),
        (("nobody", "--scope", "a"), 3, "no such client"),
        (("account", "--scope", "a", "--audience", "urn:a"), 2, "only --scope"),
    ],
)
def test_change_that_cannot_be_changes_nothing(
    command: Command, arguments: tuple[str, ...], exit_code: int, told: str
) -> None:
    """The registration is judged as a whole, and the built-in client stays what it is."""
    before = add_billing(command)
    result = command("client", "change", *arguments)

    assert (result.exit_code, result.stdout) == (exit_code, ""), result.output
    assert told in result.stderr
    del before["client_secret"]
    assert command.json("client", "show", "billing") == before


@pytest.mark.parametrize(
    ("arguments", "exit_code", "told"),
    [
        (("add", "billing", "--grant", "client_credentials"), 4, "exists already"),
        (("add", "x"), 2, "--grant"),
        (("add", "x", "--grant", "implicit"), 2, "a grant is unknown"),
        (("add", "x", "--grant", "client_credentials", "--public"), 2, "public client"),
        (("add", "usr_x", "--grant", "password"), 2, "usr_"),
        (("add", "x", "--grant", "password", "--audience", "orders"), 2, "absolute URI"),
        (("add", "x", "--grant", "password", "--replay-window", "301"), 2, "replay window"),
        (("add", "x", "--grant", "password", "--access-token-ttl", "1 day"), 2, "duration"),
        (("add", "x", "--grant", "password", "--access-token-ttl", "-1"), 2, "duration"),
        (("show", "nobody"), 3, "no such client"),
        (("disable", "nobody"), 3, "no such client"),
        (("enable", "nobody"), 3, "no such client"),
        (("delete", "nobody", "--yes"), 3, "no such client"),
        (("rotate-secret", "nobody"), 3, "no such client"),
        (("rotate-secret", "billing", "--revoke", "cs_unknown"), 3, "no such secret"),
        (("rotate-secret", "billing", "--revoke", "cs_x", "--expires", "1d"), 2, "--revoke"),
    ],
)
def test_mistakes_are_one_line_with_their_exit_code(
    command: Command, arguments: tuple[str, ...], exit_code: int, told: str
) -> None:
    """Exit codes of docs/cli.md; the message is on stderr, and stdout stays empty."""
    add_billing(command)
    result = command("client", *arguments)

    assert result.exit_code == exit_code, result.output
    assert told in result.stderr
    assert result.stdout == ""
    assert "Traceback" not in result.output
    ids = [each["client_id"] for each in command.json("client", "list")]
    assert ids == ["account", "billing"]


def test_rotation_prints_a_new_secret_and_can_end_the_others(command: Command) -> None:
    """The way of the help text: overlap of seven days; after a leak, none."""
    first = add_billing(command)
    second = command.json("client", "rotate-secret", "billing", "--expire-others", "7d")
    shown = command.json("client", "show", "billing")["secrets"]

    assert is_well_formed("ts_", second["client_secret"])
    assert second["client_secret"] != first["client_secret"]
    assert {each["secret_id"]: each["expires_at"] for each in shown} == {
        first["secrets"][0]["secret_id"]: second["created_at"] + 7 * 86400,
        second["secret_id"]: None,
    }
    third = command.json("client", "rotate-secret", "billing", "--expire-others", "0")
    ends = {
        s["secret_id"]: s["expires_at"]
        for s in command.json("client", "show", "billing")["secrets"]
    }
    assert ends.pop(third["secret_id"]) is None
    assert set(ends.values()) == {third["created_at"]}


def test_revoke_ends_one_secret_and_makes_none(command: Command) -> None:
    """`--revoke` takes the id that `show` lists."""
    add_billing(command)
    second = command.json(
        "client", "rotate-secret", "billing", "--label", "blue", "--expires", "90d"
    )
    left = command.json("client", "rotate-secret", "billing", "--revoke", second["secret_id"])

    assert second["expires_at"] == second["created_at"] + 90 * 86400
    assert [each["label"] for each in left["secrets"]] == ["first"]


def test_delete_asks_first(command: Command) -> None:
    """No answer and no are no; --yes does not ask."""
    add_billing(command)
    for answer in ("", "n\n"):
        assert command("client", "delete", "billing", stdin=answer).exit_code == 1
    assert command.json("client", "show", "billing")["client_id"] == "billing"
    deleted = command.json("client", "delete", "billing", "--yes")

    assert deleted == {"client_id": "billing", "sessions_ended": 0}
    assert command.json("client", "list", "--after", "account") == []


def test_disable_and_enable_are_seen_by_the_next_command(command: Command) -> None:
    """Each change is durable."""
    add_billing(command)
    assert command.json("client", "disable", "billing")["is_enabled"] is False
    assert command.json("client", "show", "billing")["is_enabled"] is False
    assert command.json("client", "enable", "billing")["is_enabled"] is True


def test_doubtful_registrations_warn_on_stderr(command: Command) -> None:
    """stdout stays one line of JSON for scripts."""
    result = command(
        *("client", "add", "x", "--grant", "client_credentials", "--grant", "refresh_token"),
        "--json",
    )

    assert result.exit_code == 0
    assert json.loads(result.stdout)["client_id"] == "x"
    assert "Warning: refresh_token does nothing here" in result.stderr


def test_people_get_text_and_are_told_to_keep_the_secret(command: Command) -> None:
    """Without --json: labelled lines, and a list that says when it is empty."""
    assert command("client", "list", "--after", "account").stdout == "No clients.\n"
    added = command("client", "add", "billing", "--grant", "client_credentials").stdout
    rotated = command("client", "rotate-secret", "billing").stdout
    shown = command("client", "show", "billing").stdout

    assert "Keep the secret now" in added
    assert "Keep the secret now" in rotated
    assert "ts_" not in shown
    assert shown.count("cs_") == 2
    assert "There may be more" in command("client", "list", "--limit", "1").stdout
