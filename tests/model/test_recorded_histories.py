"""Histories recorded at real processes, in short; `scripts/soak history` is the long form."""

from pathlib import Path

import pytest

from tests.model.recording import Plan, record
from tests.support.process import Installation, running_processes


@pytest.mark.parametrize("processes", [1, 2], ids=["sqlite", "two processes on postgresql"])
async def test_every_history_has_an_order(
    request: pytest.FixtureRequest, tmp_path: Path, processes: int
) -> None:
    """Refresh, revoke and introspect at once are linearisable: as if one came after the other, in
    an order that respects who was answered before who asked (refresh.md, revocation.md)."""
    url = request.getfixturevalue("sqlite_url" if processes == 1 else "postgres_url")
    installation = Installation(tmp_path, str(url))
    plans = [Plan(rounds=6), Plan(rounds=6, is_strict=True)]
    with running_processes(installation, processes) as servers:
        reports = await record(installation, [server.address for server in servers], plans)
    for report in reports:
        assert report.problems == []
        assert report.histories == 18
        # Otherwise nothing was shown.
        wanted = {"refresh rotated or replayed", "refresh refused", "refresh lost"}
        looks = {"introspect active", "introspect inactive", "introspect_access inactive"}
        assert wanted | looks <= report.seen.keys()
