"""`token-server keys`, as a person and as a script run it."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from token_server.cli.main import cli


@pytest.fixture
def keys_dir(tmp_path: Path) -> Path:
    return tmp_path / "keys"


def run(keys_dir: Path, *arguments: str) -> Result:
    # No environment but the directory: settings of the machine must not change a test.
    return CliRunner().invoke(cli, ["--keys-dir", str(keys_dir), "keys", *arguments])


def test_init_makes_keys_without_a_database_and_list_shows_them(keys_dir: Path) -> None:
    """A person sees states and dates; the second init says that nothing was to be done."""
    made = run(keys_dir, "init")
    assert made.exit_code == 0, made.output
    assert made.stdout.startswith("Made signing keys.\n")
    assert run(keys_dir, "init").stdout.startswith("Signing keys exist already and are good.\n")
    listed = run(keys_dir, "list")
    assert listed.exit_code == 0
    rows = [line.split() for line in listed.stdout.splitlines()[2:]]
    assert [row[0] for row in rows] == ["active", "next"]
    assert {f"{row[1]}.pem" for row in rows} == {path.name for path in keys_dir.glob("*.pem")}
    assert [path.name for path in keys_dir.parent.iterdir()] == ["keys"]


def test_json_is_for_scripts(keys_dir: Path) -> None:
    """One line of JSON with fixed members, the same from init and list but for `is_new`."""
    made = json.loads(run(keys_dir, "init", "--json").stdout)
    listed = json.loads(run(keys_dir, "list", "--json").stdout)
    assert made.pop("is_new") is True
    assert listed.pop("is_new") is False
    assert made == listed
    assert set(made) == {
        "keyring_id",
        "generation",
        "key_store",
        "keys_dir",
        "keys",
        "warnings",
    }
    assert set(made["keys"][0]) == {
        "kid",
        "state",
        "alg",
        "bits",
        "created_at",
        "published_at",
        "activate_at",
        "retire_at",
        "compromised_at",
    }
    assert [key["state"] for key in made["keys"]] == ["active", "next"]


def test_list_without_keys_is_not_found(keys_dir: Path) -> None:
    """Exit code 3, one line that says what to do, and nothing is made."""
    result = run(keys_dir, "list")
    assert (result.exit_code, result.stdout) == (3, "")
    assert "token-server keys init" in result.stderr
    assert not keys_dir.exists()


def test_wrong_modes_are_listed_with_their_fixes(keys_dir: Path) -> None:
    """All problems at once on stderr, exit code 1, no traceback."""
    run(keys_dir, "init")
    for path in keys_dir.glob("*.pem"):
        path.chmod(0o644)
    result = run(keys_dir, "list", "--json")
    assert (result.exit_code, result.stdout) == (1, "")
    for path in keys_dir.glob("*.pem"):
        assert f"chmod 600 {path}" in result.stderr
    assert "Traceback" not in result.stderr


def test_world_readable_master_key_is_warned_of_on_stderr(keys_dir: Path, tmp_path: Path) -> None:
    """The warning does not disturb a script that reads stdout."""
    secret = tmp_path / "secret"
    secret.write_text("1:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8\n")
    secret.chmod(0o644)
    result = CliRunner().invoke(
        cli,
        [
            *("--keys-dir", str(keys_dir), "--master-key-file", str(secret)),
            *("keys", "init", "--json"),
        ],
    )
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["is_new"] is True
    assert str(secret) in result.stderr


def test_help_explains_the_states(keys_dir: Path) -> None:
    """A stranger learns from the help what the words in the list mean."""
    text = run(keys_dir, "--help").stdout
    for word in ("next", "active", "retiring", "retired", "compromised"):
        assert f"`{word}`" in text or word in text
