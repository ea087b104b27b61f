"""Key directories for tests: settings that name one, a whole one made once, processes on one."""

import subprocess
import sys
from pathlib import Path

from token_server.config import Settings
from token_server.records import Secret

NOW = 1_700_000_000


def key_settings(keys_dir: Path, master_key_file: Path | None = None) -> Settings:
    """Settings whose keys are in `keys_dir`."""
    return Settings(
        mode="tool",
        database_url=Secret("sqlite:///unused.db"),
        default_audience="https://orders.example",
        keys_dir=keys_dir,
        master_key_file=master_key_file or keys_dir / "master.key",
    )


def start_python(source: str, *arguments: str) -> "subprocess.Popen[str]":
    """Another operating-system process that runs `source`."""
    return subprocess.Popen(
        [sys.executable, "-c", source, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
