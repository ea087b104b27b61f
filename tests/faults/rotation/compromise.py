"""How long a compromise takes, from the start of the command until it holds at every server.

Each server is asked for its key set and for a token every 20 ms, on connections of its own. What
counts is the first answer after the last bad one: a server that went back would be noticed.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

from tests.faults.rotation.commands import run_keys
from tests.faults.rotation.load import Session, machine_request, read_kids
from tests.faults.rotation.stored import stored_at
from tests.faults.rotation.world import Ring, kid_of
from tests.support.load import Connection

ASK_EVERY_S = 0.02
ASK_AFTERWARDS_S = 1.0
REFRESH_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class Compromise:
    """One `keys compromise KID`; seconds from the start of the command, by server."""

    keyring: str
    command_s: float
    stored_s: float  # the compromise in the store
    gone_s: tuple[float, ...]  # the kid from the key set
    signs_s: tuple[float, ...]  # the new key
    alive: int  # sessions that refreshed at every server afterwards
    sessions: int

    @property
    def held_s(self) -> float:
        """Until it held everywhere."""
        return max(*self.gone_s, *self.signs_s)

    @property
    def spread_s(self) -> float:
        """From the store to the last server: what the servers are answerable for."""
        return round(self.held_s - self.stored_s, 3)


@dataclass(slots=True)
class _Watch:
    """What one server answered last that was bad, and the first good answer after it."""

    good_at: float | None = None

    def note(self, *, is_bad: bool) -> None:
        if is_bad:
            self.good_at = None
        elif self.good_at is None:
            self.good_at = time.time()


async def compromise_signing_key(ring: Ring, sessions: Sequence[Session]) -> Compromise:
    """Call the key compromised that signs now. RuntimeError when it still signs or is still
    served some seconds after the command."""
    bad = ring.signing
    assert bad is not None, "no compromise in the middle of a switch"
    pairs = [(_Watch(), _Watch()) for _ in ring.servers]
    asking = [
        asyncio.create_task(_ask(ring, server, bad, pair)) for server, pair in enumerate(pairs)
    ]
    storing = asyncio.create_task(stored_at(ring, bad))
    try:
        ring.life(bad).compromised_at = time.time()
        run = await run_keys(ring, "compromise", bad)
        await asyncio.sleep(ASK_AFTERWARDS_S)
        failed = [task.result() for task in asking if task.done()]
        assert not failed, "asking ends when it is cancelled"
        assert storing.done(), "the command came back before its change was stored"
    finally:
        for task in (storing, *asking):
            task.cancel()
        await asyncio.gather(storing, *asking, return_exceptions=True)
    own = [session for session in sessions if session.ring is ring]
    return Compromise(
        keyring=ring.name,
        command_s=run.took_s,
        stored_s=round(storing.result() - run.began_at, 3),
        gone_s=tuple(_since(run.began_at, key_set) for key_set, _ in pairs),
        signs_s=tuple(_since(run.began_at, tokens) for _, tokens in pairs),
        alive=await _count_alive(own),
        sessions=len(own),
    )


async def _ask(ring: Ring, server: int, bad: str, pair: tuple[_Watch, _Watch]) -> None:
    address = ring.servers[server].address
    connections = [await Connection.open(address), await Connection.open(address)]
    try:
        await asyncio.gather(
            _ask_for_key_sets(connections[0], bad, pair[0]),
            _ask_for_tokens((ring, server), connections[1], bad, pair[1]),
        )
    finally:
        for connection in connections:
            connection.close()


async def _ask_for_key_sets(connection: Connection, bad: str, watch: _Watch) -> None:
    while True:
        watch.note(is_bad=bad in await read_kids(connection))
        await asyncio.sleep(ASK_EVERY_S)


async def _ask_for_tokens(
    place: tuple[Ring, int], connection: Connection, bad: str, watch: _Watch
) -> None:
    ring, server = place
    request = machine_request(ring)
    while True:
        reply = await connection.request(request)
        if reply.status == 200:
            watch.note(is_bad=kid_of(str(reply.json()["access_token"])) == bad)
        else:
            watch.note(is_bad=True)
            ring.note_failure(server, reply)
        await asyncio.sleep(ASK_EVERY_S)


def _since(began_at: float, watch: _Watch) -> float:
    if watch.good_at is None:
        raise RuntimeError("a compromised key is still in use")
    return round(watch.good_at - began_at, 3)


async def _count_alive(sessions: Sequence[Session]) -> int:
    """Sessions that are refreshed at every server from now on; the load does it."""
    before = [session.refreshed.copy() for session in sessions]
    deadline = time.monotonic() + REFRESH_TIMEOUT_S
    while True:
        alive = sum(
            all(session.refreshed[server] > counts[server] for server in _servers(session))
            for session, counts in zip(sessions, before, strict=True)
        )
        if alive == len(sessions) or time.monotonic() > deadline:
            return alive
        await asyncio.sleep(ASK_EVERY_S)


def _servers(session: Session) -> range:
    return range(len(session.ring.servers))
