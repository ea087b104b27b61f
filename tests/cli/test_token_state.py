"""`token-server token introspect | revoke | explain` and `session revoke --user | --client`."""

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tests.cli.test_token import Demo
from tests.support.command import Command
from tests.support.process import Installation, start_server
from token_server.cli.main import cli


class QuickDemo(Demo):
    """Commands run in this process: starting another one for each takes a second."""

    def token(self, *arguments: str, stdin: str = "") -> "subprocess.CompletedProcess[str]":
        environ = {**self.installation.environ("dev"), "TOKEN_SERVER_ISSUER": self.url}
        done = CliRunner().invoke(cli, ["token", *arguments], input=stdin, env=environ)
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        return subprocess.CompletedProcess(arguments, done.exit_code, done.stdout, done.stderr)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    directory = tmp_path_factory.mktemp("demo")
    installation = Installation(directory, f"sqlite:///{directory / 'data' / 'token-server.db'}")
    server = start_server(installation, "dev")
    try:
        accounts = json.loads((directory / "data" / "demo.json").read_text())
        yield QuickDemo(installation, server.base_url, accounts)
    finally:
        server.stop()


def log_in(demo: Demo) -> dict[str, Any]:
    """Access and refresh token of the demo user."""
    user = ("--grant", "password", "--username", demo.accounts["user_email"])
    done = demo.token(
        "get", "--client-id", demo.accounts["public_client_id"], "--public", "--json", *user,
        stdin=demo.accounts["user_password"] + "\n",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def explain(demo: Demo, token: str, code: int, *options: str) -> dict[str, Any]:
    done = demo.token("explain", "--json", *options, stdin=token + "\n")
    assert done.returncode == code, done.stderr + done.stdout
    assert token not in done.stdout + done.stderr
    return dict(json.loads(done.stdout))


def test_introspect_asks_as_a_service_would(demo: Demo) -> None:
    """Exit code 0 for an active token, 1 for another, whose answer is printed all the same."""
    secret = demo.accounts["service_client_secret"]
    token = demo.get().strip()
    client = ("--client-id", demo.accounts["service_client_id"], "--json")
    asked = demo.token("introspect", *client, stdin=f"{secret}\n{token}\n")
    assert asked.returncode == 0, asked.stderr
    assert json.loads(asked.stdout)["active"] is True
    junk = demo.token("introspect", *client, stdin=f"{secret}\njunk\n")
    assert (junk.returncode, json.loads(junk.stdout)) == (1, {"active": False})
    wrong = demo.token("introspect", *client, stdin=f"ts_wrong\n{token}\n")
    assert wrong.returncode == 1
    assert "401 invalid_client" in wrong.stderr


def test_revoke_as_the_client_ends_the_session(demo: Demo) -> None:
    """RFC 7009 over HTTP; junk is taken back, too."""
    tokens = log_in(demo)
    client = ("--client-id", demo.accounts["public_client_id"], "--public")
    for token in (tokens["refresh_token"], "junk"):
        done = demo.token("revoke", *client, stdin=token + "\n")
        assert (done.returncode, done.stdout) == (0, "The server took the token back.\n")
    found = explain(demo, tokens["access_token"], 1)
    assert (found["verdict"], found["session"]["revoked_reason"]) == (
        "session_revoked",
        "revoked_by_client",
    )


def test_revoke_on_the_installation_ends_any_token(demo: Demo) -> None:
    """By the operator, whoever's it is; repeated, it says so; exit code 3 for what is none."""
    machine, tokens = demo.get().strip(), log_in(demo)
    for token in (machine, tokens["access_token"]):
        first = demo.token("revoke", "--json", stdin=token + "\n")
        assert (first.returncode, json.loads(first.stdout)) == (0, {"revoked": True})
        again = demo.token("revoke", "--json", stdin=token + "\n")
        assert (again.returncode, json.loads(again.stdout)) == (0, {"revoked": False})
        assert explain(demo, token, 1)["is_live"] is False
    junk = demo.token("revoke", stdin="junk\n")
    assert junk.returncode == 3
    assert "no live token of this installation" in junk.stderr


def test_explain_tells_a_live_token_and_all_about_it(demo: Demo) -> None:
    """Key, client, user, session, clocks; with --live the server's clock, which is this one."""
    tokens = log_in(demo)
    found = explain(demo, tokens["access_token"], 0, "--live")
    assert (found["kind"], found["is_live"], found["verdict"]) == ("access_token", True, "live")
    assert [check["check"] for check in found["checks"]] == [
        "form",
        "header",
        "key",
        "signature",
        "claims",
        "state",
    ]
    assert found["key"]["state"] == "active"
    assert found["client"] == {
        "client_id": demo.accounts["public_client_id"],
        "exists": True,
        "is_enabled": True,
    }
    assert found["user"]["is_active"] is True
    assert found["session"]["revoked_at"] is None
    clocks = found["clocks"]
    assert abs(clocks["now"] - time.time()) < 30
    assert clocks["expires_at"] - clocks["issued_at"] == 900
    assert abs(clocks["server_ahead_s"]) <= 2
    shown = demo.token("explain", stdin=tokens["refresh_token"] + "\n")
    assert shown.returncode == 0
    assert "This is a refresh token.\nIt is good now." in shown.stdout


def test_explain_says_what_a_tampered_or_foreign_token_is(demo: Demo) -> None:
    """A changed payload fails by its signature, a strange key by its name; nothing that such a
    token says of client, user or session is repeated."""
    token = log_in(demo)["access_token"]
    header, payload, signature = token.split(".")
    middle = "A" if signature[50] != "A" else "B"
    changed = f"{header}.{payload}.{signature[:50]}{middle}{signature[51:]}"
    found = explain(demo, changed, 1)
    assert (found["verdict"], found["client"], found["session"]) == ("signature_wrong", None, None)
    foreign = (
        "eyJhbGciOiJSUzI1NiIsInR5cCI6ImF0K2p3dCIsImtpZCI6Ilx1MDAxYlszMW0ifQ"
        ".eyJpc3MiOiJodHRwczovL2V2aWwuZXhhbXBsZSJ9.AAAA"
    )
    found = explain(demo, foreign, 1)
    assert (found["verdict"], found["key"]["state"]) == ("kid_unknown", "unknown")
    assert found["key"]["kid"] == "?[31m"  # an escape of the terminal, made harmless
    human = demo.token("explain", stdin=changed + "\n")
    assert "It is refused: signature_wrong - it was changed" in human.stdout
    assert "FAILED  signature" in human.stdout


@pytest.mark.parametrize(
    ("text", "kind", "verdict"),
    [
        ("junk", "unknown", "malformed"),
        ("rt_junk", "refresh_token", "refresh_token_not_ours"),
        ("a.b.c", "unknown", "malformed"),
    ],
)
def test_explain_of_what_is_no_token(demo: Demo, text: str, kind: str, verdict: str) -> None:
    """Exit code 1 and a reason, no traceback."""
    found = explain(demo, text, 1)
    assert (found["kind"], found["verdict"]) == (kind, verdict)


def test_explain_warns_of_a_secret(demo: Demo) -> None:
    """A client secret where a token is expected was shown to somebody."""
    found = explain(demo, demo.accounts["service_client_secret"], 1)
    assert (found["kind"], found["verdict"]) == ("client_secret", "not_a_token")


def test_explain_needs_no_running_server(tmp_path: Path) -> None:
    """Keys and database are enough; what they do not hold is unknown."""
    installation = Installation(tmp_path, f"sqlite:///{tmp_path / 'data' / 'token-server.db'}")
    server = start_server(installation, "dev")
    accounts = json.loads((tmp_path / "data" / "demo.json").read_text())
    demo = QuickDemo(installation, server.base_url, accounts)
    try:
        token = demo.get().strip()
    finally:
        server.stop()
    assert explain(demo, token, 0)["verdict"] == "live"
    offline = demo.token("explain", "--live", stdin=token + "\n")
    assert offline.returncode == 5
    assert "Is the server running" in offline.stderr


def test_revoke_takes_one_of_three(sqlite_url: str) -> None:
    """A session, a user or a client: exit code 2 for none or two of them, 3 for unknown ones."""
    command = Command(sqlite_url)
    mistakes: tuple[tuple[str, ...], ...] = (
        (),
        ("ses_x", "--user", "a@b.example"),
        ("--user", "x", "--client", "y"),
    )
    for arguments in mistakes:
        result = command("session", "revoke", *arguments)
        assert (result.exit_code, "one of them" in result.stderr) == (2, True)
    for option in ("--user", "--client"):
        assert command("session", "revoke", option, "nobody@example.org").exit_code == 3


def test_sessions_of_a_user_or_client_end_at_once(demo: Demo) -> None:
    """All that they have now; whoever may log in can do so again."""
    environ = demo.installation.environ("dev")
    command = Command(environ["TOKEN_SERVER_DATABASE_URL"])
    for owner in (
        ("--user", demo.accounts["user_email"]),
        ("--client", demo.accounts["public_client_id"]),
    ):
        tokens = [log_in(demo) for _ in range(2)]
        ended = command.json("session", "revoke", *owner)
        assert ended["sessions_ended"] >= 2
        assert command.json("session", "revoke", *owner) == {"sessions_ended": 0}
        for each in tokens:
            assert explain(demo, each["refresh_token"], 1)["verdict"] == "family_revoked"
