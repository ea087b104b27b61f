"""A runtime with keys and a clock that stands still, on each engine."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.people import StandingClock
from tests.support.server import copy_keys, make_settings
from token_server.runtime import Runtime, open_runtime


@pytest.fixture
def standing_clock() -> StandingClock:
    return StandingClock()


@pytest.fixture
async def keyed_runtime(
    database_url: str, standing_clock: StandingClock, shared_keys: Path, tmp_path: Path
) -> AsyncIterator[Runtime]:
    """A second runtime on its settings is a second process: same database, same keys."""
    copy_keys(shared_keys, tmp_path)
    settings = make_settings(database_url, tmp_path)
    async with open_runtime(settings, clock=standing_clock) as opened:
        yield opened
