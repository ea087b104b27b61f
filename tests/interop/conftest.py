"""One real development server, on the real clock, for clients that we did not write."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.support.databases import run_apart
from tests.support.process import Installation, running_processes
from token_server.records import Secret
from token_server.services.clients import NewClient, add_client
from token_server.services.users import NewUser, add_user

AUDIENCE = "https://orders.example"
SCOPES = ("orders:read", "orders:write")
EMAIL = "ada@example.org"
PASSWORD = "correct horse battery & staple=100% ü"
CONFIDENTIAL = "orders-app"
PUBLIC = "orders-cli"


@dataclass(frozen=True, slots=True)
class Service:
    """Where the server is, and what a client was told when it was registered."""

    issuer: str
    client_secret: str

    @property
    def token_url(self) -> str:
        return f"{self.issuer}/oauth2/token"

    @property
    def jwks_uri(self) -> str:
        return f"{self.issuer}/.well-known/jwks.json"


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    directory = tmp_path_factory.mktemp("interop")
    overrides = {"ARGON2_MEMORY_KIB": "8", "ARGON2_TIME_COST": "1"}
    installation = Installation(directory, f"sqlite:///{directory}/token-server.db", overrides)
    with running_processes(installation, mode="dev") as [server]:
        yield Service(server.base_url, run_apart(_register(installation)))


async def _register(installation: Installation) -> str:
    async with installation.runtime() as runtime:
        grants = ("client_credentials", "password", "refresh_token")
        new = NewClient(CONFIDENTIAL, grants, SCOPES, (AUDIENCE,), (AUDIENCE,))
        _, secret = await add_client(runtime, new)
        public = NewClient(PUBLIC, grants[1:], SCOPES, (AUDIENCE,), (AUDIENCE,), is_public=True)
        await add_client(runtime, public)
        await add_user(runtime, NewUser(EMAIL, "Ada Lovelace", Secret(PASSWORD)))
    assert secret is not None
    return secret.reveal()
