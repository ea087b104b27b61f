"""One server for all tests of the edge that leave nothing behind.

It lives in a thread of its own, so that tests can speak to it over blocking sockets.
"""

import asyncio
import threading
from collections.abc import Coroutine, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import pytest

from tests.support.databases import SqliteFiles
from tests.support.server import (
    AUDIENCE,
    RunningServer,
    copy_keys,
    make_settings,
    running_server,
)
from tests.support.wire import Wire, WireAnswer, basic, form
from token_server.config import Settings

T = TypeVar("T")

MACHINE, APP = "billing", "app"
SCOPES = ("orders:read", "orders:write")


@dataclass(frozen=True, slots=True)
class EdgeServer:
    """The confidential client `billing` may use client_credentials, the public client `app`
    password and refresh_token; both have SCOPES for AUDIENCE. One user is there."""

    server: RunningServer
    wire: Wire
    loop: asyncio.AbstractEventLoop

    @property
    def secret(self) -> str:
        return self.server.secrets[MACHINE]

    @property
    def authorization(self) -> tuple[str, str]:
        return basic(MACHINE, self.secret)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """In the server's own event loop."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(60)

    def machine_token(
        self, *fields: tuple[str, str], body: bytes = b"", headers: tuple[tuple[str, str], ...] = ()
    ) -> WireAnswer:
        """A sound request for a machine token, with these fields and raw bytes more."""
        sound = form(("grant_type", "client_credentials"), *fields)
        return self.wire.post(sound + body, (self.authorization, *headers))


@pytest.fixture(scope="session")
def edge(
    sqlite_files: SqliteFiles,
    shared_keys: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[EdgeServer]:
    directory = tmp_path_factory.mktemp("edge")
    copy_keys(shared_keys, directory)
    settings = make_settings(sqlite_files.create(directory), directory)
    started: Future[EdgeServer] = Future()
    stop: Future[None] = Future()
    thread = threading.Thread(target=_serve, args=(settings, started, stop))
    thread.start()
    try:
        yield started.result(60)
    finally:
        stop.set_result(None)
        thread.join(60)


@pytest.fixture(autouse=True)
def later(request: pytest.FixtureRequest) -> None:
    """Two minutes pass before each test of the shared server: what others guessed is forgotten."""
    if "edge" in request.fixturenames:
        edge: EdgeServer = request.getfixturevalue("edge")
        edge.server.clock.advance(120)


def _serve(settings: Settings, started: Future[EdgeServer], stop: Future[None]) -> None:
    async def serve() -> None:
        async with running_server(settings) as server:
            await server.add_client(
                MACHINE,
                grant_types=("client_credentials",),
                scopes=SCOPES,
                audiences=(AUDIENCE,),
            )
            await server.add_client(
                APP,
                grant_types=("password", "refresh_token"),
                scopes=SCOPES,
                audiences=(AUDIENCE,),
                is_public=True,
            )
            await server.add_user()
            address = urlsplit(server.base_url)
            wire = Wire(str(address.hostname), int(address.port or 0))
            started.set_result(EdgeServer(server, wire, asyncio.get_running_loop()))
            await asyncio.wrap_future(stop)

    try:
        asyncio.run(serve())
    except BaseException as error:
        if started.done():
            raise
        started.set_exception(error)
