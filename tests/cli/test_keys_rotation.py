"""`keys plan | rotate | promote | rollback | compromise | doctor` as real processes beside a real
server, and scripts/rotate_keys.py as cron starts it."""

import asyncio
import json
import os
import shutil
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from tests.support.process import ROOT, Installation, ServerProcess, start_server
from tests.support.server import copy_keys
from token_server.cli.main import cli
from token_server.runtime import SystemClock, SystemEntropy
from token_server.services.keys import KeyPlace, show_keys

WINDOWS = {
    "JWKS_MAX_AGE": "1s",
    "KEY_RELOAD_INTERVAL": "1s",
    "CLOCK_SKEW": "1s",
    "KEY_LEAD": "4s",
    "ACCESS_TOKEN_TTL": "2s",
}
SCRIPT = ROOT / "scripts" / "rotate_keys.py"

Beside = tuple[Installation, ServerProcess]


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Beside]:
    directory = tmp_path_factory.mktemp("beside")
    installation = Installation(directory, f"sqlite:///{directory / 'token-server.db'}")
    server = start_server(installation, "serve", overrides={"KEY_LEAD": "7d"})
    try:
        yield installation, server
    finally:
        assert server.stop() == 0


@pytest.fixture
def beside(started: Beside) -> Beside:
    """A server with a lead of a week, which commands do not know; no rotation is under way."""
    installation, _ = started
    if len(by_state(installation)["next"]) > 1:
        invoke(installation, "rollback")
    return started


def run(installation: Installation, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "token_server", "keys", *arguments],
        cwd=installation.directory,
        env=installation.environ(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def invoke(installation: Installation, *arguments: str) -> Result:
    """The same in this process, for what does not depend on being another one."""
    environ = {
        name: value
        for name, value in installation.environ().items()
        if name.startswith("TOKEN_SERVER_")
    }
    return CliRunner().invoke(cli, ["keys", *arguments], env=environ)


def run_script(
    installation: Installation, *arguments: str, cwd: str = "/"
) -> "subprocess.Popen[str]":
    """As cron does: another directory, hardly any environment."""
    settings = {
        name: value
        for name, value in installation.environ().items()
        if name.startswith("TOKEN_SERVER_")
    }
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), *arguments],
        cwd=cwd,
        env={"PATH": "/usr/bin:/bin", **settings},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def served_kids(server: ServerProcess) -> list[str]:
    with urllib.request.urlopen(f"{server.base_url}/.well-known/jwks.json") as answer:
        return [key["kid"] for key in json.load(answer)["keys"]]


def wait_until(is_so: Callable[[], bool], timeout_s: float = 10) -> None:
    began = time.monotonic()
    while not is_so():
        assert time.monotonic() - began < timeout_s, "it did not come to pass"
        time.sleep(0.05)


def by_state(installation: Installation) -> dict[str, list[str]]:
    """The kids in each state, as `keys list` would say; looked at in this process, which is
    quicker."""
    place = KeyPlace(installation.settings(), SystemClock(), SystemEntropy())
    found: dict[str, list[str]] = {}
    for row in asyncio.run(show_keys(place)).keys:
        found.setdefault(row.state.value, []).append(row.kid)
    return found


def test_whole_rotation_by_command_line(tmp_path: Path) -> None:
    """With a lead of four seconds: rotate, and see the next key sign and the other one retire,
    in the keyring and in the JWKS."""
    installation = Installation(tmp_path, f"sqlite:///{tmp_path / 'token-server.db'}")
    server = start_server(installation, "serve", overrides=WINDOWS)
    try:
        before = by_state(installation)
        (old,) = before["active"]
        begun = run(installation, "rotate", "--json")
        assert begun.returncode == 0, begun.stderr
        assert json.loads(begun.stdout)["basis"]["policy"]["lead_s"] == 4
        history = ["active"]

        def is_retired() -> bool:
            (state,) = [state for state, kids in by_state(installation).items() if old in kids]
            if state != history[-1]:
                history.append(state)
            return state == "retired"

        wait_until(is_retired, 60)
        assert history == ["active", "retiring", "retired"]
        assert by_state(installation)["active"] == before["next"]
        wait_until(lambda: old not in served_kids(server))
        assert before["next"][0] in served_kids(server)
    finally:
        assert server.stop() == 0


def test_rotation_is_dated_and_then_under_way(beside: Beside) -> None:
    """By the running server's lead; the second time there is nothing to do, and both are exit
    code 0; taken back, it may begin again."""
    installation, server = beside
    begun = run(installation, "rotate", "--json")
    report = json.loads(begun.stdout)
    assert (begun.returncode, report["changed"]) == (0, True)
    assert report["steps"][0]["at"] == report["now"] + 7 * 86400
    again = run(installation, "rotate")
    assert again.returncode == 0
    assert "Nothing to do: a rotation is under way" in again.stdout
    wait_until(lambda: len(served_kids(server)) >= 3)
    assert invoke(installation, "rollback").exit_code == 0


def test_refused_promotion_says_when(beside: Beside) -> None:
    """Exit code 4; the rule, the reason and the instant on stderr, the same as JSON on stdout."""
    installation, _ = beside
    refused = run(installation, "promote", "--json")
    assert refused.returncode == 4
    assert "Refused by I2:" in refused.stderr
    assert "Allowed from " in refused.stderr
    assert "(in 6 d 23 h)" in refused.stderr
    assert "--force" in refused.stderr
    report = json.loads(refused.stdout)
    assert (report["changed"], report["refused"][0]["invariant"]) == (False, "I2")
    assert report["refused"][0]["allowed_at"] > report["now"]


def test_compromised_key_is_gone_within_seconds(beside: Beside) -> None:
    """A running server follows the command within seconds, and another key signs."""
    installation, server = beside
    (bad,) = by_state(installation)["active"]
    done = run(installation, "compromise", bad)
    assert done.returncode == 0, done.stderr
    assert "TRUSTS DROPPED KEYS" in done.stdout
    wait_until(lambda: bad not in served_kids(server))
    assert by_state(installation)["compromised"] == [bad]
    assert run(installation, "compromise", bad).returncode == 0  # nothing to do
    missing = run(installation, "compromise", "nobody")
    assert (missing.returncode, missing.stdout) == (3, "")


@pytest.mark.parametrize("kid", ["-Q" + "h" * 41, "--" + "q" * 41])
def test_kid_that_looks_like_an_option(beside: Beside, kid: str) -> None:
    """One kid in 64 begins with a hyphen (RFC 7638 in base64url): nobody should have to know
    that `--` goes before it, least of all in an emergency."""
    installation, _ = beside
    for arguments in (("compromise", kid), ("compromise", kid, "--dry-run")):
        result = invoke(installation, *arguments)
        assert (result.exit_code, f"No key is called {kid}" in result.stderr) == (3, True)
    by_script = subprocess.run(
        [str(SCRIPT), "compromise", kid],
        env=installation.environ(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert by_script.returncode == 3
    assert f"No key is called {kid}" in by_script.stderr


def test_script_works_from_anywhere_and_twice_at_once(beside: Beside) -> None:
    """Two of them from cron, in another directory, without an activated environment: one rotates,
    the other finds it done."""
    installation, _ = beside
    started = [run_script(installation, "rotate", "--json") for _ in range(2)]
    outputs = [process.communicate(timeout=60) for process in started]
    assert [process.returncode for process in started] == [0, 0], outputs
    assert sorted(json.loads(output)["changed"] for output, _ in outputs) == [False, True]
    quiet = run_script(installation, "rotate", "--if-due", "--quiet")
    assert quiet.communicate(timeout=60) == ("", "")
    plan = run_script(installation, "plan")
    printed, _ = plan.communicate(timeout=60)
    assert "What happens next" in printed
    wrong = run_script(installation, "frobnicate")
    _, why = wrong.communicate(timeout=60)
    assert (wrong.returncode, "invalid choice" in why) == (2, True)


def test_script_without_an_environment_says_what_to_do(tmp_path: Path) -> None:
    """A copy with no .venv beside it, under a Python without token-server."""
    (tmp_path / "scripts").mkdir()
    copy = shutil.copy(SCRIPT, tmp_path / "scripts")
    done = subprocess.run(
        [sys.executable, "-I", "-S", copy, "plan"],
        cwd="/",
        env={},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "scripts/serve" in done.stderr
    assert "Traceback" not in done.stderr


def test_script_is_executable() -> None:
    """Cron lines name it alone."""
    assert os.access(SCRIPT, os.X_OK)


@pytest.mark.parametrize(
    "arguments", [["plan"], ["rotate"], ["promote"], ["compromise", "x"], ["compromise", "--all"]]
)
def test_wrong_directory_makes_nothing(tmp_path: Path, arguments: list[str]) -> None:
    """No keys here: exit code 3 and what to do; neither keys nor a database come into being."""
    installation = Installation(tmp_path, f"sqlite:///{tmp_path / 'token-server.db'}")
    result = invoke(installation, *arguments)
    assert (result.exit_code, result.stdout) == (3, "")
    assert "keys init" in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["rotate", "--now", "--if-due"],
        ["compromise"],
        ["compromise", "x", "--all"],
        ["doctor"],
        ["doctor", "nonsense"],
    ],
)
def test_usage_errors(shared_keys: Path, tmp_path: Path, arguments: list[str]) -> None:
    """Exit code 2 with one clear line, before anything is touched."""
    copy_keys(shared_keys, tmp_path)
    installation = Installation(tmp_path, f"sqlite:///{tmp_path / 'token-server.db'}")
    result = invoke(installation, *arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert not (tmp_path / "token-server.db").exists()


class _Gateway(BaseHTTPRequestHandler):
    """Answers each path in its own bad way."""

    def do_GET(self) -> None:
        match self.path.split("/")[1]:
            case "moved":
                self.send_response(302)
                self.send_header("Location", "https://elsewhere.example/")
                self.end_headers()
            case "huge":
                self.send_response(200)
                self.end_headers()
                self.wfile.write(b" " * (1024 * 1024 + 1))
            case "cut":
                self.send_response(200)
                self.send_header("Content-Length", "100")
                self.end_headers()
                self.wfile.write(b"{")
            case _:
                self.wfile.write(b"this is not HTTP\r\n\r\n")
        self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        pass


@contextmanager
def bad_gateway() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Gateway)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_doctor_over_good_and_bad_addresses(beside: Beside) -> None:
    """All is well with the server alone; beside it every bad address is named, exit code 1."""
    installation, server = beside
    good = run(installation, "doctor", server.base_url, "--json")
    assert good.returncode == 0, good.stdout
    assert json.loads(good.stdout)["expected"] == served_kids(server)
    with bad_gateway() as gateway:
        names = ("moved", "huge", "cut", "rubbish")
        urls = [f"{gateway}/{name}" for name in names]
        bad = run(installation, "doctor", server.base_url, *urls, "--json")
    assert (bad.returncode, bad.stderr) == (1, "")
    report = json.loads(bad.stdout)
    first, *others = report["replicas"]
    assert [finding["level"] for finding in first["findings"]] == ["ok"]
    for replica, says in zip(
        others, ("302", "larger than", "not JSON", "did not answer"), strict=True
    ):
        finding = replica["findings"][0]
        assert (finding["level"], says in finding["detail"]) == ("fail", True), finding


def test_plan_is_drawn_when_asked(shared_keys: Path, tmp_path: Path) -> None:
    """With a pipe there is no picture and no colour, unless a picture is asked for; in an
    encoding without lines it is ASCII."""
    copy_keys(shared_keys, tmp_path)
    installation = Installation(tmp_path, f"sqlite:///{tmp_path / 'token-server.db'}")
    plain = invoke(installation, "plan").stdout
    drawn = invoke(installation, "plan", "--picture").stdout
    assert ("━" in plain, "━" in drawn) == (False, True)
    assert "\x1b" not in plain + drawn
    done = subprocess.run(
        [sys.executable, "-m", "token_server", "keys", "plan", "--picture"],
        cwd=installation.directory,
        env={**installation.environ(), "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        timeout=60,
        check=True,
    )
    assert b"===" in done.stdout
    assert done.stdout.isascii()
