"""What a production start refuses: all of it at once, each with its fix."""

import sqlite3
from pathlib import Path

import pytest

from token_server.config_loading import read_settings
from token_server.errors import OperatorError
from token_server.runtime import open_runtime
from token_server.services.clients import disable_client
from token_server.services.demo import ensure_demo
from token_server.services.settings_check import Findings, check_serve, require_no_demo
from token_server.services.users import disable_user

CHEAP_HASHES = {"TOKEN_SERVER_ARGON2_MEMORY_KIB": "8", "TOKEN_SERVER_ARGON2_TIME_COST": "1"}


@pytest.fixture
def good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """On a machine with a sound SQLite."""
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 51, 3))
    return {
        "TOKEN_SERVER_ISSUER": "https://auth.example",
        "TOKEN_SERVER_REGISTRATION": "closed",
        "TOKEN_SERVER_DATABASE_URL": f"sqlite:///{tmp_path}/token-server.db",
        "TOKEN_SERVER_KEYS_DIR": str(tmp_path / "keys"),
    }


async def check(environ: dict[str, str], **changes: str) -> Findings:
    stated = environ | {f"TOKEN_SERVER_{name}": text for name, text in changes.items()}
    return await check_serve(read_settings("serve", {}, stated))


async def test_a_good_configuration_has_no_findings(good: dict[str, str], tmp_path: Path) -> None:
    """And looking at it makes neither a database nor keys."""
    assert await check(good) == Findings((), ())
    assert _children(tmp_path) == []


async def test_a_sqlite_that_can_damage_its_file_is_named_at_the_start(
    good: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """O247: the WAL-reset bug up to 3.51.2; not with PostgreSQL."""
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 51, 2))
    (warning,) = (await check(good)).warnings
    assert "is older than 3.51.3" in warning
    elsewhere = {"DATABASE_URL": "postgresql://127.0.0.1:1/token_server"}
    assert not any("3.51.3" in text for text in (await check(good, **elsewhere)).warnings)


async def test_nothing_stated_lists_what_must_be(tmp_path: Path) -> None:
    """issuer and registration have no default that is right for production."""
    environ = {"TOKEN_SERVER_DATABASE_URL": f"sqlite:///{tmp_path}/x.db"}

    problems = (await check(environ, KEYS_DIR=str(tmp_path / "keys"))).problems

    assert [problem.split()[0] for problem in problems] == ["ISSUER", "REGISTRATION"]
    assert all("is not stated: set TOKEN_SERVER_" in problem for problem in problems)


RISKS = [
    ({"ISSUER": "http://127.0.0.1:8080"}, "ISSUER is not https"),
    ({"WORKERS": "2"}, "SQLite serves one process"),
    ({"KEY_STORE": "database"}, "with KEY_STORE=database"),
    ({"ARGON2_MEMORY_KIB": "19456", "ARGON2_TIME_COST": "1"}, "too cheap"),
    ({"ARGON2_MEMORY_KIB": "4096", "ARGON2_TIME_COST": "20"}, "too cheap"),
]


@pytest.mark.parametrize(("changes", "words"), RISKS)
async def test_each_unsafe_setting_is_refused(
    good: dict[str, str], changes: dict[str, str], words: str
) -> None:
    """One rule at a time, so that none hides behind another (case 267)."""
    problems = (await check(good, **changes)).problems

    assert len(problems) == 1
    assert words in problems[0]


@pytest.mark.parametrize(
    ("memory_kib", "time_cost"), [("7168", "5"), ("12288", "3"), ("47104", "1")]
)
async def test_owasps_argon2_profiles_are_accepted(
    good: dict[str, str], memory_kib: str, time_cost: str
) -> None:
    """OWASP's password storage cheat sheet names them as equivalents."""
    changed = {"ARGON2_MEMORY_KIB": memory_kib, "ARGON2_TIME_COST": time_cost}

    assert (await check(good, **changed)).problems == ()


async def test_all_problems_come_at_once(good: dict[str, str], tmp_path: Path) -> None:
    """Wrong values and unsafe ones in one list; a refused value is not judged again."""
    (tmp_path / "keys").mkdir()
    key = tmp_path / "keys" / "master.key"
    key.write_text("x")
    key.chmod(0o644)
    changed = {"ISSUER": "auth", "REGISTRATION": "maybe", "WORKERS": "2", "STATUS_TTL": "x"}

    problems = (await check(good, **changed)).problems

    assert len([p for p in problems if "must be" in p]) == 3
    assert any("SQLite serves one process" in problem for problem in problems)
    assert any(str(key) in problem and "chmod" in problem for problem in problems)
    assert not any("not stated" in problem for problem in problems)


@pytest.mark.parametrize(
    ("address", "warned"),
    [("0.0.0.0:9001", 1), ("[::]:9001", 1), ("8.8.8.8:9001", 1), ("10.0.0.1:9001", 0)],
)
async def test_a_public_management_port_is_warned_about(
    good: dict[str, str], address: str, warned: int
) -> None:
    """Not refused: in a container 0.0.0.0 is the only choice, and the network decides."""
    findings = await check(good, MANAGEMENT_BIND=address)

    assert (len(findings.problems), len(findings.warnings)) == (0, warned)


async def test_more_connections_than_the_database_grants_are_warned_about(
    good: dict[str, str], postgres_url: str
) -> None:
    """Not refused: the pools may never fill, and a limit of the role may be raised meanwhile."""
    joint = "&" if "?" in postgres_url else "?"
    roomy, tight = f"{postgres_url}{joint}pool_size=3", f"{postgres_url}{joint}pool_size=1000"

    assert await check(good | {"TOKEN_SERVER_DATABASE_URL": roomy}) == Findings((), ())
    findings = await check(good | {"TOKEN_SERVER_DATABASE_URL": tight})

    assert findings.problems == ()
    assert len(findings.warnings) == 1
    assert findings.warnings[0].startswith("too few database connections, 1 x 1000 = 1000 for ")


async def test_demo_accounts_are_refused_until_they_are_disabled(
    good: dict[str, str], tmp_path: Path
) -> None:
    """A dev database that is taken to production would have known secrets in it."""
    settings = read_settings("dev", {}, good | CHEAP_HASHES).require().settings
    async with open_runtime(settings, with_keys=False) as runtime:
        demo = await ensure_demo(runtime, tmp_path / "demo.json")
        refused = (await check(good)).problems
        with pytest.raises(OperatorError, match="demo-cli"):
            await require_no_demo(runtime.store)

        await disable_user(runtime, demo.user_email)
        await disable_client(runtime, demo.public_client_id)
        await disable_client(runtime, demo.service_client_id)
        accepted = (await check(good)).problems
        await require_no_demo(runtime.store)

    assert len(refused) == 1
    assert "user demo@example.com, client demo-cli, client demo-service" in refused[0]
    assert accepted == ()


async def test_a_database_that_is_away_is_a_warning(good: dict[str, str]) -> None:
    """254: `serve` starts and waits for it; its password stays hidden."""
    url = "postgresql://app:hunter2@127.0.0.1:1/tokens"
    found = await check(good, DATABASE_URL=url)

    assert found.problems == ()
    assert "the database postgresql://app:***@127.0.0.1:1/tokens does not" in found.warnings[-1]


def _children(path: Path) -> list[Path]:
    return list(path.iterdir())
