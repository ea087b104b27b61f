"""The races of the account API in short, inside the test run; `scripts/races` is the long form."""

from pathlib import Path

import pytest

from tests.faults.account_races import OVERRIDES, RACES, run_races
from tests.support.process import Installation, running_processes


@pytest.fixture(params=["sqlite", "two processes on postgresql"])
def installation(request: pytest.FixtureRequest, tmp_path: Path) -> Installation:
    name = "sqlite_url" if request.param == "sqlite" else "postgres_url"
    return Installation(tmp_path, str(request.getfixturevalue(name)), OVERRIDES)


async def test_nothing_lives_that_should_not(installation: Installation) -> None:
    """Login, refresh and registration against password change, disabling, logout and each other
    (F124, F125, refresh.md 9)."""
    count = 1 if installation.database_url.startswith("sqlite") else 2
    with running_processes(installation, count) as servers:
        reports = await run_races(installation, [server.address for server in servers], 8)
    assert [problem for report in reports for problem in report.problems] == []
    assert [report.rounds for report in reports] == [8] * len(RACES)
