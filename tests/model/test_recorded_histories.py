"""Histories recorded at real processes, in short; `scripts/soak history` is the long form."""

from pathlib import Path

import pytest

from tests.model.mutants import (
    Break,
    answers_before_the_commit,
    reads_then_writes,
    remembers_too_long,
)
from tests.model.recording import Plan, Recorder, client_of, record, register
from tests.support.process import Installation, running_processes
from tests.support.server import RunningServer


@pytest.mark.timeout(300)
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


@pytest.mark.parametrize(
    ("break_it", "is_strict"),
    [
        pytest.param(answers_before_the_commit, False, id="revoke answers before the commit"),
        pytest.param(remembers_too_long, False, id="introspection remembers"),
        pytest.param(reads_then_writes, True, id="two winners in strict mode"),
    ],
)
async def test_history_of_a_broken_server_has_no_order(
    sqlite_server: RunningServer,
    monkeypatch: pytest.MonkeyPatch,
    break_it: Break,
    is_strict: bool,
) -> None:
    """The recorder asks enough, and the checker says so: the same on the real one has an order."""
    client_id = client_of(is_strict=is_strict)
    secret = (await register(sqlite_server.runtime))[client_id]
    host, _, port = sqlite_server.base_url.removeprefix("http://").rpartition(":")
    client = {"client_id": client_id, "client_secret": secret}
    plan = Plan(rounds=1, is_strict=is_strict)
    recorder = Recorder([(host, int(port))], client, plan)
    await recorder.round()
    assert recorder.report.problems == []
    break_it(monkeypatch)
    for _ in range(20):
        await recorder.round()
        if recorder.report.problems:
            break
    assert any("no order explains" in problem for problem in recorder.report.problems)
