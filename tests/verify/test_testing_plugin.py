"""The pytest plugin in a stranger's project: there when asked for, else as if it were not."""

import subprocess
import sys
from pathlib import Path

from token_server.verify.testing import TestIssuer

_SERVICE_TEST = """
import pytest
from token_server.verify import TokenError
from token_server.verify.testing import TestIssuer

def test_good(token_issuer):
    claims = token_issuer.verifier().verify_sync(token_issuer.token(sub="usr_a", scope="a"))
    assert claims.scopes == ("a",)
    token_issuer.rotated()

def test_each_test_has_a_fresh_one(token_issuer):
    assert len(token_issuer.jwks()["keys"]) == 1

@pytest.mark.parametrize("flaw", TestIssuer.FLAWS)
def test_flawed(token_issuer, flaw):
    with pytest.raises(TokenError):
        token_issuer.verifier().verify_sync(token_issuer.flawed(flaw))
"""

_INNOCENT_TEST = """
import sys

def test_innocent():
    ours = {name for name in sys.modules if name.startswith("token_server.")}
    assert ours == {"token_server.pytest_plugin"}
    assert "cryptography" not in sys.modules
"""


# Other plugins of this environment are none of the stranger's.
_ALONE = ("-p", "no:cacheprovider", "-p", "no:asyncio")


def run_pytest(directory: Path, text: str) -> str:
    (directory / "test_service.py").write_text(text)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-W", "error", *_ALONE],
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_fixture_gives_an_issuer_to_every_test(tmp_path: Path) -> None:
    """By installing the package, with warnings as errors and nothing to import; TestIssuer itself
    is not taken for a test."""
    printed = run_pytest(tmp_path, _SERVICE_TEST)
    assert f"{2 + len(TestIssuer.FLAWS)} passed" in printed


def test_plugin_loads_nothing_for_who_does_not_use_it(tmp_path: Path) -> None:
    """One module of a dozen lines: neither the library nor cryptography."""
    assert "1 passed" in run_pytest(tmp_path, _INNOCENT_TEST)
