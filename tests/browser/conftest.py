"""Chromium where it is installed; a visible skip where it is not."""

import pytest

from tests.browser.chromium import find_chromium


@pytest.fixture(scope="session")
def chromium() -> str:
    path = find_chromium()
    if path is None:
        pytest.skip("no Chromium on this machine: apt-get install chromium")
    return path
