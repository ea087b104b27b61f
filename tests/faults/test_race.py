"""The race in short, inside the test run; `scripts/race` is the long form."""

from pathlib import Path

import pytest

from tests.faults.race import Race, run_race
from tests.support.process import Installation, running_processes


@pytest.fixture(params=["sqlite", "two processes on postgresql"])
def installation(request: pytest.FixtureRequest, tmp_path: Path) -> Installation:
    name = "sqlite_url" if request.param == "sqlite" else "postgres_url"
    return Installation(tmp_path, str(request.getfixturevalue(name)))


@pytest.mark.parametrize("is_strict", [False, True], ids=["replay window", "strict"])
async def test_refresh_token_used_fifty_times_at_once(
    installation: Installation, is_strict: bool
) -> None:
    """One generation step and one successor for all, or one winner and a dead family (RFC 9700
    §4.14.2)."""
    count = 1 if installation.database_url.startswith("sqlite") else 2
    with running_processes(installation, count) as servers:
        addresses = [server.address for server in servers]
        race = Race(families=8, uses=50, is_strict=is_strict)
        report = await run_race(installation, addresses, race)
    assert report.problems == []
    assert report.families == 8
    expected = {200: 8, 400: 8 * 49} if is_strict else {200: 8 * 50}
    assert dict(report.statuses) == expected
