"""The slow clients in short, inside the test run; `scripts/slow_clients` is the long form."""

import sys
from pathlib import Path

import pytest

from tests.faults.slow_clients import ALLOWED_S, Plan, run_drill
from tests.support.process import Installation, running_processes
from token_server.services.clients import NewClient, add_client

CLIENT = "billing"


@pytest.mark.skipif(sys.platform != "linux", reason="counts the descriptors in /proc")
async def test_slow_clients_are_closed_and_others_served(tmp_path: Path) -> None:
    """M219: 60 sockets of four kinds; all are gone in time, no other request fails."""
    installation = Installation(tmp_path, f"sqlite:///{tmp_path}/token-server.db")
    async with installation.runtime() as runtime:
        _, secret = await add_client(runtime, NewClient(CLIENT, ("client_credentials",)))
    assert secret is not None
    with running_processes(installation) as (server,):
        plan = Plan(each=15, per_s=10, quiet_s=1)
        report = await run_drill(server, secret.reveal(), CLIENT, plan)
        reasons = {r["reason"] for r in server.log_records() if r["event"] == "connection_refused"}

    assert report.opened == 60
    assert report.gone_s < ALLOWED_S + 10, (
        "a busy machine may be late, a missing deadline is for ever"
    )
    assert report.failures == []
    assert reasons == {"head_too_slow", "body_too_slow", "reader_too_slow"}
