"""kill -9 under load in short, inside the test run; `scripts/kill` is the long form."""

import json
from pathlib import Path

from tests.faults.kill import KillRounds, Plan
from tests.support.process import Installation


async def test_acknowledged_changes_survive_kill_9(database_url: str, tmp_path: Path) -> None:
    """Refreshes, logins and password changes that were answered are there after the restart, and
    no family has two usable tokens."""
    plan = Plan(rounds=2, seed=20261122, log_path=tmp_path / "kills.jsonl")
    report = await KillRounds(Installation(tmp_path, database_url), plan).run()
    assert report.problems == []
    assert report.rounds == 2
    assert report.acknowledged["refresh"] > 0
    assert report.acknowledged["password change"] > 0
    entries = [json.loads(line) for line in plan.log_path.read_text("utf-8").splitlines()]
    assert [entry["round"] for entry in entries] == [1, 2]
    assert any(entry["in_flight"] for entry in entries)
