"""kill -9 at writes of state changes, in short; `scripts/write_kills` is the long form.

Tracing needs no program but a right: without it (root or CAP_SYS_PTRACE) these tests are skipped.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.broken_server import wrapper_of
from tests.faults.forked_starts import Forker
from tests.faults.write_kills import ANSWERED, Walk, WriteKillReport, WriteKills
from tests.faults.write_steps import CALLS
from tests.support.databases import postgres_server
from tests.support.process import Installation

NOTHING_LEFT = 1000  # no change has so many writes: killed when it is answered


@pytest.fixture(scope="module")
def forker() -> Iterator[Forker]:
    forker = Forker()
    yield forker
    forker.close()


@pytest.fixture(scope="module")
def own_postgres_url() -> Iterator[str]:
    """Its processes are killed, which ends the connections of everybody."""
    with postgres_server(is_shared=False) as url:
        yield url


async def walked(kills: WriteKills, *walks: Walk) -> WriteKillReport:
    if not CALLS:
        pytest.skip("the system calls of this machine are not known here")
    try:
        await kills.prepare()
        for walk in walks:
            await kills.walk(walk)
        await kills.close()
    except PermissionError:
        await kills.abandon()
        pytest.skip("processes may not be traced here")
    except BaseException:
        await kills.abandon()
        raise
    return kills.report


async def test_kill_of_the_server_at_its_writes(
    database_url: str, tmp_path: Path, forker: Forker
) -> None:
    """240: an acknowledged change is there after the restart, any other one wholly or not at all;
    one token of each family is usable, and nothing that was revoked."""
    kills = WriteKills(Installation(tmp_path, database_url), tmp_path / "log", forker=forker)
    report = await walked(
        kills,
        Walk("server", only=frozenset({"change-password"}), first=11, every=20),
        Walk("server", "after", frozenset({"revoke a refresh token"}), 7, 9, under_load=True),
    )
    assert report.problems == []
    assert report.kills >= 4
    assert report.steps[ANSWERED] == 2
    assert report.in_flight.keys() >= {"change-password", "refresh"}


async def test_kill_of_a_command_at_its_writes(
    sqlite_url: str, tmp_path: Path, forker: Forker
) -> None:
    """240: the command line beside a running server: the old secret or the new one."""
    kills = WriteKills(Installation(tmp_path, sqlite_url), tmp_path / "log", forker=forker)
    walk = Walk("command", only=frozenset({"client rotate-secret"}), first=12, every=7)
    report = await walked(kills, walk)
    assert report.problems == []
    assert report.kills >= 1
    assert report.tables["client rotate-secret"].acknowledged == 0


async def test_kill_of_postgresql_at_its_writes(
    own_postgres_url: str, tmp_path: Path, forker: Forker
) -> None:
    """250, 251: PostgreSQL's process dies in the middle of a transaction, or with the answer to a
    COMMIT unsent: 503, the server goes on without a restart, and the change is whole or absent."""
    kills = WriteKills(Installation(tmp_path, own_postgres_url), tmp_path / "log", forker=forker)
    report = await walked(kills, Walk("backend", only=frozenset({"logout"}), first=3, every=3))
    assert report.problems == []
    assert report.kills >= 3
    assert any(step.endswith("database") for step in report.steps)


async def test_kills_notice_an_answer_before_the_commit(sqlite_url: str, tmp_path: Path) -> None:
    """The checks can fail: a server that answers before its commit loses what it acknowledged."""
    kills = WriteKills(
        Installation(tmp_path, sqlite_url),
        tmp_path / "log",
        wrapper=wrapper_of("answer-before-commit"),
    )
    report = await walked(kills, Walk("server", only=frozenset({"logout"}), first=NOTHING_LEFT))
    (table,) = report.tables.values()
    assert table.acknowledged == 1
    assert any("logged out, and alive" in problem for problem in report.problems)
