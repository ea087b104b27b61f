"""`token-server db` and `token-server audit` on both engines."""

import json
import sqlite3
from pathlib import Path

import pytest

from tests.support.command import Command


@pytest.fixture
def command(database_url: str) -> Command:
    return Command(database_url)


def test_status_shows_the_schema(command: Command) -> None:
    """The revision, and whether it is this release's."""
    status = command.json("db", "status")

    assert status["is_current"] is True
    assert status["revision"] == status["head"]
    assert status["epoch"] == 0
    assert status["size_bytes"] > 0
    assert "Schema" in command("db", "status").stdout


def test_status_of_an_empty_database_is_exit_code_3(empty_database_url: str) -> None:
    """Nothing there is no failure of the command, and a script can tell."""
    result = Command(empty_database_url)("db", "status")

    assert result.exit_code == 3


def test_status_makes_no_database(tmp_path: Path) -> None:
    """Looking must not create what it looks for."""
    result = Command(f"sqlite:///{tmp_path}/none.db")("db", "status", "--json")

    assert result.exit_code == 3
    assert json.loads(result.stdout)["exists"] is False
    assert list(tmp_path.iterdir()) == []


def test_upgrade_works_once_and_says_so(empty_database_url: str) -> None:
    """Safe to repeat; the first one is in the audit trail."""
    command = Command(empty_database_url)

    assert command.json("db", "upgrade") == {"upgraded": True}
    assert command.json("db", "upgrade") == {"upgraded": False}
    assert command.json("audit", "tail")["event"] == "database.upgraded"


def test_backup_is_a_whole_database(sqlite_url: str, tmp_path: Path) -> None:
    """Private to its owner, complete, never over an existing file."""
    command = Command(sqlite_url)
    command(
        "user", "add", "a@example.com", "--name", "A", "--password-stdin", stdin="correct horse\n"
    )
    target = tmp_path / "backup.db"

    assert command.json("db", "backup", str(target)) == {"target": str(target)}
    assert command("db", "backup", str(target)).exit_code == 4

    assert target.stat().st_mode & 0o777 == 0o600
    with sqlite3.connect(target) as copy:
        assert copy.execute("SELECT count(*) FROM users").fetchone() == (1,)
    copy.close()


def test_backup_of_postgresql_names_its_tool(postgres_url: str, tmp_path: Path) -> None:
    """An honest refusal: pg_dump does it better."""
    result = Command(postgres_url)("db", "backup", str(tmp_path / "x"))

    assert result.exit_code == 1
    assert "pg_dump" in result.stderr


def test_backup_without_a_database_is_exit_code_3(tmp_path: Path) -> None:
    """An empty backup of a database that was never there would be found out too late."""
    result = Command(f"sqlite:///{tmp_path}/none.db")("db", "backup", str(tmp_path / "x"))

    assert result.exit_code == 3
    assert list(tmp_path.iterdir()) == []


def test_restored_raises_the_epoch_each_time(command: Command) -> None:
    """Every restore makes all refresh tokens of before worthless (refresh.md 11)."""
    assert command.json("db", "restored", "--yes") == {"epoch": 1}
    assert command.json("db", "restored", "--yes") == {"epoch": 2}
    assert command.json("db", "status")["epoch"] == 2
    assert command.json("audit", "tail", "-n", "1")["event"] == "database.restored"


def test_restored_asks_first(command: Command) -> None:
    """Everybody is logged out: not by a slip."""
    result = command("db", "restored", stdin="n\n")

    assert result.exit_code == 1
    assert command.json("db", "status")["epoch"] == 0


def test_prune_keeps_audit_events_unless_asked(command: Command) -> None:
    """Evidence goes only when its age is named."""
    command.json("db", "restored", "--yes")

    assert command.json("db", "prune") == {
        "sessions": 0,
        "audit_events": 0,
        "throttles": 0,
        "machine_blocks": 0,
        "denied_tokens": 0,
        "api_keys": 0,
    }
    assert command.json("db", "prune", "--audit-older-than", "1d")["audit_events"] == 0


def test_tail_shows_the_newest_last(command: Command) -> None:
    """As `tail` does; the text names event, actor and details."""
    for _ in range(3):
        command.json("db", "restored", "--yes")

    text = command("audit", "tail", "-n", "2").stdout.splitlines()
    rows = [json.loads(x) for x in command("audit", "tail", "--json").stdout.splitlines()]

    assert [line.endswith(f"epoch={n}") for line, n in zip(text, (2, 3), strict=True)]
    assert all("database.restored" in line and "actor=operator" in line for line in text)
    assert [row["details"]["epoch"] for row in rows] == [1, 2, 3]
    assert [row["id"] for row in rows] == sorted(row["id"] for row in rows)


def test_tail_of_nothing_is_nothing(command: Command) -> None:
    """No events, no lines, no failure."""
    result = command("audit", "tail", "-n", "0")

    assert (result.exit_code, result.stdout) == (0, "")
