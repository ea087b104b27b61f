"""The rotation drill in short, inside the test run; `scripts/rotation_drill` is the long form."""

from pathlib import Path

import pytest

from tests.faults.rotation.drill import JWKS_MAX_AGE_S, Plan, run_drill
from tests.faults.rotation.rings import running_ring, with_keys_in_database
from tests.faults.rotation.verifiers import Kind, jose_kind, python_kinds
from tests.support.node import has_node, install_node_project
from tests.support.process import Installation

SHORT = Plan(
    rotations=1,
    spacing_s=0,
    token_ttl_s=12,
    rate=10,
    compromises=1,
    cooldown_s=0,  # the long form waits as long as PyJWT and jose do by default
)


@pytest.fixture(params=["sqlite", "two processes on postgresql"])
def installation(request: pytest.FixtureRequest, tmp_path: Path) -> Installation:
    """SQLite with a key directory, PostgreSQL with the keys in the database."""
    if request.param == "sqlite":
        return Installation(tmp_path, str(request.getfixturevalue("sqlite_url")))
    url = str(request.getfixturevalue("postgres_url"))
    return with_keys_in_database(Installation(tmp_path, url))


@pytest.fixture(scope="session")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> list[Kind]:
    """jose only where Node.js is; the other two always."""
    kinds = python_kinds(JWKS_MAX_AGE_S)
    if has_node():
        kinds.append(jose_kind(install_node_project(tmp_path_factory.mktemp("node"))))
    return kinds


async def test_no_verifier_notices_a_rotation(
    installation: Installation, kinds: list[Kind]
) -> None:
    """Foreign verifiers accept every token over rotations and after a compromise, with one fetch
    for a rotation at most; sessions live on (keys.md I2, I4)."""
    servers = 1 if installation.database_url.startswith("sqlite") else 2
    with running_ring("drill", installation, SHORT.settings, servers) as ring:
        report = await run_drill([ring], kinds, SHORT)
    assert report.problems == []
    assert len(report.rotations) == SHORT.rotations + 1  # one after the compromise
    assert len(report.compromises) == SHORT.compromises
    for kind in kinds:
        assert report.account.verified[kind.name] > 100
        assert report.account.old[kind.name] > 50
