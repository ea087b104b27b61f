"""The command line changes things while a server is busy on the same database."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.faults.kill import register
from tests.faults.kill_load import (
    BEHIND_PROXY,
    Account,
    Load,
    Session,
    World,
    is_invalid_grant,
    login_request,
)
from tests.support.load import open_connections, token_request
from tests.support.process import Installation, running_processes

PASSWORD = "correct horse battery staple"
NEW_PASSWORD = "correct horse battery stable"
SESSIONS = 16


async def test_command_line_works_beside_a_busy_server(database_url: str, tmp_path: Path) -> None:
    """Each change succeeds and holds at once, and no request of the load fails (SQLite has one
    writer at a time, over all processes)."""
    installation = Installation(tmp_path, database_url, BEHIND_PROXY)
    busy = Account("busy@example.org", PASSWORD, changes=False)
    other = Account("other@example.org", PASSWORD, changes=False)
    world = World([Session(busy) for _ in range(SESSIONS)])
    async with installation.runtime() as runtime:
        await register(runtime, [busy, other])
    with running_processes(installation) as [server]:
        load = Load(world, server)
        running = asyncio.create_task(load.run())
        client = await _cli(
            installation.run_cli, "client", "add", "batch", "--grant", "client_credentials"
        )
        await _cli(
            installation.run_cli,
            *("user", "passwd", other.email, "--password-stdin"),
            stdin=NEW_PASSWORD + "\n",
        )
        async with open_connections([server.address], 1) as [connection]:
            form = {"grant_type": "client_credentials", "client_id": "batch"}
            machine = await connection.request(token_request(form, client["client_secret"]))
            old = await connection.request(login_request(other.email, PASSWORD))
            new = await connection.request(login_request(other.email, NEW_PASSWORD))
        load.finish()
        await running
    assert (machine.status, new.status) == (200, 200)
    assert is_invalid_grant(old)
    assert world.problems == []
    assert world.acknowledged["refresh"] > SESSIONS


async def _cli(run: Callable[..., Any], *arguments: str, stdin: str = "") -> Any:
    return await asyncio.to_thread(run, *arguments, stdin=stdin)
