"""The README's first minute, pasted: what a newcomer types must work as it stands."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.examples import UVICORN, Service, running_program
from tests.support.issuer import request_token
from tests.support.process import ROOT, Installation, ServerProcess, start_server

README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(sh|python)\n(.*?)```", README, re.DOTALL)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Installation, ServerProcess]]:
    directory = tmp_path_factory.mktemp("readme")
    installation = Installation(directory, f"sqlite:///{directory / 'data' / 'token-server.db'}")
    server = start_server(installation, "dev")
    try:
        yield installation, server
    finally:
        assert server.stop() == 0


def block(language: str, containing: str) -> str:
    """The one block of the README with this in it."""
    (text,) = [text for kind, text in BLOCKS if kind == language and containing in text]
    return str(text)


def paste(demo: tuple[Installation, ServerProcess], command: list[str], text: str) -> str:
    """What the block prints when run beside the server, with the server's port for 8080."""
    installation, server = demo
    text = text.replace("http://127.0.0.1:8080", server.base_url)
    text = text.replace(".venv/bin/python", sys.executable)
    text = text.replace(".venv/bin/token-server", f"{sys.executable} -m token_server")
    environ = {**installation.environ("dev"), "TOKEN_SERVER_ISSUER": server.base_url}
    done = subprocess.run(
        [*command, text],
        cwd=installation.directory,
        env=environ,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not on this machine")
def test_first_token_by_curl(demo: tuple[Installation, ServerProcess]) -> None:
    """The second block of the README answers with a token."""
    printed = paste(demo, ["sh", "-ec"], block("sh", "grant_type=client_credentials"))
    assert '"token_type":"Bearer"' in printed


def test_first_token_by_our_command_line_and_library(
    demo: tuple[Installation, ServerProcess],
) -> None:
    """Get, decode and verify by command line; then the library's example on the same token."""
    secret = block("sh", "SECRET=").splitlines()[0]
    commands = block("sh", "token get")
    printed = paste(demo, ["sh", "-ec"], f"{secret}\n{commands}")
    assert "The token is good." in printed
    printed = paste(demo, [sys.executable, "-c"], block("python", "verify_sync"))
    assert printed == "demo-service ('orders:read', 'orders:write')\n"


def test_a_service_is_protected_by_ten_lines(
    demo: tuple[Installation, ServerProcess], tmp_path: Path
) -> None:
    """The FastAPI service as it stands: strangers are sent away, the demo client is let in."""
    installation, server = demo
    service = block("python", "FastAPI")
    lines = [line for line in service.splitlines() if line.strip()]
    (tmp_path / "orders.py").write_text(service.replace("http://127.0.0.1:8080", server.base_url))
    demo_json = json.loads((installation.directory / "data" / "demo.json").read_text())
    token = request_token(server.base_url, "demo-service", demo_json["service_client_secret"])
    log_path = tmp_path / "orders.log"
    with running_program([sys.executable, *UVICORN], tmp_path, log_path, {}) as port:
        orders = Service("readme", port, log_path)
        stranger, client = orders.request("/orders"), orders.request("/orders", token)
    assert len(lines) < 10
    assert (stranger.status, stranger.headers["WWW-Authenticate"]) == (401, "Bearer")
    assert (client.status, client.body) == (200, '"orders of demo-service"')


@pytest.mark.parametrize("link", re.findall(r"\]\(([^)#:]+)\)", README))
def test_link_leads_to_a_file(link: str) -> None:
    """No dead end."""
    assert (Path(ROOT) / link).exists()


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not on this machine")
def test_account_by_curl(demo: tuple[Installation, ServerProcess]) -> None:
    """Registered, and known by the token of the answer."""
    printed = paste(demo, ["sh", "-ec"], block("sh", "/api/auth/register"))
    assert '"email":"test@example.com"' in printed
