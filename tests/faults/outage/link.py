"""The way from servers to their database, through the test's hands.

It can lead to another server, swallow bytes in silence (neither FIN nor RST: what a dead router
does), and lose the answer to a statement that the database has carried out.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

from sqlalchemy.engine import make_url

from tests.support.load import Address

_CHUNK_BYTES = 65536


def link_target(database_url: str) -> tuple[Address | str, Callable[[Address], str]]:
    """Where the database of this URL listens, and the URL of the same one through a link."""
    url = make_url(database_url)
    host, port = str(url.query.get("host", url.host)), url.port or 5432
    target = f"{host}/.s.PGSQL.{port}" if host.startswith("/") else (host, port)

    def through(address: Address) -> str:
        led = url.set(host=address[0], port=address[1], query={})
        return led.render_as_string(hide_password=False)

    return target, through


class Link:
    """Forwards TCP connections to `target`, which may be changed for new connections; a text is the
    path of a Unix socket."""

    def __init__(self, target: Address | str) -> None:
        self.target = target
        self.address: Address = ("127.0.0.1", 0)
        self.lost_answers = 0
        self._needle: bytes | None = None
        self._after = b""
        self._is_cut = False
        self._pairs: set[_Pair] = set()

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator["Link"]:
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.address = ("127.0.0.1", int(server.sockets[0].getsockname()[1]))
        try:
            yield self
        finally:
            server.close()
            self.reset()
            await asyncio.sleep(0)

    def cut(self) -> None:
        """From now on every byte is swallowed, on old connections and on new ones."""
        self._is_cut = True
        for pair in self._pairs:
            pair.is_dead = True

    def mend(self) -> None:
        """New connections work again; those of before stay dead and open, as behind a firewall
        that has forgotten them."""
        self._is_cut = False

    def reset(self) -> None:
        """All connections end at once."""
        for pair in list(self._pairs):
            pair.end()

    def lose_answer_to(self, needle: bytes, after: bytes = b"") -> None:
        """The next bytes to the database that contain `needle` are delivered; then its answer is
        thrown away and the connection ends. On a connection that has sent `after`, if given."""
        self._needle, self._after = needle, after

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        pair = _Pair(writer)
        pair.is_dead = self._is_cut
        self._pairs.add(pair)
        try:
            if not pair.is_dead:
                try:
                    upstream = await self._connect()
                except OSError:
                    return
                pair.upstream = upstream[1]
                await asyncio.gather(
                    self._forward(reader, pair, upstream[1]), self._back(upstream[0], pair, writer)
                )
            else:
                await pair.ended.wait()
        finally:
            pair.end()
            self._pairs.discard(pair)

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if isinstance(self.target, str):
            return await asyncio.open_unix_connection(self.target)
        return await asyncio.open_connection(*self.target)

    async def _forward(
        self, reader: asyncio.StreamReader, pair: "_Pair", upstream: asyncio.StreamWriter
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(_CHUNK_BYTES):
                if pair.is_dead:
                    continue
                if self._needle is not None and self._after in data:
                    pair.may_lose = True
                if self._needle is not None and self._needle in data and pair.may_lose:
                    self._needle = None
                    pair.loses_answer = True
                upstream.write(data)
                await upstream.drain()
        pair.end()

    async def _back(
        self, upstream: asyncio.StreamReader, pair: "_Pair", writer: asyncio.StreamWriter
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await upstream.read(_CHUNK_BYTES):
                if pair.is_dead:
                    continue
                if pair.loses_answer:
                    self.lost_answers += 1
                    break
                writer.write(data)
                await writer.drain()
        if not pair.is_dead:  # a dead one says nothing of its end either
            pair.end()


class _Pair:
    def __init__(self, downstream: asyncio.StreamWriter) -> None:
        self._downstream = downstream
        self.upstream: asyncio.StreamWriter | None = None
        self.is_dead = False
        self.may_lose = self.loses_answer = False
        self.ended = asyncio.Event()

    def end(self) -> None:
        self.ended.set()
        for writer in (self._downstream, self.upstream):
            if writer is not None and writer.transport is not None:
                writer.transport.abort()
