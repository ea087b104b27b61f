"""`token-server doctor` and `version`: healthy installations, and each thing that can be wrong."""

import json
import os
import re
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tests.support.databases import run_apart
from tests.support.keyrings import key_settings
from tests.support.process import Installation, running_processes
from token_server.cli.main import cli
from token_server.crypto.opening import open_keyring
from token_server.services.installation import package_version


@pytest.fixture
def environ(sqlite_url: str, tmp_path: Path) -> dict[str, str]:
    """With keys of today: those that tests share begin on another day."""
    made = {
        "TOKEN_SERVER_DATABASE_URL": sqlite_url,
        "TOKEN_SERVER_KEYS_DIR": str(tmp_path / "keys"),
    }
    assert CliRunner().invoke(cli, ["keys", "init"], env=made).exit_code == 0
    return made


def database_file(environ: dict[str, str]) -> Path:
    return Path(environ["TOKEN_SERVER_DATABASE_URL"].removeprefix("sqlite:///"))


def examine(environ: dict[str, str]) -> tuple[int, dict[str, list[dict[str, Any]]]]:
    """The exit code, and the checks by level."""
    result = CliRunner().invoke(cli, ["doctor", "--json"], env=environ)
    report = json.loads(result.stdout)
    assert report["ok"] is (result.exit_code == 0)
    levels = ("ok", "warn", "fail")
    return result.exit_code, {
        level: [check for check in report["checks"] if check["level"] == level] for level in levels
    }


def test_a_sound_installation_passes(environ: dict[str, str]) -> None:
    """Everything is looked at, and nothing fails."""
    code, found = examine(environ)

    assert code == 0
    assert found["fail"] == []
    names = {check["check"] for check in found["ok"]}
    assert names >= {"settings", "versions", "keys", "database", "schema", "wal", "permissions"}
    assert names >= {"clock", "disk", "signing_key", "next_key", "key_rotation"}
    (passwords,) = (check for check in found["ok"] if check["check"] == "passwords")
    assert "m=19456,t=2,p=1 by libsodium (PyNaCl)" in passwords["detail"]


def test_doctor_says_when_hashing_is_slower_than_it_could_be(environ: dict[str, str]) -> None:
    """Without the extra `fast` everything works, at twice the price; several lanes are a choice."""
    code = (
        "import sys\n"
        "sys.modules['nacl'] = sys.modules['nacl.bindings'] = None\n"
        "from token_server.__main__ import main\n"
        "sys.argv = ['token-server', 'doctor', '--json']\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        check=True,
    )
    checks = {check["check"]: check for check in json.loads(done.stdout)["checks"]}

    assert "by argon2-cffi" in checks["passwords"]["detail"]
    assert "token-server[fast]" in checks["passwords"]["fix"]
    _, found = examine({**environ, "TOKEN_SERVER_ARGON2_PARALLELISM": "2"})
    (several,) = (check for check in found["ok"] if check["check"] == "passwords")
    assert "by argon2-cffi" in several["detail"]
    assert several["fix"] == ""


def test_postgresql_is_examined_too(environ: dict[str, str], postgres_url: str) -> None:
    """Version, schema and the difference of the clocks."""
    code, found = examine(environ | {"TOKEN_SERVER_DATABASE_URL": postgres_url})

    details = {check["check"]: check["detail"] for check in found["ok"]}
    assert code == 0
    assert "PostgreSQL" in details["database"]
    assert details["clock"].endswith("from the database server's")


def test_connections_are_counted_for_all_workers(
    environ: dict[str, str], postgres_url: str
) -> None:
    """WORKERS x pool_size against what PostgreSQL grants; behind a pooler there is nothing to
    say."""
    joint = "&" if "?" in postgres_url else "?"
    found = {}
    for more in ("pool_size=7", "pool_size=600", "pool_size=600&prepared_statements=off"):
        url = f"{postgres_url}{joint}{more}"
        more_environ = {"TOKEN_SERVER_DATABASE_URL": url, "TOKEN_SERVER_WORKERS": "2"}
        code, levels = examine(environ | more_environ)
        assert code == 0
        found[more] = [
            (level, check["detail"], check["fix"])
            for level, checks in levels.items()
            for check in checks
            if check["check"] == "connections"
        ]

    (level, detail, fix) = found["pool_size=7"][0]
    assert (level, fix) == ("ok", "")
    assert re.fullmatch(
        r"2 x 7 = 14 for this instance; PostgreSQL grants \d+: room for [1-9]\d* such instances",
        detail,
    )
    (level, detail, fix) = found["pool_size=600"][0]
    assert level == "warn"
    assert detail.endswith("room for 0 such instances")
    assert "max_connections" in fix
    assert found["pool_size=600&prepared_statements=off"] == []


def test_an_empty_directory_is_no_failure(tmp_path: Path) -> None:
    """Before the first start there is nothing to mend, and the doctor makes nothing."""
    environ = {
        "TOKEN_SERVER_DATABASE_URL": f"sqlite:///{tmp_path}/none.db",
        "TOKEN_SERVER_KEYS_DIR": str(tmp_path / "keys"),
    }
    code, found = examine(environ)

    assert code == 0
    assert {"keys", "database"} <= {check["check"] for check in found["warn"]}
    assert list(tmp_path.iterdir()) == []


def only_failure(environ: dict[str, str]) -> dict[str, Any]:
    code, found = examine(environ)
    assert code == 1
    assert len(found["fail"]) == 1, found["fail"]
    return found["fail"][0]


def test_a_database_that_others_can_read_fails(environ: dict[str, str]) -> None:
    """It holds password hashes; the fix can be pasted."""
    file = database_file(environ)
    file.chmod(0o644)

    failure = only_failure(environ)

    assert failure["check"] == "permissions"
    assert failure["fix"] == f"run chmod 600 {file}"


def test_a_key_file_that_others_can_read_fails(environ: dict[str, str]) -> None:
    """Named, with what to do (case 227)."""
    key = next(Path(environ["TOKEN_SERVER_KEYS_DIR"]).glob("*.pem"))
    key.chmod(0o644)

    failure = only_failure(environ)

    assert failure["check"] == "keys"
    assert str(key) in failure["detail"]


def test_a_clock_before_the_first_key_fails(sqlite_url: str, tmp_path: Path) -> None:
    """Every file is good, and yet nothing could be signed: both instants are named."""
    tomorrow = int(time.time()) + 86400
    settings = key_settings(tmp_path / "keys")
    run_apart(open_keyring(settings, now=tomorrow, entropy=os.urandom))
    failure = only_failure(
        {
            "TOKEN_SERVER_DATABASE_URL": sqlite_url,
            "TOKEN_SERVER_KEYS_DIR": str(tmp_path / "keys"),
        }
    )

    assert failure["check"] == "signing_key"
    assert time.strftime("before %Y-%m-%dT%H:%M:%SZ", time.gmtime(tomorrow)) in failure["detail"]


def test_a_clock_behind_the_database_fails(environ: dict[str, str]) -> None:
    """Somebody wrote in our future: one of the clocks is wrong (case 256)."""
    ahead = time.time() + 3600
    os.utime(database_file(environ), (ahead, ahead))

    failure = only_failure(environ)

    assert failure["check"] == "clock"
    assert "NTP" in failure["fix"]


def test_a_damaged_database_fails(environ: dict[str, str]) -> None:
    """A flipped page is found before it is served (case 249)."""
    file = database_file(environ)
    with sqlite3.connect(file) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        (page,) = connection.execute(
            "SELECT rootpage FROM sqlite_master WHERE name = 'users'"
        ).fetchone()
    connection.close()
    with file.open("r+b") as stream:
        stream.seek((page - 1) * 4096)
        stream.write(b"\xff" * 4096)

    failure = only_failure(environ)

    assert failure["check"] == "database file"


def test_a_database_that_is_away_fails(environ: dict[str, str]) -> None:
    """The other checks are made all the same, and no password is shown."""
    url = "postgresql://app:hunter2@127.0.0.1:1/tokens"

    failure = only_failure(environ | {"TOKEN_SERVER_DATABASE_URL": url})

    assert failure["check"] == "database"
    assert "app:***@127.0.0.1" in failure["detail"]
    assert "hunter2" not in str(failure)


def test_a_newer_schema_fails(environ: dict[str, str]) -> None:
    """This release must not write to it; the fix is the newer one."""
    with sqlite3.connect(database_file(environ)) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()

    assert only_failure(environ)["check"] == "schema"


def test_bad_settings_fail_and_the_rest_is_still_examined(environ: dict[str, str]) -> None:
    """One wrong value does not hide a wrong mode."""
    database_file(environ).chmod(0o644)

    code, found = examine(environ | {"TOKEN_SERVER_STATUS_TTL": "x"})

    assert code == 1
    assert [check["check"] for check in found["fail"]] == ["settings", "permissions"]


def test_the_text_names_the_fix(environ: dict[str, str]) -> None:
    """For people: a mark, the check, the detail, and an arrow to what to do."""
    database_file(environ).chmod(0o644)

    result = CliRunner().invoke(cli, ["doctor"], env=environ)

    assert result.exit_code == 1
    assert "FAIL  permissions" in result.stdout
    assert "-> run chmod 600" in result.stdout


def test_version_is_one_line(environ: dict[str, str]) -> None:
    """And with --json what a bug report needs."""
    plain = CliRunner().invoke(cli, ["version"])
    report = json.loads(CliRunner().invoke(cli, ["version", "--json"]).stdout)

    assert plain.stdout == f"token-server {package_version()}\n"
    assert report["token-server"] == package_version()
    assert {"python", "sqlite", "litestar", "cryptography"} <= set(report)


def test_a_running_server_says_that_it_is_ready(tmp_path: Path) -> None:
    """What a container's health check runs: 0 when ready, 5 when nobody answers."""
    installation = Installation(tmp_path, f"sqlite:///{tmp_path / 'data' / 'token-server.db'}")
    with running_processes(installation, mode="dev") as (server,):
        address = server.management_url.removeprefix("http://")
        answer = installation.run_cli("doctor", "--live", "--management-bind", address)
        assert answer == {"ready": True}
    with pytest.raises(RuntimeError, match="status 5"):
        installation.run_cli("doctor", "--live", "--management-bind", address)


def test_the_health_check_loads_nothing_heavy() -> None:
    """It runs every few seconds: no SQLAlchemy, no web framework, no cryptography."""
    code = (
        "import sys\nfrom click.testing import CliRunner\nfrom token_server.cli.main import cli\n"
        "command = ['doctor', '--live', '--management-bind', '127.0.0.1:1']\n"
        "assert CliRunner().invoke(cli, command).exit_code == 5\n"
        "print([n for n in ('sqlalchemy', 'litestar', 'cryptography') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout == "[]\n"
