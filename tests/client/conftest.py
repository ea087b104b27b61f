"""A token endpoint that does as it is told, and a clock that stands still until it is moved."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support.token_endpoint import ScriptedEndpoint, scripted_endpoint
from token_server.client import TokenSource
from token_server.verify.testing import RunningTokenServer, running_token_server

SECRET = "s3cr3t:with%signs+and spaces"


class StoppedClock:
    """Monotonic seconds; a pause is no wait, but time that has passed."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.pauses: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds


@pytest.fixture
def clock() -> StoppedClock:
    return StoppedClock()


@pytest.fixture
def endpoint() -> Iterator[ScriptedEndpoint]:
    with scripted_endpoint() as scripted:
        yield scripted


@pytest.fixture
def make_source(endpoint: ScriptedEndpoint, clock: StoppedClock) -> Callable[..., TokenSource]:
    """A machine's source at the scripted endpoint; arguments replace or add settings."""

    def make(**settings: Any) -> TokenSource:
        defaults: dict[str, Any] = {
            "token_endpoint": endpoint.token_endpoint,
            "client_id": "billing",
            "client_secret": SECRET,
            "clock": clock,
            "sleep": clock.sleep,
        }
        return TokenSource(**{**defaults, **settings})

    return make


def land(source: TokenSource) -> None:
    """Wait for the end of the fetch that is on its way in the background."""
    flight = source._flight
    if flight is not None:
        flight.result(30)


@pytest.fixture(scope="session")
def token_server() -> Iterator[RunningTokenServer]:
    """The real server, in a process of its own."""
    with running_token_server() as running:
        yield running
