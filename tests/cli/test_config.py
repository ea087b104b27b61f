"""`token-server config`: check, show and env."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from token_server.cli.main import cli
from token_server.config import SETTINGS
from token_server.config_loading import load_settings


def run(*arguments: str, **environ: str) -> Result:
    variables = {f"TOKEN_SERVER_{name}": text for name, text in environ.items()}
    return CliRunner().invoke(cli, ["config", *arguments], env=variables)


def test_show_names_the_origin_of_every_value(tmp_path: Path) -> None:
    """Flag, environment, file or default: no guessing which one counted."""
    file = tmp_path / "config.toml"
    file.write_text('status_ttl = "5s"\n')
    arguments = ["--config", str(file), "config", "show", "--origin", "--workers", "2", "--json"]
    result = CliRunner().invoke(cli, arguments, env={"TOKEN_SERVER_CLOCK_SKEW": "5"})

    shown = json.loads(result.stdout)
    assert set(shown) == set(SETTINGS)
    assert shown["workers"] == {"value": "2", "origin": "flag --workers"}
    assert shown["clock_skew"] == {"value": "5s", "origin": "environment TOKEN_SERVER_CLOCK_SKEW"}
    assert shown["status_ttl"] == {"value": "5s", "origin": f"file {file}: status_ttl"}
    assert shown["drain_timeout"] == {"value": "20s", "origin": "default"}


@pytest.mark.parametrize("arguments", [["show"], ["show", "--origin"], ["show", "--json"]])
def test_show_hides_passwords(arguments: list[str]) -> None:
    """The address of the database without the password."""
    result = run(*arguments, DATABASE_URL="postgresql://app:hunter2@db/x")

    assert result.exit_code == 0
    assert "postgresql://app:***@db/x" in result.stdout
    assert "hunter2" not in result.output


def test_show_lists_problems_instead(tmp_path: Path) -> None:
    """Values of which one is refused are not shown as if they were good."""
    result = run("show", WORKERS="0", ISUER="x")

    assert result.exit_code == 2
    assert result.stdout == ""
    assert "2 problems" in result.stderr


@pytest.fixture
def good(tmp_path: Path) -> dict[str, str]:
    return {
        "ISSUER": "https://auth.example",
        "REGISTRATION": "closed",
        "DATABASE_URL": f"sqlite:///{tmp_path}/token-server.db",
        "KEYS_DIR": str(tmp_path / "keys"),
    }


def test_check_accepts_a_good_configuration(good: dict[str, str], tmp_path: Path) -> None:
    """And makes nothing: neither database nor keys."""
    result = run("check", **good)

    assert (result.exit_code, result.stdout) == (0, "The settings are good for `serve`.\n")
    assert list(tmp_path.iterdir()) == []


def test_check_lists_what_serve_would_refuse(good: dict[str, str]) -> None:
    """The same list as the start's, with exit code 2."""
    good |= {"WORKERS": "2", "ISSUER": "http://127.0.0.1:8080"}
    result = run("check", "--json", **good)

    assert result.exit_code == 2
    problems: Any = json.loads(result.stdout)["problems"]
    assert [problem.partition(":")[0] for problem in problems] == [
        "ISSUER is not https",
        "WORKERS is 2, but SQLite serves one process",
    ]


def test_check_for_dev_wants_nothing_stated() -> None:
    """dev starts with no configuration at all."""
    assert run("check", "--mode", "dev").exit_code == 0


def test_env_is_a_file_that_can_be_used(tmp_path: Path) -> None:
    """Every variable is there; uncommented, each default that is a value is accepted again."""
    lines = run("env").stdout.splitlines()

    variables = [line[1:] for line in lines if line.startswith("#TOKEN_SERVER_")]
    pairs = dict(line.split("=", 1) for line in variables)
    assert list(pairs) == [setting.variable for setting in SETTINGS.values()]
    stated = {name: value for name, value in pairs.items() if value}
    assert load_settings("serve", {}, stated).settings.status_ttl_s == 10


def test_env_as_json_explains_each_setting() -> None:
    """For those who generate documentation or forms from it."""
    rows = {row["toml"]: row for row in json.loads(run("env", "--json").stdout)}

    assert rows["access_token_ttl"] == {
        "variable": "TOKEN_SERVER_ACCESS_TOKEN_TTL",
        "flag": "--access-token-ttl",
        "toml": "access_token_ttl",
        "default": "15m",
        "allowed": "1s to 1d",
        "description": "Life of an access token.",
        "has_file_variant": False,
    }
    assert rows["database_url"]["has_file_variant"] is True
