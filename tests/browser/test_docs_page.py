"""The page that `token-server dev` shows at /docs, in a browser."""

from pathlib import Path

from tests.browser.chromium import rendered
from tests.support.process import Installation, running_processes
from token_server.grants.registry import GRANTS


def test_docs_page_works_under_its_own_policy(chromium: str, tmp_path: Path) -> None:
    """The whole interface is shown, and the policy had nothing to refuse."""
    installation = Installation(tmp_path, f"sqlite:///{tmp_path}/token-server.db")
    with running_processes(installation, mode="dev") as [server]:
        dom, console = rendered(chromium, f"{server.base_url}/docs#/tokens/getToken")

    assert "/oauth2/token" in dom
    assert "/.well-known/jwks.json" in dom
    assert all(grant in dom for grant in GRANTS)
    assert "CONSOLE" not in console, console
