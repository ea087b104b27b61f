"""The README's whole rotation, pasted beside a development server whose windows are shorter."""

import re

import pytest

from tests.docs.test_readme import block, paste
from tests.support.process import Installation, start_server

WINDOWS = {
    "JWKS_MAX_AGE": "1s",
    "KEY_RELOAD_INTERVAL": "1s",
    "CLOCK_SKEW": "0s",
    "KEY_LEAD": "10s",  # and so a replaced key is kept for as long
    "ACCESS_TOKEN_TTL": "5s",
}
SHORTER = {"sleep 30": "sleep 11", "sleep 55": "sleep 16"}


def state_of(kid: str, printed: str) -> list[str]:
    """The state of a key in each table of the output, in order."""
    return re.findall(rf"^(\w+) +{re.escape(kid)}", printed, re.MULTILINE)


def test_rotation_as_a_newcomer_pastes_it(tmp_path_factory: pytest.TempPathFactory) -> None:
    """active, retiring, retired for the first key; next, active for the second; and `plan` said
    so before it happened."""
    directory = tmp_path_factory.mktemp("rotation")
    installation = Installation(directory, f"sqlite:///{directory / 'data' / 'token-server.db'}")
    server = start_server(installation, "dev", overrides=WINDOWS)
    try:
        text = block("sh", "keys rotate")
        for real, shorter in SHORTER.items():
            assert text.count(real) == 1
            text = text.replace(real, shorter)
        printed = paste((installation, server), ["sh", "-ec"], text)
    finally:
        assert server.stop() == 0
    first, second = re.findall(r"^\w+ +([\w-]{43}) ", printed, re.MULTILINE)[:2]
    assert state_of(first, printed) == ["active", "retiring", "retired"]
    assert state_of(second, printed) == ["next", "active", "active"]
    assert f"{second}  signs from " in printed
    assert "leaves the JWKS" in printed
