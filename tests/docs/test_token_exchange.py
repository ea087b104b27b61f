"""docs/token-exchange.md, pasted beside a development server."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.process import ROOT, Installation, ServerProcess, start_server

BLOCKS = re.findall(
    r"```sh\n(.*?)```", (ROOT / "docs" / "token-exchange.md").read_text(), re.DOTALL
)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Installation, ServerProcess]]:
    directory = tmp_path_factory.mktemp("exchange")
    installation = Installation(directory, f"sqlite:///{directory / 'data' / 'token-server.db'}")
    server = start_server(installation, "dev")
    try:
        yield installation, server
    finally:
        assert server.stop() == 0


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not on this machine")
def test_chain_of_three_services_works_as_pasted(
    demo: tuple[Installation, ServerProcess],
) -> None:
    """User, gateway, orders, billing; then the session ends, and with it the last token."""
    installation, server = demo
    (text,) = [block for block in BLOCKS if "field()" in block]
    text = text.replace("http://127.0.0.1:8080", server.base_url)
    text = text.replace(".venv/bin/python", sys.executable)
    text = text.replace(".venv/bin/token-server", f"{sys.executable} -m token_server")
    environ = {**installation.environ("dev"), "TOKEN_SERVER_ISSUER": server.base_url}
    done = subprocess.run(
        ["sh", "-ec", text],
        cwd=installation.directory,
        env=environ,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    before, after = [
        json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"active"')
    ]
    assert after == {"active": False}
    assert before["act"] == {"sub": "orders", "act": {"sub": "gateway"}}
    assert (before["aud"], before["client_id"]) == ("https://billing.example", "orders")
    assert before["scope"] == "bills:read"


def test_commands_are_those_of_the_program() -> None:
    """The blocks that are not pasted name options that exist."""
    options = {
        option
        for block in BLOCKS
        for line in block.replace("\\\n", " ").splitlines()
        if "token-server client add" in line
        for option in re.findall(r" (--[a-z-]+)", line.split("|")[0])
    }
    shown = subprocess.run(
        [sys.executable, "-m", "token_server", "client", "add", "--help"],
        cwd=Path(ROOT),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout
    assert options
    assert {option for option in options if option not in shown} == set()
