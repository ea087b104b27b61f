"""`token-server dev` and `serve` as a stranger starts them."""

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner

from tests.support.process import Installation, running_processes, start_server
from token_server.cli.main import cli

DEADLINE_S = 60.0


@pytest.fixture
def installation(tmp_path: Path) -> Installation:
    return Installation(tmp_path, "sqlite:///data/token-server.db")


def ready_line(installation: Installation, name: str = "server-0") -> dict[str, Any]:
    lines = (installation.directory / f"{name}.log").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith('{"event":"ready"')]
    return dict(json.loads(line))


def test_dev_starts_from_nothing_and_gives_tokens(installation: Installation) -> None:
    """One command on an empty directory: keys, database, accounts, and a token for each client."""
    with running_processes(installation, mode="dev") as (server,):
        ready = ready_line(installation)
        demo = json.loads((installation.directory / "data" / "demo.json").read_text())
        machine = httpx.post(
            ready["token_endpoint"],
            data={"grant_type": "client_credentials"},
            auth=(demo["service_client_id"], demo["service_client_secret"]),
        )
        person = httpx.post(
            ready["token_endpoint"],
            data={
                "grant_type": "password",
                "client_id": demo["public_client_id"],
                "username": demo["user_email"],
                "password": demo["user_password"],
            },
        )
        keys = httpx.get(ready["jwks_uri"]).json()["keys"]
        metadata = httpx.get(f"{server.base_url}/.well-known/oauth-authorization-server").json()

    assert (machine.status_code, person.status_code) == (200, 200)
    assert "refresh_token" in person.json()
    assert ready["kid"] in {key["kid"] for key in keys}
    assert metadata["issuer"] == ready["issuer"] == server.base_url


def test_dev_registers_people_and_gives_its_own_page_the_cookie(
    installation: Installation,
) -> None:
    """Registration is open in dev, and the page's origin is the address that was really bound."""
    newcomer = {"email": "test@example.com", "password": "securepass123", "name": "Test User"}
    with (
        running_processes(installation, mode="dev") as (server,),
        httpx.Client(base_url=f"{server.base_url}/api/auth/") as api,
    ):
        registered = api.post("register", json=newcomer)
        token = registered.json()["access_token"]
        me = api.get("me", headers={"Authorization": f"Bearer {token}"})
        own_page = api.post(
            "login",
            json={
                "email": newcomer["email"],
                "password": newcomer["password"],
                "refresh_token_in": "cookie",
            },
            headers={"Origin": server.base_url},
        )

    assert (registered.status_code, me.status_code) == (200, 200)
    assert me.json()["email"] == newcomer["email"]
    assert own_page.status_code == 200, own_page.text
    assert own_page.headers["set-cookie"].startswith("__Host-token_server_refresh=rt_")


def test_dev_prints_no_secret_where_no_terminal_is(installation: Installation) -> None:
    """What is no terminal is often a log; the file with the secrets is named instead."""
    with running_processes(installation, mode="dev"):
        ready = ready_line(installation)
        printed = (installation.directory / "server-0.log").read_text()
        demo = json.loads(Path(installation.directory, ready["demo_file"]).read_text())

    assert demo["user_password"] not in printed
    assert demo["service_client_secret"] not in printed


def test_dev_keeps_its_accounts_over_a_restart(installation: Installation) -> None:
    """Commands that were pasted into a script go on working."""
    file = installation.directory / "data" / "demo.json"
    with running_processes(installation, mode="dev"):
        first = file.read_bytes()
    with running_processes(installation, mode="dev"):
        second = file.read_bytes()

    assert first == second


def test_serve_refuses_what_dev_made(installation: Installation) -> None:
    """The demo database cannot slip into production."""
    with running_processes(installation, mode="dev"):
        pass

    with pytest.raises(RuntimeError, match="demo-service"):
        start_server(installation)


def read_terminal(descriptor: int, until: str) -> str:
    text = b""
    deadline = time.monotonic() + DEADLINE_S
    while until.encode() not in text and time.monotonic() < deadline:
        if select.select([descriptor], [], [], 0.1)[0]:
            text += os.read(descriptor, 65536)
    return text.decode().replace("\r\n", "\n")


def test_what_dev_prints_on_a_terminal_works_when_pasted(installation: Installation) -> None:
    """The curl lines get a token, log in and refresh, in a plain shell."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "token_server", "dev"],
        cwd=installation.directory,
        env=installation.environ("dev"),
        stdin=theirs,
        stdout=theirs,
        stderr=subprocess.DEVNULL,
    )
    os.close(theirs)
    try:
        text = read_terminal(ours, "Ctrl-C stops the server.")
        script = "\n".join(
            line for line in text.partition("A token for")[2].splitlines() if line.startswith("  ")
        )
        pasted = subprocess.run(
            ["sh", "-ec", script],
            cwd=installation.directory,
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=True,
        )
    finally:
        process.send_signal(signal.SIGINT)
        status = process.wait(DEADLINE_S)
        os.close(ours)

    assert "├── POST /oauth2/token" in text
    assert "Demo user     demo@example.com" in text
    lines = pasted.stdout.replace("}{", "}\n{").replace("]}", "]}\n").splitlines()
    answers = [json.loads(line) for line in lines if line.startswith("{")]
    assert ["access_token" in answer for answer in answers] == [True, True, False]
    assert "keys" in answers[2]
    assert status == 0


@pytest.mark.parametrize("flag", ["--bind", "--management-bind"])
def test_dev_refuses_addresses_that_others_reach(flag: str, tmp_path: Path) -> None:
    """Demo accounts over plain HTTP are for this machine alone, on both ports."""
    arguments = ["dev", flag, "0.0.0.0:0", "--keys-dir", str(tmp_path / "keys")]
    result = CliRunner().invoke(cli, arguments)

    assert result.exit_code == 2
    assert "--i-know" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_serve_lists_every_problem_and_starts_nothing(tmp_path: Path) -> None:
    """Exit code 2 and the whole list; no key, no database, no port."""
    environ = {
        "TOKEN_SERVER_DATABASE_URL": f"sqlite:///{tmp_path}/data/x.db",
        "TOKEN_SERVER_KEYS_DIR": str(tmp_path / "keys"),
        "TOKEN_SERVER_WORKERS": "2",
    }
    result = CliRunner().invoke(cli, ["serve"], env=environ)

    assert result.exit_code == 2
    assert "3 problems" in result.stderr
    for words in ("ISSUER is not stated", "REGISTRATION is not stated", "SQLite serves one"):
        assert words in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_serve_says_where_it_listens(installation: Installation) -> None:
    """One line at the start with what an operator checks first, and no secret."""
    with running_processes(installation) as (server,):
        (started,) = [r for r in server.log_records() if r["event"] == "server_started"]

    assert started["issuer"] == "https://auth.example"
    assert (started["database"], started["workers"]) == ("sqlite", 1)
