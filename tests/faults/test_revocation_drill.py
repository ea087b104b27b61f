"""The revocation drill in short, inside the test run; `scripts/revocation_drill` is the long."""

from pathlib import Path

import pytest

from tests.faults.revocation.drill import Plan, run_drill
from tests.support.process import Installation

SHORT = Plan(revocations=2, ttl_s=1, fail_open_for_s=2, kinds=("draft", "ours"), servers=1)


@pytest.mark.timeout(120)
async def test_revoked_session_is_refused_elsewhere_within_one_ttl(
    sqlite_url: str, tmp_path: Path
) -> None:
    """By a verifier that is written by the draft alone and by ours, which ask the server for lists
    only; also after kill -9, and without the server they do as they were told (revocation.md)."""
    figures = await run_drill(Installation(tmp_path, sqlite_url), SHORT)
    assert figures.problems == []
    for kind in SHORT.kinds:
        assert len(figures.latencies_s[kind]) == SHORT.revocations
        assert figures.verified[kind] > 10 * figures.fetched
