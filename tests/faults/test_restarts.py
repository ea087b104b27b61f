"""The restart drill in short, inside the test run; `scripts/restart_drill` is the long form."""

from pathlib import Path

import pytest

from tests.faults.restarts.drill import Plan, run_drill
from tests.faults.restarts.load import Mix
from tests.support.nginx import MISSING, find_nginx
from tests.support.process import Installation

ROUNDS = {1: 1, 2: 1}  # by workers


@pytest.mark.parametrize("workers", ROUNDS)
async def test_no_request_fails_when_an_instance_restarts(
    workers: int, empty_postgres_url: str, tmp_path: Path
) -> None:
    """SIGTERM under load behind nginx: nobody sees it, and no session ends."""
    program = find_nginx()
    if program is None:
        pytest.skip(MISSING)
    overrides = {"ARGON2_MEMORY_KIB": "7168", "ARGON2_TIME_COST": "5"}
    installation = Installation(tmp_path, empty_postgres_url, overrides)
    plan = Plan(ROUNDS[workers], workers, Mix(machines=4, sessions=3, readers=2))

    report = await run_drill(program, installation, plan)

    assert report.account.failures == []
    assert len(report.stops_s) == plan.rounds
    assert all(report.account.answered[kind] > 20 for kind in ("machine token", "refresh"))
    assert report.moved > 0, "nobody was refused: nothing was restarted under load"
