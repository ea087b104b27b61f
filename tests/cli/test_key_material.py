"""`token-server keys export | import | rewrap`, as a person and as a script run them."""

import json
import stat
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from token_server.cli.main import cli

PHRASE = "correct horse"


class Keys:
    """`token-server keys` on one directory and one database; no terminal."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.keys_dir = directory / "keys"
        self.environ = {
            "TOKEN_SERVER_DATABASE_URL": f"sqlite:///{directory / 'token-server.db'}",
            "TOKEN_SERVER_KEYS_DIR": str(self.keys_dir),
        }

    def __call__(self, *arguments: str, stdin: str | bytes = "", store: str = "") -> Result:
        environ = dict(self.environ)
        if store:
            environ["TOKEN_SERVER_KEY_STORE"] = store
        return CliRunner().invoke(cli, ["keys", *arguments], input=stdin, env=environ)


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    made = Keys(tmp_path)
    assert made("init").exit_code == 0
    return made


@pytest.fixture(scope="module")
def encrypted_pem() -> bytes:
    key = rsa.generate_private_key(65537, 2048)
    encryption = serialization.BestAvailableEncryption(PHRASE.encode())
    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    return key.private_bytes(pem, pkcs8, encryption)


def test_keyring_goes_through_a_file_into_the_database(keys: Keys) -> None:
    """Two commands move an installation; the file is private and never overwritten."""
    target = keys.directory / "keyring.json"
    written = keys("export", "--format", "keyring", "-o", str(target))
    assert written.exit_code == 0, written.output
    assert written.stdout == f"Wrote {target}.\n"
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    again = keys("export", "--format", "keyring", "-o", str(target))
    assert (again.exit_code, "exists already" in again.stderr) == (4, True)
    tried = keys("import", str(target), "--dry-run", store="database")
    assert tried.stdout.startswith("Dry run: nothing has changed.\n")
    done = keys("import", str(target), "--json", store="database")
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert (report["changed"], report["kind"], report["place"]) == (True, "keyring", "the database")
    listed = json.loads(keys("list", "--json", store="database").stdout)
    assert {key["kid"] for key in listed["keys"]} == set(report["kids"])
    refused = keys("import", str(target), store="database")
    assert (refused.exit_code, "already" in refused.stderr) == (4, True)
    left = keys("rotate")
    assert "KEY_STORE=database" in left.stderr


def test_public_keys_are_printed_for_people_and_scripts(keys: Keys) -> None:
    """jwks is one document either way; pem has a comment per key, or JSON."""
    people, scripts = (
        keys("export", "--format", "jwks"),
        keys("export", "--format", "jwks", "--json"),
    )
    assert json.loads(people.stdout) == json.loads(scripts.stdout)
    assert scripts.stdout.count("\n") == 1
    kids = [key["kid"] for key in json.loads(scripts.stdout)["keys"]]
    text = keys("export", "--format", "pem").stdout
    assert [line for line in text.splitlines() if line.startswith("#")] == [
        f"# kid {kid}" for kid in kids
    ]
    listed = json.loads(keys("export", "--format", "pem", "--json").stdout)["keys"]
    assert [key["kid"] for key in listed] == kids
    assert "PRIVATE" not in people.stdout + text


def test_export_without_keys_is_not_found(tmp_path: Path) -> None:
    """Exit code 3, and neither keys nor a database are made in passing."""
    result = Keys(tmp_path)("export", "--format", "jwks")
    assert (result.exit_code, result.stdout) == (3, "")
    assert list(tmp_path.iterdir()) == []


def test_encrypted_key_asks_for_its_pass_phrase(keys: Keys, encrypted_pem: bytes) -> None:
    """Never an argument: asked for when it is needed, or one line of standard input."""
    path = keys.directory / "key.pem"
    path.write_bytes(encrypted_pem)
    asked = keys("import", str(path), "--dry-run", stdin=f"{PHRASE}\n")
    assert asked.exit_code == 0, asked.output
    assert asked.stderr == "Pass phrase of the key: \n"
    assert PHRASE not in asked.output
    wrong = keys("import", str(path), "--pass-phrase-stdin", stdin="guess\n")
    assert (wrong.exit_code, "pass phrase is wrong" in wrong.stderr) == (1, True)
    done = keys("import", str(path), "--pass-phrase-stdin", "--json", stdin=f"{PHRASE}\n")
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert (report["kind"], report["changed"]) == ("key", True)
    again = keys("import", str(path), "--pass-phrase-stdin", stdin=f"{PHRASE}\n")
    assert again.stdout.startswith("Nothing to do: ")
    both = keys("import", "-", "--pass-phrase-stdin", stdin=encrypted_pem)
    assert both.exit_code == 2


@pytest.mark.parametrize(
    ("content", "exit_code"), [(b"", 1), (b"{}", 1), (b"x" * ((1 << 22) + 1), 2), (b"\xff\x00", 1)]
)
def test_junk_is_refused_in_one_line(keys: Keys, content: bytes, exit_code: int) -> None:
    """From standard input as from a file; no traceback, nothing of the content."""
    result = keys("import", "-", stdin=content)
    assert (result.exit_code, result.stdout) == (exit_code, "")
    assert result.stderr.count("\n") == 1
    assert "Traceback" not in result.stderr


def test_file_that_is_not_there_is_not_found(keys: Keys) -> None:
    """Exit code 3, as for everything that a command names."""
    assert keys("import", "nowhere.pem").exit_code == 3


def test_rewrap_says_what_moved_and_what_may_go(keys: Keys) -> None:
    """The whole way of a new master key, by the command line alone."""
    assert keys("rewrap").stdout == (
        "Nothing to do: every key is under version 1 of the master key.\n"
    )
    tried = keys("rewrap", "--new-master-key", "--dry-run")
    assert tried.stdout.startswith("Dry run: nothing has changed.\n2 private keys would move")
    moved = keys("rewrap", "--new-master-key")
    assert moved.stdout.startswith("Moved 2 private keys to version 2 of the master key:\n")
    assert "Nothing needs version 1 any more: `keys rewrap --drop-old`." in moved.stdout
    assert keys("list").exit_code == 0
    dropped = keys("rewrap", "--drop-old")
    assert dropped.stdout == "Took version 1 out of the master key file.\n"
    report = json.loads(keys("rewrap", "--drop-old", "--json").stdout)
    assert (report["changed"], report["dropped"], report["old_versions"]) == (False, [], [])
    assert keys("list").exit_code == 0
    assert keys("rewrap", "--drop-old", "--new-master-key").exit_code == 2
