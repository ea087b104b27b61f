"""The outage drill in short; `scripts/outage_drill` is the long form, with every fault."""

from pathlib import Path

import pytest

from tests.faults.outage.drill import Plan
from tests.faults.outage.namespaces import MISSING, are_possible, run_cut_link
from tests.faults.outage.run import Choice, run_postgres, run_sqlite

RATE = 40
pytestmark = pytest.mark.timeout(300)  # of seconds that are waited, on a machine with much to do


async def test_postgres_that_hangs_is_answered_503(tmp_path: Path) -> None:
    """250, 254: documents are 200 all the time, the rest waits for a bounded time and gets a 503
    with Retry-After; the process lives, is not ready, and comes back by itself with every session
    and no rotation more."""
    plan = Plan(before_s=0.5, outage_s=7, after_s=4, sessions=8, settling_s=5.5)
    choice = Choice(("frozen",), 1, RATE, plan)
    (report,) = [report async for report in run_postgres(tmp_path, choice)]
    assert report.problems == []
    frozen = report.during()
    assert frozen["refresh 503"] > 10
    assert frozen["key set 200"] > 50
    assert report.warnings["database_unavailable"] == 2  # reads and writes, once each


async def test_sqlite_that_cannot_be_written_is_answered_503(tmp_path: Path) -> None:
    """243, 244, 248: a full disk, a failing fsync and a file that is not in its place stop what
    writes, and nothing else; what was acknowledged is there afterwards."""
    plan = Plan(before_s=0.3, outage_s=2, after_s=3.5, sessions=8, settling_s=1)
    choice = Choice(("full", "fsync", "moved"), 1, RATE, plan)
    reports = [report async for report in run_sqlite(tmp_path, choice)]
    assert [report.problems for report in reports] == [[]] * len(reports)
    assert reports[-1].fault == "file moved away"
    for report in reports:
        assert report.during()["refresh 503"] > 5
        assert report.warnings["database_unavailable"] >= 1


async def test_instance_that_is_cut_off_harms_nobody_else(tmp_path: Path) -> None:
    """Two instances and PostgreSQL in network namespaces: the one whose link is cut answers 503, is
    not ready, signs nothing with keys that it cannot look up, serves its key set, and comes back;
    the other one notices nothing."""
    if not are_possible():
        pytest.skip(MISSING)
    plan = Plan(before_s=0.5, outage_s=8, after_s=4, sessions=6, settling_s=6.5)
    report, failed_elsewhere = await run_cut_link(tmp_path, Choice((), 2, RATE, plan))
    assert report.problems == []
    assert report.during()["refresh 503"] > 10
    assert failed_elsewhere == []
