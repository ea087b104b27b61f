"""docs/testing.md and docs/calling.md, pasted: the blocks run as they stand, against real parts."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.process import ROOT
from tests.support.token_endpoint import Asked, Said, said_json, scripted_endpoint
from token_server.verify import Verifier
from token_server.verify.testing import RunningTokenServer, running_token_server

ORDERS = "https://orders.example"
_BLOCK = re.compile(r"```python\n# ([\w.]+)\n(.*?)```", re.DOTALL)


def blocks(document: str) -> dict[str, str]:
    """By the name in their first line."""
    return dict(_BLOCK.findall((ROOT / "docs" / document).read_text()))


def test_every_test_of_the_testing_page_passes(tmp_path: Path) -> None:
    """A stranger's project made of the page's files alone."""
    files = blocks("testing.md")
    assert len(files) == 5
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:asyncio"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "17 passed" in done.stdout


@pytest.fixture(scope="module")
def server() -> Iterator[RunningTokenServer]:
    with running_token_server() as running:
        yield running


def test_calling_page_calls(
    server: RunningTokenServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The machine, httpx, requests and the session, with the addresses of this test put in."""
    billing = server.add_client("billing", scopes=["orders:read"], audiences=[ORDERS])
    monkeypatch.setenv("BILLING_SECRET", str(billing.client_secret))
    monkeypatch.chdir(tmp_path)
    first = server.log_in()["refresh_token"]
    Path("session").write_text(first)
    verifier = Verifier(issuer=server.issuer, audience=ORDERS)

    def answer(asked: Asked) -> Said:
        token = str(asked.authorization).removeprefix("Bearer ")
        return said_json(200, {"client_id": verifier.verify_sync(token).client_id})

    page: dict[str, Any] = {}
    with scripted_endpoint() as service:
        service.answer = answer
        for name in ("machine", "httpx", "requests", "session"):
            text = blocks("calling.md")[name]
            text = text.replace("https://auth.example", server.issuer)
            text = text.replace(f"{ORDERS}/orders", f"{service.url}/orders")
            text = text.replace("TokenAuth(source)", f"TokenAuth(source, ['{service.url}'])")
            text = text.replace("orders-cli", server.public_client_id)
            exec(compile(text, f"calling.md: {name}", "exec"), page)  # noqa: S102 - our own page
        assert page["orders"].json() == {"client_id": "billing"}
        assert page["get"](f"{service.url}/orders").json() == {"client_id": "billing"}
    token = page["session"].get_token()
    assert verifier.verify_sync(token).client_id == server.public_client_id
    assert Path("session").read_text() not in {"", first}
    assert Path("session").stat().st_mode & 0o077 == 0
