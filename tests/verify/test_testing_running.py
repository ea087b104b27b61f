"""The real server as a fixture: it starts, says clearly why it does not, and always goes away."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
import venv
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.support.process import ROOT
from token_server.verify import Verifier
from token_server.verify.testing import (
    RunningTokenServer,
    ServerNotStartedError,
    running_token_server,
)

ORDERS = "https://orders.example"  # the audience of the demo accounts

# Starts a server, says where, and does what the test tells it.
_PROGRAM = """
import os, sys, time
from token_server.verify.testing import running_token_server
with running_token_server() as server:
    print(server.issuer, server.directory, flush=True)
    {then}
"""


def answers(issuer: str) -> bool:
    parts = urlsplit(issuer)
    with socket.socket() as probe:
        return probe.connect_ex((str(parts.hostname), int(parts.port or 0))) == 0


def wait_until(is_true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not is_true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture(scope="module")
def running() -> Iterator[RunningTokenServer]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TOKEN_SERVER_ISSUER", "https://auth.example")
        with running_token_server() as server:
            yield server


def test_server_is_there_and_then_gone() -> None:
    """Settings in lower case; clients and people are added while it runs; nothing is left."""
    with running_token_server(access_token_ttl="7s") as server:
        client = server.add_client("shop", scopes=["cart"], audiences=["https://cart.example"])
        user_id = server.add_user("ada@example.org", "correct horse battery staple")
        token = server.run("token", "get", "--client-id", "shop", stdin=str(client.client_secret))
        claims = Verifier(issuer=server.issuer, audience="https://cart.example").verify_sync(
            token["access_token"]
        )
        assert (claims.subject, claims.scopes) == ("shop", ("cart",))
        assert claims.expires_at - claims.issued_at == 7
        logged_in = server.log_in("ada@example.org", "correct horse battery staple")
        verifier = Verifier(issuer=server.issuer, audience=ORDERS)
        assert verifier.verify_sync(logged_in["access_token"]).subject == user_id
        public = server.add_client("cli", grants=["password"], public=True)
        assert public.client_secret is None
        assert answers(server.issuer)
    assert not answers(server.issuer)
    assert not server.directory.exists()


async def test_server_can_be_used_from_async_code() -> None:
    """Started and stopped in a thread, without blocking the loop."""
    running = running_token_server()
    server = await asyncio.to_thread(running.__enter__)
    try:
        verifier = Verifier(issuer=server.issuer, audience=ORDERS)
        token = (await asyncio.to_thread(server.log_in))["access_token"]
        assert (await verifier.verify(token)).client_id == server.public_client_id
    finally:
        await asyncio.to_thread(running.__exit__, None, None, None)
    assert not answers(server.issuer)


def test_failing_test_leaves_nothing_behind() -> None:
    """An exception in the block."""
    seen: list[RunningTokenServer] = []
    with pytest.raises(ZeroDivisionError), running_token_server() as server:
        seen.append(server)
        raise ZeroDivisionError
    assert not answers(seen[0].issuer)
    assert not seen[0].directory.exists()


def start(then: str) -> tuple["subprocess.Popen[str]", str, Path]:
    """A process that has started a server, the server's address and its directory."""
    program = subprocess.Popen(
        [sys.executable, "-c", _PROGRAM.format(then=then)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,  # as a terminal does, which sends Ctrl-C to the whole group
    )
    assert program.stdout is not None
    issuer, directory = program.stdout.readline().split()
    return program, issuer, Path(directory)


@pytest.mark.parametrize(
    ("then", "is_killed"),
    [
        pytest.param("time.sleep(60)", True, id="kill_9"),
        pytest.param("os._exit(1)", False, id="as_pytest_timeout_ends"),
    ],
)
def test_server_does_not_outlive_its_tests(then: str, *, is_killed: bool) -> None:
    """However the process that started it dies."""
    program, issuer, directory = start(then)
    if is_killed:
        program.kill()
    program.communicate(timeout=30)
    wait_until(lambda: not answers(issuer) and not directory.exists())


def test_ctrl_c_is_for_the_tests_which_then_stop_the_server() -> None:
    """Teardowns still find it; after them it is gone."""
    waiting = "print('waiting', flush=True); time.sleep(60)"
    teardown = "urllib.request.urlopen(server.jwks_uri); print('found', flush=True)"
    # As in a terminal: whoever was started in the background by a shell ignores the signal.
    terminal = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    then = f"import urllib.request\n    {terminal}\n    try: {waiting}\n    finally: {teardown}"
    program, issuer, directory = start(then)
    assert program.stdout is not None
    assert program.stdout.readline() == "waiting\n"
    os.killpg(program.pid, signal.SIGINT)
    printed, _ = program.communicate(timeout=30)
    assert printed == "found\n"
    assert not answers(issuer)
    assert not directory.exists()


def test_secrets_are_not_in_its_repr(running: RunningTokenServer) -> None:
    """A failing assertion prints it."""
    client = running.add_client("secretive")
    for secret in (running.client_secret, running.user_password, str(client.client_secret)):
        assert secret not in repr(running) + repr(client)


def test_wrong_setting_is_said() -> None:
    """In the server's own words."""
    with (
        pytest.raises(ServerNotStartedError, match="did you mean TOKEN_SERVER_ACCESS_TOKEN_TTL"),
        running_token_server(acces_token_ttl="5s"),
    ):
        pass


def test_failing_command_is_said(running: RunningTokenServer) -> None:
    """What the command line said."""
    with pytest.raises(ServerNotStartedError, match=r"client add failed: .*scope"):
        running.add_client("shop", scopes=["not a scope"])


def test_settings_of_another_server_do_not_leak_in(running: RunningTokenServer) -> None:
    """A developer's own environment."""
    assert running.issuer.startswith("http://127.0.0.1:")


def test_missing_extra_is_said(tmp_path: Path) -> None:
    """Only `pip install token-server`: the kit works, the server says what to install."""
    venv.create(tmp_path / "venv", with_pip=False)
    modules = tmp_path / "modules"
    modules.mkdir()
    (modules / "token_server").symlink_to(ROOT / "token_server")
    site = Path(pytest.__file__).parents[1]
    for name in ("cryptography", "cffi", "pycparser", *(p.name for p in site.glob("_cffi_*"))):
        (modules / name).symlink_to(site / name)
    done = subprocess.run(
        [tmp_path / "venv" / "bin" / "python", "-c", _PROGRAM.format(then="pass")],
        env={"PYTHONPATH": str(modules), "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "ServerNotStartedError: token-server did not start: The server is not" in done.stderr
    assert 'pip install "token-server[server]"' in done.stderr
