"""A reverse proxy for key sets that counts who fetched what, and when.

Each verifier has a path of its own. Requests go to the instances of a keyring in turn, as a load
balancer would send them: a token of one instance meets the key set of the other.
"""

import asyncio
import contextlib
import itertools
import re
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass

from tests.support.load import Address, Connection, get_request

JWKS_PATH = "/.well-known/jwks.json"
MAX_HEAD_BYTES = 16384
_REQUEST = re.compile(rb"GET /([a-z-]+)/([a-z-]+)/jwks\.json HTTP/1\.1\r\n")


@dataclass(frozen=True, slots=True)
class Fetch:
    """One key set that was handed out."""

    verifier: str
    keyring: str
    at: float  # time.time()


class JwksProxy:
    """Answers `/KEYRING/VERIFIER/jwks.json` with what an instance of the keyring serves."""

    def __init__(self, upstreams: Mapping[str, Sequence[Address]]) -> None:
        self.fetches: list[Fetch] = []
        self._turns = {name: itertools.cycle(each) for name, each in upstreams.items()}
        self._port = 0

    def url(self, keyring: str, verifier: str) -> str:
        return f"http://127.0.0.1:{self._port}/{keyring}/{verifier}/jwks.json"

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=MAX_HEAD_BYTES)
        self._port = server.sockets[0].getsockname()[1]
        async with server:
            yield

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer), contextlib.suppress(asyncio.IncompleteReadError):
            found = _REQUEST.match(await reader.readuntil(b"\r\n\r\n"))
            assert found is not None, "verifiers ask for their own key sets only"
            keyring, verifier = found[1].decode(), found[2].decode()
            connection = await Connection.open(next(self._turns[keyring]))
            try:
                reply = await connection.request(get_request(JWKS_PATH))
            finally:
                connection.close()
            # Counted before it is sent, so that two fetches are never nearer than to the verifier.
            self.fetches.append(Fetch(verifier, keyring, time.time()))
            writer.write(reply.head + b"Connection: close\r\n\r\n" + reply.body)
            await writer.drain()
