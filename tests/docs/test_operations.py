"""docs/operations.md is read when something burns: it names nothing that does not exist."""

import ast
import re
import sqlite3
from pathlib import Path

import click
import pytest

from token_server.cli.main import cli
from token_server.config import Settings
from token_server.metrics import Metrics

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "operations.md"
_SPAN = re.compile(r"`([^`\n]+)`")
_METRIC = re.compile(r"token_server_[a-z_]+")
_WORD = re.compile(r"[a-z]+(?:_[a-z]+)+|[a-z]+(?:\.[a-z_]+)+")  # events, checks, reasons, labels
_SETTING = re.compile(r"([A-Z][A-Z0-9_]+)(?:=\S+)?")
_COMMAND = re.compile(r"token-server ((?:[a-z][a-z-]*)(?: [a-z][a-z-]*)*)")
_SCRIPT = re.compile(r"(scripts/[a-z_]+)(?: .*)?")
# Of the system, PostgreSQL and the metrics library.
_NOT_OURS = {"TMPDIR", "RLIMIT_NOFILE", "pg_stat_activity", "process_resident_memory_bytes"}


def texts() -> set[str]:
    """Every text constant of the package, and every keyword, such as the values of events."""
    found = set()
    for path in (ROOT / "token_server").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(node.value)
            elif isinstance(node, ast.keyword) and node.arg is not None:
                found.add(node.arg)
    return found


def series() -> set[str]:
    """Names as a scrape shows them, with their suffixes."""
    body = Metrics().render()[0].decode()
    types = dict(re.findall(r"^# TYPE (\S+) (\S+)$", body, re.MULTILINE))
    more = {f"{name}_{end}" for name in types for end in ("bucket", "sum", "count")}
    return types.keys() | more


def spans(pattern: re.Pattern[str]) -> set[str]:
    """What the whole code spans of the page that fit `pattern` name."""
    found = (pattern.fullmatch(span) for span in _SPAN.findall(PAGE.read_text()))
    return {match[match.lastindex or 0] for match in found if match}


def is_command(words: str) -> bool:
    command: click.Command | None = cli
    for word in words.split():
        if not isinstance(command, click.Group):
            return False
        command = command.get_command(click.Context(command), word)
    return command is not None


def test_every_event_check_and_label_is_in_the_code() -> None:
    """A renamed event takes its line with it."""
    named = spans(_WORD) - spans(_METRIC) - _NOT_OURS
    assert len(named) > 5
    assert named - texts() == set()


def test_every_metric_is_scraped() -> None:
    """Under the very name that an alert would use."""
    named = spans(_METRIC)
    assert named
    assert named - series() == set()


def test_every_setting_exists() -> None:
    """By its documented name, without the prefix."""
    named = spans(_SETTING) - _NOT_OURS
    codes = {name for name in named if name.startswith("SQLITE_")}
    assert all(hasattr(sqlite3, code) for code in codes)
    named -= codes
    assert named
    fields = {field.removesuffix("_s").upper() for field in Settings.__struct_fields__}
    assert named - fields == set()


def test_every_command_and_script_exists() -> None:
    """What is to be typed at night can be typed."""
    commands = spans(_COMMAND)
    assert commands
    assert {words for words in commands if not is_command(words)} == set()
    assert {path for path in spans(_SCRIPT) if not (ROOT / path).is_file()} == set()


def test_every_section_is_in_the_list_and_has_its_three_parts() -> None:
    """The list at the top leads everywhere, and each page says all three things."""
    text = PAGE.read_text()
    titles = re.findall(r"^## (.+)$", text, re.MULTILINE)
    listed = re.findall(r"^- \[(.+?)\]\((#.+?)\)$", text, re.MULTILINE)
    assert [title for title, _ in listed] == titles
    for title, anchor in listed:
        assert anchor == "#" + re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")
    for section in text.split("\n## ")[1:]:
        for part in ("**What is seen.**", "**What the server does by itself.**", "**What to do.**"):
            assert section.count(part) == 1, section.partition("\n")[0]


@pytest.mark.parametrize("path", ["README.md", "docs/deploy/README.md"])
def test_page_is_found_from(path: str) -> None:
    """From where somebody looks first."""
    assert "operations.md)" in (ROOT / path).read_text()
