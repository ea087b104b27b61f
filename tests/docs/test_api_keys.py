"""docs/api-keys.md, pasted beside a development server."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.process import ROOT, Installation, start_server
from token_server.core.api_key import format_api_key

PAGE = (ROOT / "docs" / "api-keys.md").read_text()


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not on this machine")
def test_first_block_works_as_pasted(tmp_path: Path) -> None:
    """A key is made, reads its owner's account, is revoked and refused."""
    installation = Installation(tmp_path, f"sqlite:///{tmp_path / 'data' / 'token-server.db'}")
    server = start_server(installation, "dev")
    try:
        text = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)[0]
        text = text.replace("http://127.0.0.1:8080", server.base_url)
        text = text.replace(".venv/bin/python", sys.executable)
        text = text.replace(".venv/bin/token-server", f"{sys.executable} -m token_server")
        done = subprocess.run(
            ["sh", "-ec", text],
            cwd=tmp_path,
            env={**installation.environ("dev"), "TOKEN_SERVER_ISSUER": server.base_url},
            capture_output=True,
            text=True,
            timeout=110,
            check=False,
        )
    finally:
        assert server.stop() == 0
    assert done.returncode == 0, done.stderr
    me, listed, refused = [json.loads(line) for line in done.stdout.splitlines()]
    assert me["email"] == "demo@example.com"
    assert [key["scopes"] for key in listed["api_keys"]] == [["orders:read"]]
    assert refused["code"] == "api_key_refused"


def test_pattern_for_leak_scanners_finds_keys() -> None:
    """Every key, and nothing shorter."""
    (pattern,) = re.findall(r"`(tsk_\[[^`]+)`", PAGE)
    text = format_api_key("key_" + "A" * 16, bytes(32))
    assert len(text) == 69
    assert re.fullmatch(pattern, text)
    assert not re.search(pattern, text[:-1])


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\(([^)#]+)", PAGE))))
def test_link_leads_to_a_file(link: str) -> None:
    """No dead end."""
    assert (ROOT / "docs" / link).exists()
