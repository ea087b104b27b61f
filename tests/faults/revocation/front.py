"""What stands between verifiers and servers: counts who asks for what, and can be cut.

Its address is the issuer, so that verifiers find everything below it; requests go to the servers
in turn, as a load balancer would send them.
"""

import asyncio
import contextlib
import itertools
import re
from collections.abc import AsyncIterator, Iterator, Sequence

from tests.support.load import Address, Connection, get_request

MAX_HEAD_BYTES = 16384
_REQUEST = re.compile(rb"GET (\S+) HTTP/1\.1\r\n")
_CONDITION = re.compile(rb"\r\nif-none-match: ([^\r\n]+)", re.IGNORECASE)


class Front:
    """`url` is the issuer. While `is_cut` every connection is dropped."""

    def __init__(self) -> None:
        self.paths: list[str] = []
        self.is_cut = False
        self.url = ""
        self._turns: Iterator[Address] = iter(())

    def send_to(self, addresses: Sequence[Address]) -> None:
        """From now on these servers answer."""
        self._turns = itertools.cycle(addresses)

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator["Front"]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=MAX_HEAD_BYTES)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with server:
            yield self

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer), contextlib.suppress(OSError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            if self.is_cut:
                writer.transport.abort()
                return
            found = _REQUEST.match(head)
            assert found is not None, "verifiers only read"
            path, condition = found[1].decode(), _CONDITION.search(head)
            self.paths.append(path)
            headers = {} if condition is None else {"If-None-Match": condition[1].decode()}
            connection = await Connection.open(next(self._turns))
            try:
                reply = await connection.request(get_request(path, headers))
            finally:
                connection.close()
            writer.write(reply.head + b"Connection: close\r\n\r\n" + reply.body)
            await writer.drain()
