"""What goes on while keys rotate: clients get tokens, sessions refresh, key sets are looked at.

Every request must succeed: any other answer than 200 is a problem. Each server has its own
connections, so that it is known which one signed what.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tests.faults.rotation.proxy import JWKS_PATH
from tests.faults.rotation.world import Ring, Token, expiry_of, kid_of
from tests.support.load import Connection, Reply, get_request, token_request
from token_server.records import Secret
from token_server.runtime import Runtime
from token_server.services.clients import NewClient, add_client
from token_server.services.users import NewUser, add_user

MACHINE = "drill-machine"
PEOPLE = "drill-people"
EMAIL = "driller@example.org"
PASSWORD = "correct horse battery staple"
AUDIENCE = "https://orders.example"
SESSIONS = 4
REFRESH_EVERY_S = 1.0
LOOK_AT_KEY_SETS_EVERY_S = 0.1


async def register(runtime: Runtime) -> str:
    """The clients and the user of one keyring's installation; the machine client's secret."""
    audiences = (AUDIENCE,)
    machine = NewClient(MACHINE, ("client_credentials",), (), audiences, audiences)
    _, secret = await add_client(runtime, machine)
    grants = ("password", "refresh_token")
    people = NewClient(PEOPLE, grants, (), audiences, audiences, is_public=True)
    await add_client(runtime, people)
    await add_user(runtime, NewUser(EMAIL, "Driller", Secret(PASSWORD)))
    assert secret is not None
    return secret.reveal()


@dataclass(slots=True)
class Session:
    """A user's login, which refreshes at the servers in turn."""

    ring: Ring
    refresh_token: str = field(repr=False)
    refreshed: Counter[int] = field(default_factory=Counter)  # by server


class Load:
    """Runs until cancelled; every token goes to `on_token`."""

    def __init__(self, rings: Sequence[Ring], rate: float, on_token: Callable[[Token], None]):
        self._rings = rings
        self._pause_s = 1 / rate
        self._on_token = on_token
        self._connections: list[Connection] = []
        self.sessions: list[Session] = []
        self.answered: Counter[str] = Counter()

    async def log_in(self) -> None:
        form = {"grant_type": "password", "username": EMAIL, "password": PASSWORD}
        for ring in self._rings:
            connection = await self._open(ring, 0)
            for _ in range(SESSIONS):
                request = token_request({**form, "client_id": PEOPLE})
                reply = await self._issue(ring, 0, connection, request)
                assert reply is not None, ring.problems
                self.sessions.append(Session(ring, str(reply.json()["refresh_token"])))

    async def run(self) -> None:
        work = [self._refresh(session, number) for number, session in enumerate(self.sessions)]
        for ring in self._rings:
            for server in range(len(ring.servers)):
                work += [self._get_tokens(ring, server), self._watch(ring, server)]
        try:
            async with asyncio.TaskGroup() as group:
                for each in work:
                    group.create_task(each)
        finally:
            for connection in self._connections:
                connection.close()

    async def _open(self, ring: Ring, server: int) -> Connection:
        connection = await Connection.open(ring.servers[server].address)
        self._connections.append(connection)
        return connection

    async def _get_tokens(self, ring: Ring, server: int) -> None:
        request = machine_request(ring)
        connection = await self._open(ring, server)
        due_at = time.monotonic()
        while True:
            await self._issue(ring, server, connection, request)
            # Not more at once after a stall: a burst would load the verifiers, not the server.
            due_at = max(due_at + self._pause_s, time.monotonic() - self._pause_s)
            await asyncio.sleep(due_at - time.monotonic())

    async def _refresh(self, session: Session, number: int) -> None:
        ring = session.ring
        connections = [await self._open(ring, server) for server in range(len(ring.servers))]
        await asyncio.sleep(REFRESH_EVERY_S * number / len(self.sessions))
        while True:
            for server, connection in enumerate(connections):
                form = {"grant_type": "refresh_token", "client_id": PEOPLE}
                request = token_request({**form, "refresh_token": session.refresh_token})
                reply = await self._issue(ring, server, connection, request)
                if reply is None:
                    await asyncio.sleep(REFRESH_EVERY_S)  # then the same token again
                    continue
                session.refresh_token = str(reply.json()["refresh_token"])
                session.refreshed[server] += 1
                self.answered["refreshes"] += 1
                await asyncio.sleep(REFRESH_EVERY_S)

    async def _watch(self, ring: Ring, server: int) -> None:
        connection = await self._open(ring, server)
        while True:
            ring.note_key_set(server, await read_kids(connection), time.time())
            self.answered["key sets"] += 1
            await asyncio.sleep(LOOK_AT_KEY_SETS_EVERY_S)

    async def _issue(
        self, ring: Ring, server: int, connection: Connection, request: bytes
    ) -> Reply | None:
        sent_at = time.time()
        reply = await connection.request(request)
        if reply.status != 200:
            ring.note_failure(server, reply)
            return None
        self.answered["tokens"] += 1
        text = str(reply.json()["access_token"])
        token = Token(ring.name, server, kid_of(text), time.time(), expiry_of(text), text)
        ring.note_token(token, sent_at)
        self._on_token(token)
        return reply


def machine_request(ring: Ring) -> bytes:
    """Asks for a machine token."""
    form = {"grant_type": "client_credentials", "client_id": MACHINE}
    return token_request(form, ring.client_secret)


async def read_kids(connection: Connection) -> frozenset[str]:
    """The key set that a server serves now."""
    reply = await connection.request(get_request(JWKS_PATH))
    assert reply.status == 200, reply.status
    return frozenset(str(key["kid"]) for key in reply.json()["keys"])
