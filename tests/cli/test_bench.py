"""`token-server bench`: shapes and relations of what it prints; speed itself is never asserted."""

import json
from typing import Any

import pytest
from click.testing import CliRunner

from token_server.cli.main import cli
from token_server.config_loading import load_settings
from token_server.services.settings_check import LEAST_ARGON2_WORK_KIB


def run(*arguments: str, **environ: str) -> Any:
    variables = {f"TOKEN_SERVER_{name}": value for name, value in environ.items()}
    result = CliRunner().invoke(cli, ["bench", *arguments, "--json"], env=variables)
    assert result.exit_code == 0, result.output
    assert result.stdout.count("\n") == 1
    return json.loads(result.stdout)


def test_hash_speed_is_of_the_settings_and_the_advice_can_be_set() -> None:
    """What is suggested is accepted as settings and by the rules of a production start."""
    found = run("argon2", "--target-ms", "60", "--seconds", "0.1", PASSWORD_HASH_SLOTS="3")
    now, advice = found["now"], found["advice"]
    speed = advice["speed"]

    assert (now["memory_kib"], now["time_cost"], now["parallelism"]) == (19456, 2, 1)
    assert now["library"] == speed["library"] == "libsodium (PyNaCl)"
    assert now["cpu_ms"] > 0
    assert speed["memory_kib"] * speed["time_cost"] >= LEAST_ARGON2_WORK_KIB
    assert advice["password_hash_slots"] == 3
    assert advice["memory_kib_of_all_slots"] == 3 * speed["memory_kib"]
    names = {
        "ARGON2_MEMORY_KIB": speed["memory_kib"],
        "ARGON2_TIME_COST": speed["time_cost"],
        "PASSWORD_HASH_QUEUE": advice["password_hash_queue"],
    }
    environ = {f"TOKEN_SERVER_{name}": str(value) for name, value in names.items()}
    assert load_settings("tool", {}, environ).settings.password_hash_queue >= 4


def test_a_dearer_target_asks_for_more_work() -> None:
    """More time for one hash means more memory, and a shorter queue before it."""
    cheap = run("argon2", "--target-ms", "1", "--seconds", "0.1")["advice"]
    dear = run("argon2", "--target-ms", "400", "--seconds", "0.1")["advice"]

    assert cheap["is_floor"]
    assert not dear["is_floor"]
    assert dear["speed"]["memory_kib"] > cheap["speed"]["memory_kib"]
    assert dear["password_hash_queue"] < cheap["password_hash_queue"]
    assert dear["logins_per_s"] < cheap["logins_per_s"]


@pytest.mark.parametrize("target", ["0", "-5", "6000", "fast"])
def test_target_out_of_range_is_a_usage_error(target: str) -> None:
    """Exit code 2, before anything is measured."""
    assert CliRunner().invoke(cli, ["bench", "argon2", "--target-ms", target]).exit_code == 2


def test_signatures_are_measured_for_each_size() -> None:
    """All sizes that keys may have, or those that are named; larger keys cost more."""
    sizes = run("sign", "--seconds", "0.02", "--bits", "2048", "--bits", "4096")["signatures"]

    assert [each["key_bits"] for each in sizes] == [2048, 4096]
    small, large = sizes
    assert 0 < small["sign_cpu_ms"] < large["sign_cpu_ms"]
    assert small["verify_cpu_ms"] < small["sign_cpu_ms"]
    assert CliRunner().invoke(cli, ["bench", "sign", "--bits", "1024"]).exit_code == 2


def test_without_json_the_settings_can_be_pasted() -> None:
    """For people: the variables as they go into an environment file."""
    arguments = ["bench", "argon2", "--target-ms", "1", "--seconds", "0.02"]
    shown = CliRunner().invoke(cli, arguments).stdout

    assert "TOKEN_SERVER_ARGON2_MEMORY_KIB=17920\n" in shown
    assert "TOKEN_SERVER_ARGON2_TIME_COST=2\n" in shown
    assert "the least that `serve` accepts" in shown
    table = CliRunner().invoke(cli, ["bench", "sign", "--bits", "2048", "--seconds", "0.02"]).stdout
    assert table.splitlines()[1].startswith("2048 ")
