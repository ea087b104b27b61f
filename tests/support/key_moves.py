"""A server and a command beside it, on the same keys: in the key directory or in the database."""

import contextlib
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from tests.support.server import ManualClock, RunningServer, make_settings, running_server
from token_server.config import Settings
from token_server.crypto.opening import Place
from token_server.crypto.secrets import encode_base64url
from token_server.runtime import Runtime, open_runtime
from token_server.services.key_upkeep import KeyUpkeep


@dataclass(frozen=True, slots=True)
class Keyed:
    """Settings of one installation; `master_key` is its operator's, or the server's own."""

    settings: Settings
    master_key: Path

    def add_master_key(self, version: int) -> None:
        """What an operator does with a mounted file."""
        with self.master_key.open("a") as file:
            file.write(f"{version}:{encode_base64url(os.urandom(32))}\n")

    def versions(self) -> list[int]:
        """The versions in the file."""
        lines = self.master_key.read_text().splitlines()
        return [int(line.partition(":")[0]) for line in lines if not line.startswith("#")]

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator["Served"]:
        async with running_server(self.settings) as server:
            keeper = KeyUpkeep(server.runtime)
            await keeper.start()
            yield Served(server, keeper)

    @contextlib.asynccontextmanager
    async def command(self, server: RunningServer | None = None) -> AsyncIterator[Runtime]:
        """A runtime as commands open it, at the time of the server."""
        settings = msgspec.structs.replace(self.settings, mode="tool")
        clock = ManualClock() if server is None else server.clock
        async with open_runtime(settings, clock=clock) as runtime:
            yield runtime


@dataclass(frozen=True, slots=True)
class Served:
    """A server on a real port, whose upkeep goes when it is told to."""

    server: RunningServer
    keeper: KeyUpkeep

    async def add_people(self) -> None:
        """A user and a public client, for `server.login`."""
        grants = frozenset({"password", "refresh_token"})
        await self.server.add_client("app", name="App", is_public=True, grant_types=grants)
        await self.server.add_user()

    async def follow(self) -> None:
        """What the server does twice a second."""
        await self.keeper.tick()


def make_keyed(database_url: str, directory: Path, place: Place) -> Keyed:
    """The server's own master key with the directory, a mounted one with the database."""
    settings = make_settings(database_url, directory, key_reload_interval_s=1)
    if place == "directory":
        return Keyed(settings, settings.master_key_file)
    path = directory / "mounted-master-key"
    path.write_text(f"1:{encode_base64url(os.urandom(32))}\n")
    path.chmod(0o600)
    moved = msgspec.structs.replace(settings, key_store="database", master_key_file=path)
    return Keyed(moved, path)
