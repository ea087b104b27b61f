"""The composition root for HTTP, as a process of its own builds it."""

import subprocess
import sys
from pathlib import Path

from tests.support.process import ROOT

BUILD = """
import asyncio, sys
from pathlib import Path
from tests.support.server import make_settings
from token_server.app import create_app
from token_server.runtime import open_runtime

async def main():
    directory = Path(sys.argv[1])
    async with open_runtime(make_settings(f"sqlite:///{directory}/a.db", directory)) as runtime:
        create_app(runtime)

asyncio.run(main())
print(" ".join(name for name in ("pydantic", "attr", "jinja2") if name in sys.modules))
"""


def test_application_loads_nothing_for_what_happens_to_be_installed(tmp_path: Path) -> None:
    """FastAPI's pydantic beside us, as in these tests, costs neither time nor memory."""
    done = subprocess.run(
        [sys.executable, "-c", BUILD, str(tmp_path)],
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == ""
