"""`token-server user` as a person types it."""

from typing import Any

import pytest

from tests.support.command import Command

PASSWORD = "correct horse battery staple"
EMAIL = "Alice@example.com"


@pytest.fixture
def command(sqlite_url: str) -> Command:
    return Command(sqlite_url)


def add_alice(command: Command) -> Any:
    return command.json(
        "user", "add", EMAIL, "--name", "Alice", "--password-stdin", stdin=f"{PASSWORD}\n"
    )


def test_add_prints_the_user_and_no_secret(command: Command) -> None:
    """The JSON of a user is pinned; neither password nor hash is part of it."""
    added = add_alice(command)

    assert sorted(added) == [
        "created_at",
        "email",
        "id",
        "is_active",
        "last_login_at",
        "name",
        "password_changed_at",
        "roles",
        "updated_at",
    ]
    assert (added["email"], added["name"], added["is_active"]) == (EMAIL, "Alice", True)
    assert added["id"].startswith("usr_")
    assert added["last_login_at"] is None


def test_add_works_on_an_empty_database_file(tmp_path: Any) -> None:
    """The first command makes the database; no server needs to have run."""
    command = Command(f"sqlite:///{tmp_path / 'new' / 'token-server.db'}")

    assert add_alice(command) == command.json("user", "show", EMAIL)


def test_user_is_found_by_email_and_by_id(command: Command) -> None:
    """Both names of a user work everywhere, in any case of the e-mail."""
    added = add_alice(command)

    assert command.json("user", "show", "ALICE@EXAMPLE.COM") == added
    assert command.json("user", "show", added["id"]) == added
    assert command.json("user", "list") == [added]


def test_password_is_asked_twice_and_not_echoed(command: Command) -> None:
    """Without --password-stdin the command prompts; a slip of the hand is noticed."""
    result = command("user", "add", EMAIL, "--name", "Alice", stdin=f"{PASSWORD}\n{PASSWORD}\n")
    slip = command("user", "add", "b@example.com", "--name", "B", stdin=f"{PASSWORD}\nother\n")

    assert result.exit_code == 0, result.output
    assert PASSWORD not in result.output
    assert slip.exit_code == 1
    assert len(command.json("user", "list")) == 1


@pytest.mark.parametrize(
    ("arguments", "stdin", "exit_code", "told"),
    [
        (("add", "alice@EXAMPLE.com", "--name", "B", "--password-stdin"), PASSWORD, 4, "exists"),
        (("add", "no-at-sign", "--name", "B", "--password-stdin"), PASSWORD, 2, '"@"'),
        (("add", "b@example.com", "--name", "B", "--password-stdin"), "password1\n", 2, "common"),
        (("add", "b@example.com", "--name", "B", "--password-stdin"), "\n", 2, "no secret"),
        (("add", "b@example.com", "--password-stdin"), PASSWORD, 2, "--name"),
        (("passwd", EMAIL, "--password-stdin"), "short", 2, "at least 8"),
        (("passwd", "nobody@example.com", "--password-stdin"), PASSWORD, 3, "no such user"),
        (("passwd", "nobody@example.com"), "", 3, "no such user"),
        (("show", "nobody@example.com"), "", 3, "no such user"),
        (("disable", "usr_unknown"), "", 3, "no such user"),
        (("enable", "usr_unknown"), "", 3, "no such user"),
        (("list", "--limit", "0"), "", 2, "limit"),
    ],
)
def test_mistakes_are_one_line_with_their_exit_code(
    command: Command, arguments: tuple[str, ...], stdin: str, exit_code: int, told: str
) -> None:
    """Exit codes of docs/cli.md; the message is on stderr, and stdout stays empty."""
    add_alice(command)
    result = command("user", *arguments, stdin=stdin)

    assert result.exit_code == exit_code, result.output
    assert told in result.stderr
    assert result.stdout == ""
    assert "Traceback" not in result.output


def test_passwd_disable_and_enable_change_what_show_tells(command: Command) -> None:
    """Each change is durable: seen by the next command."""
    added = add_alice(command)
    command.json("user", "passwd", EMAIL, "--password-stdin", stdin="an entirely other phrase\n")
    disabled = command.json("user", "disable", EMAIL)
    assert disabled["is_active"] is False
    assert command.json("user", "show", EMAIL) == disabled
    enabled = command.json("user", "enable", added["id"])

    assert enabled["is_active"] is True
    assert enabled["password_changed_at"] >= added["password_changed_at"]


def test_people_get_text_with_dates(command: Command) -> None:
    """Without --json: labelled lines, UTC dates, a list that says when it is empty."""
    assert command("user", "list").stdout == "No users.\n"
    add_alice(command)
    shown = command("user", "show", EMAIL).stdout

    assert "Alice@example.com" in shown
    assert " UTC" in shown
    assert "never" in shown
    assert "argon2" not in shown
    assert "There may be more" in command("user", "list", "--limit", "1").stdout


def test_email_and_name_are_changed_together_or_alone(command: Command) -> None:
    """The user is found under the new e-mail only; a taken or impossible one changes nothing."""
    added = add_alice(command)
    other = ("user", "add", "bob@example.com", "--name", "Bob", "--password-stdin")
    command.json(*other, stdin=f"{PASSWORD}\n")
    changed = command.json("user", "change", EMAIL, "--email", "Al@example.com", "--name", "Al")

    assert (changed["id"], changed["email"], changed["name"]) == (
        added["id"],
        "Al@example.com",
        "Al",
    )
    assert command("user", "show", EMAIL).exit_code == 3
    assert command("user", "change", "al@example.com", "--email", "BOB@example.com").exit_code == 4
    assert command("user", "change", "al@example.com", "--email", "al").exit_code == 2
    assert command("user", "change", "al@example.com", "--name", "\n").exit_code == 2
    assert command("user", "change", "al@example.com").exit_code == 2
    assert command.json("user", "change", "al@example.com", "--email", "AL@example.com")[
        "name"
    ] == ("Al")


def test_roles_are_set_as_a_whole(command: Command) -> None:
    """Words in any order, each once; an empty text takes them away; an impossible one changes
    nothing."""
    add_alice(command)
    assert command.json("user", "roles", EMAIL) == []
    given = command.json("user", "roles", EMAIL, "--set", "support auditor support")

    assert given == ["auditor", "support"]
    assert command.json("user", "show", EMAIL)["roles"] == given
    for wrong in ('"', "-x", "ä", "a" * 65, " ".join(f"r{number}" for number in range(33))):
        assert command("user", "roles", EMAIL, "--set", wrong).exit_code == 2
    assert command("user", "roles", EMAIL).stdout == "auditor\nsupport\n"
    assert command.json("user", "roles", EMAIL, "--set", "") == []
    events = command("audit", "tail", "--json").stdout
    assert events.count("user.roles_changed") == 2
    assert '"roles":"auditor support"' in events.replace(": ", ":")
