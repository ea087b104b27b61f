"""What `token-server dev` prints on a terminal: commands that work as they are pasted."""

import shlex
from pathlib import Path

import pytest

from tests.support.server import make_settings
from token_server.cli.dev_banner import DevServer, banner
from token_server.config import Settings
from token_server.config_loading import load_settings
from token_server.services.demo import Demo

DEMO = Demo(
    user_email="demo@example.com",
    user_password="pass word",
    public_client_id="demo-cli",
    service_client_id="demo-service",
    service_client_secret="ts_secret",
)


def rotation_commands(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    monkeypatch.setattr("sys.argv", [".venv/bin/token-server", "dev"])
    server = DevServer(settings, "127.0.0.1:9001", "kid", DEMO, Path("data/demo.json"))
    lines = banner(server).splitlines()
    return [shlex.split(line) for line in lines if line.endswith((" keys plan", " keys rotate"))]


def test_rotation_commands_are_as_short_as_they_can_be(monkeypatch: pytest.MonkeyPatch) -> None:
    """The program as it was started, and nothing else where all is at its default place."""
    settings = load_settings("dev", {}, {}).settings
    assert rotation_commands(settings, monkeypatch) == [
        [".venv/bin/token-server", "keys", "plan"],
        [".venv/bin/token-server", "keys", "rotate"],
    ]


def test_rotation_commands_name_other_places(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Otherwise the pasted command would look for keys in another directory."""
    directory = tmp_path / "my keys"
    settings = make_settings(f"sqlite:///{tmp_path / 'x.db'}", directory)
    options = [
        *("--keys-dir", str(directory / "keys")),
        *("--database-url", f"sqlite:///{tmp_path / 'x.db'}"),
    ]
    for command in rotation_commands(settings, monkeypatch):
        assert command[:-2] == [".venv/bin/token-server", *options]
