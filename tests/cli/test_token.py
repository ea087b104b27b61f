"""`token-server token` against a real development server."""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.process import Installation, start_server

AUDIENCE = "https://orders.example"


@dataclass(frozen=True, slots=True)
class Demo:
    """A development server and what its demo file says."""

    installation: Installation
    url: str
    accounts: dict[str, str]

    def token(self, *arguments: str, stdin: str = "") -> "subprocess.CompletedProcess[str]":
        environ = {**self.installation.environ("dev"), "TOKEN_SERVER_ISSUER": self.url}
        return subprocess.run(
            [sys.executable, "-m", "token_server", "token", *arguments],
            cwd=self.installation.directory,
            env=environ,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )

    def get(self) -> str:
        client_id, secret = self.accounts["service_client_id"], "service_client_secret"
        done = self.token("get", "--client-id", client_id, stdin=self.accounts[secret] + "\n")
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    directory = tmp_path_factory.mktemp("demo")
    installation = Installation(directory, f"sqlite:///{directory / 'data' / 'token-server.db'}")
    server = start_server(installation, "dev")
    try:
        accounts = json.loads((directory / "data" / "demo.json").read_text())
        yield Demo(installation, server.base_url, accounts)
    finally:
        assert server.stop() == 0


def test_machine_token_is_got_looked_into_and_verified(demo: Demo) -> None:
    """The first minute of a newcomer, without curl."""
    token = demo.get()
    decoded = demo.token("decode", "--json", stdin=token)
    assert "Not verified" in decoded.stderr
    assert json.loads(decoded.stdout)["claims"]["iss"] == demo.url
    verified = demo.token("verify", "--audience", AUDIENCE, "--json", stdin=token)
    assert verified.returncode == 0, verified.stderr
    assert json.loads(verified.stdout)["client_id"] == demo.accounts["service_client_id"]


def test_user_token_and_its_refresh(demo: Demo) -> None:
    """Password and refresh token are lines of standard input, never arguments."""
    client = ("--client-id", demo.accounts["public_client_id"], "--public", "--json")
    user = ("--grant", "password", "--username", demo.accounts["user_email"])
    first = demo.token("get", *client, *user, stdin=demo.accounts["user_password"] + "\n")
    assert first.returncode == 0, first.stderr
    refresh_token = json.loads(first.stdout)["refresh_token"]
    second = demo.token("get", *client, "--grant", "refresh_token", stdin=refresh_token + "\n")
    assert json.loads(second.stdout)["refresh_token"] != refresh_token


def test_refused_token_says_which_check_failed(demo: Demo) -> None:
    """Exit code 1, the reason, and never the token itself."""
    token = demo.get()
    other = demo.token("verify", "--audience", "https://stock.example", stdin=token)
    assert (other.returncode, other.stderr) == (1, "Error: The token is refused: aud_refused.\n")
    tampered = demo.token("verify", "--audience", AUDIENCE, stdin=token.replace(".", ".A", 1))
    assert tampered.returncode == 1
    assert token.split(".")[1] not in tampered.stderr


def test_tampered_signature_is_found_with_keys_from_a_file(demo: Demo, tmp_path: Path) -> None:
    """A key set on disk serves where the server cannot be reached."""
    token = demo.get().strip()
    keys = tmp_path / "jwks.json"
    keys.write_text(json.dumps({"keys": []}))
    empty = demo.token("verify", "--audience", AUDIENCE, "--jwks", str(keys), stdin=token)
    assert empty.returncode == 1
    assert "no usable key set" in empty.stderr
    flipped = token[:-5] + ("A" if token[-5] != "A" else "B") + token[-4:]
    wrong = demo.token("verify", "--audience", AUDIENCE, stdin=flipped)
    assert "signature_wrong" in wrong.stderr


@pytest.mark.parametrize(
    ("arguments", "stdin", "code", "text"),
    [
        (("get", "--client-id", "demo-service"), "wrong\n", 1, "invalid_client"),
        (("get", "--client-id", "demo-service"), "", 2, "Standard input held no secret"),
        (("get", "--client-id", "x", "--public", "--grant", "password"), "x", 2, "--username"),
        (("get", "--client-id", "x", "--url", "http://127.0.0.1:1"), "x", 5, "Is the server"),
        (("get", "--client-id", "x", "--url", "http://auth.example"), "x", 2, "neither https"),
        (("decode",), "junk", 1, "not a readable access token"),
        (("verify", "--jwks", "missing.json"), "x", 1, "missing.json cannot be read"),
    ],
)
def test_mistakes_are_answered_with_what_to_do(
    demo: Demo, arguments: tuple[str, ...], stdin: str, code: int, text: str
) -> None:
    """One line on stderr, a documented exit code, no traceback."""
    done = demo.token(*arguments, stdin=stdin)
    assert done.returncode == code, done.stderr
    assert text in done.stderr
    assert "Traceback" not in done.stderr
