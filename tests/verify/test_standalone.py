"""The library alone: a resource service that imports it loads nothing of the server."""

import json
import subprocess
import sys

SERVER_MODULES = {
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
    "structlog",
    "uvicorn",
}
LIST_MODULES = "import json, sys, token_server.verify; print(json.dumps(list(sys.modules)))"


def test_importing_verify_loads_nothing_of_the_server() -> None:
    """architecture.md: verify needs the standard library and cryptography."""
    run = subprocess.run(
        [sys.executable, "-c", LIST_MODULES], capture_output=True, check=True, text=True
    )
    loaded = json.loads(run.stdout)

    assert not {name.split(".")[0] for name in loaded} & SERVER_MODULES
    ours = {name for name in loaded if name.startswith("token_server.")}
    assert {name for name in ours if not name.startswith("token_server.verify")} == set()
    assert "token_server.verify.verifier" in ours
