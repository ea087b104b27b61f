"""The reference pages name what exists: no setting, command or audit event without its line."""

import dataclasses
from pathlib import Path
from typing import Any

import click
import msgspec
import pytest
from click.testing import CliRunner

from token_server.cli.main import COMMANDS, cli
from token_server.metrics import Metrics
from token_server.records import AuditEventType
from token_server.runtime import Runtime
from token_server.storage.schema import metadata

DOCS = Path(__file__).resolve().parents[1] / "docs"


@pytest.fixture(scope="module")
def configuration() -> str:
    return (DOCS / "configuration.md").read_text()


@pytest.fixture(scope="module")
def command_line() -> str:
    return (DOCS / "cli.md").read_text()


def test_every_setting_is_documented_as_it_is(configuration: str) -> None:
    """Default, range and meaning in the table are those of the code."""
    rows: Any = msgspec.json.decode(CliRunner().invoke(cli, ["config", "env", "--json"]).stdout)
    for row in rows:
        name = row["variable"].removeprefix("TOKEN_SERVER_")
        line = f"| `{name}` | {row['default']} | {row['allowed']} | {row['description']} |"

        assert line in configuration


def test_every_metric_is_documented(configuration: str) -> None:
    """Whoever writes an alert finds the series."""
    body, _ = Metrics().render()
    names = {
        line.split()[2].removeprefix("token_server_")
        for line in body.decode().splitlines()
        if line.startswith("# TYPE token_server_")
    }

    assert names
    assert {name for name in names if name not in configuration} == set()


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_documented(command_line: str, name: str) -> None:
    """Each noun with all of its verbs."""
    command = cli.get_command(click.Context(cli), name)
    lines = [line for line in command_line.splitlines() if line.startswith(f"| `{name}")]
    verbs = list(command.commands) if isinstance(command, click.Group) else []

    assert lines
    assert [verb for verb in verbs if not any(verb in line for line in lines)] == []


def test_every_shared_table_and_every_part_of_a_process_is_documented() -> None:
    """Whoever runs two instances finds what they share, and how old the rest may be."""
    text = (DOCS / "architecture.md").read_text()
    section = text.partition("## Several processes")[2].partition("\n## ")[0]
    shared, own = section.split("An idempotent replay")
    stateless = {"settings", "clock", "entropy", "audit"}  # `audit` writes through `background`
    parts = {field.name for field in dataclasses.fields(Runtime)} - stateless

    assert [name for name in metadata.tables if f"`{name}`" not in shared] == []
    assert [name for name in parts if f"`{name}`" not in own] == []


def test_every_audit_event_is_documented(command_line: str) -> None:
    """The closed list of records.py, name by name."""
    assert [e.value for e in AuditEventType if f"`{e.value}`" not in command_line] == []
