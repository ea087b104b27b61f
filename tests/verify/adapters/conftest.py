"""One token server for all, one process of each example service."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.support.examples import Service, running_service
from tests.support.issuer import Issuer, running_issuer


@pytest.fixture(scope="session")
def issuer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Issuer]:
    with running_issuer(tmp_path_factory.mktemp("issuer")) as running:
        yield running


@pytest.fixture(scope="session")
def service_of(
    issuer: Issuer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], Service]]:
    """Starts a service when the first test asks for it: workers share the tests, not the rest."""
    directory = tmp_path_factory.mktemp("services")
    running: dict[str, Service] = {}
    with ExitStack() as stack:

        def start(name: str) -> Service:
            if name not in running:
                running[name] = stack.enter_context(running_service(name, issuer.issuer, directory))
            return running[name]

        yield start
