"""The pytest plugin of this package (entry point `pytest11`): the fixture `token_issuer`.

Loaded by every pytest run wherever the package is installed, so it imports nothing of it until
the fixture is asked for. That is why it is not below `verify`, whose import takes 0.1 s.
"""

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from token_server.verify.testing import TestIssuer


@pytest.fixture
def token_issuer() -> "TestIssuer":
    """An issuer in memory that signs access tokens of every kind, good and flawed; a fresh one for
    each test. See `token_server.verify.testing.TestIssuer`."""
    from token_server.verify.testing import TestIssuer

    return TestIssuer()
