"""The library alone: a resource service that imports it loads nothing of the server."""

import json
import subprocess
import sys

FOREIGN_MODULES = {
    "jwt",
    "pytest",
    "aiosqlite",
    "alembic",
    "argon2",
    "asyncio",
    "asyncpg",
    "click",
    "httpx",
    "litestar",
    "msgspec",
    "prometheus_client",
    "sqlalchemy",
    "uvicorn",
}
# What only a fetch needs, and what would change an application that merely imports us.
LATER_MODULES = {"asyncio", "http.client", "ssl", "urllib.request"}
LIST_MODULES = "import json, sys, token_server.verify; print(json.dumps(list(sys.modules)))"


def test_importing_verify_loads_nothing_of_the_server() -> None:
    """architecture.md: verify needs the standard library and cryptography, and no HTTP client
    before something is fetched."""
    run = subprocess.run(
        [sys.executable, "-c", LIST_MODULES], capture_output=True, check=True, text=True
    )
    loaded = json.loads(run.stdout)

    assert not {name.split(".")[0] for name in loaded} & FOREIGN_MODULES
    assert not set(loaded) & LATER_MODULES
    ours = {name for name in loaded if name.startswith("token_server.")}
    assert {name for name in ours if not name.startswith("token_server.verify")} == set()
    assert not {name for name in ours if "adapters" in name or "testing" in name}
    assert "token_server.verify.verifier" in ours
