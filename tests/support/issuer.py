"""A real token server with callers of every kind, and the tokens they hold."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import requests

from tests.support.databases import run_apart
from tests.support.process import Installation, running_processes
from token_server.services.clients import NewClient, add_client

AUDIENCE = "https://orders.example"


@dataclass(frozen=True, slots=True)
class Caller:
    """A client of the token server; its id is also its subject."""

    client_id: str
    scopes: tuple[str, ...]
    audience: str = AUDIENCE
    ttl_s: int | None = None
    typ: str | None = None


READER = Caller("reader", ("orders:read",))
WRITER = Caller("writer", ("orders:write",))
ADMIN = Caller("admin", ("orders:admin",))
STRANGE = Caller("strange", ("orders:read",), audience="https://stock.example")
LATE = Caller("late", ("orders:read",), ttl_s=1)
OLD_TYP = Caller("old-typ", ("orders:read",), typ="JWT")
CALLERS = (READER, WRITER, ADMIN, STRANGE, LATE, OLD_TYP)


@dataclass(frozen=True, slots=True)
class Issuer:
    """Where the server is, and one token of each caller; that of LATE has expired."""

    issuer: str
    tokens: dict[str, str]

    def token_of(self, caller: Caller) -> str:
        return self.tokens[caller.client_id]

    @property
    def tampered(self) -> str:
        """The reader's token with a letter changed inside of its signature."""
        good = self.token_of(READER)
        middle = len(good) - 100
        return good[:middle] + ("A" if good[middle] != "A" else "B") + good[middle + 1 :]


@contextmanager
def running_issuer(directory: Path) -> Iterator[Issuer]:
    overrides = {"ARGON2_MEMORY_KIB": "8", "ARGON2_TIME_COST": "1"}
    installation = Installation(directory, f"sqlite:///{directory}/token-server.db", overrides)
    with running_processes(installation, mode="dev") as [server]:
        secrets = run_apart(_register(installation))
        tokens = {
            name: request_token(server.base_url, name, secret) for name, secret in secrets.items()
        }
        time.sleep(2)  # the 1 s of LATE, and the rest of the second in which it began
        yield Issuer(server.base_url, tokens)


async def _register(installation: Installation) -> dict[str, str]:
    secrets = {}
    async with installation.runtime() as runtime:
        for caller in CALLERS:
            new = NewClient(
                caller.client_id,
                ("client_credentials",),
                caller.scopes,
                (caller.audience,),
                (caller.audience,),
                access_token_ttl_s=caller.ttl_s,
                access_token_typ=caller.typ,
            )
            _, secret = await add_client(runtime, new)
            assert secret is not None
            secrets[caller.client_id] = secret.reveal()
    return secrets


def request_token(issuer: str, client_id: str, secret: str) -> str:
    """An access token of a confidential client, for all of its scopes."""
    form = {"grant_type": "client_credentials"}
    answer = requests.post(
        f"{issuer}/oauth2/token", data=form, auth=(client_id, secret), timeout=30
    )
    assert answer.status_code == 200, answer.text
    return str(answer.json()["access_token"])
