"""A steady number of requests a second of every kind, whatever becomes of them, and what came back.

Requests are sent when their time has come, not when the one before was answered: a server that
hangs is not spared. A session refreshes one token after the other; after a failure it sends the
same one again, as the documentation tells clients to.
"""

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.support.load import (
    Address,
    Connection,
    Reply,
    form_request,
    get_request,
    token_request,
)
from token_server.records import Secret
from token_server.runtime import Runtime
from token_server.services.clients import NewClient, add_client
from token_server.services.users import NewUser, add_user

MACHINE = "outage-machine"
PEOPLE = "outage-people"
AUDIENCE = "https://orders.example"
EMAIL = "outage@example.org"
PASSWORD = "correct horse battery staple"
JWKS_PATH = "/.well-known/jwks.json"
METADATA_PATH = "/.well-known/oauth-authorization-server"
DOCUMENTS = ("key set", "metadata")
# Of 200 requests.
MIX = {
    "key set": 60,
    "metadata": 25,
    "machine token": 45,
    "refresh": 45,
    "introspection": 22,
    "login": 3,
}


@dataclass(frozen=True, slots=True)
class Answer:
    """One request, in seconds of the monotonic clock; status 0 is none at all."""

    kind: str
    began_at: float
    took_s: float
    status: int
    has_retry_after: bool
    text: str


@dataclass(slots=True)
class Session:
    """A login at one of the servers; `rotations` counts the successors that it was given."""

    refresh_token: str
    rotations: int = 0
    is_busy: bool = False


async def register(runtime: Runtime) -> str:
    """The two clients and the user; the machine client's secret."""
    machine = NewClient(
        MACHINE, ("client_credentials",), audiences=(AUDIENCE,), serves_audiences=(AUDIENCE,)
    )
    _, secret = await add_client(runtime, machine)
    people = NewClient(PEOPLE, ("password", "refresh_token"), is_public=True)
    await add_client(runtime, people)
    await add_user(runtime, NewUser(EMAIL, "Outage", Secret(PASSWORD)))
    assert secret is not None
    return secret.reveal()


@dataclass
class Load:
    """`start()`, and `stop()` when what is under way has been answered."""

    addresses: Sequence[Address]
    secret: str
    rate: int = 200
    sessions: list[Session] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    skipped: int = 0  # refreshes for which no session was free

    def __post_init__(self) -> None:
        self._random = random.Random(8)  # noqa: S311 - the order of kinds, no secret
        self._free: dict[Address, list[Connection]] = {each: [] for each in self.addresses}
        self._tasks: set[asyncio.Task[None]] = set()
        self._sender: asyncio.Task[None] | None = None
        self._machine_token = ""

    async def log_in(self, count: int) -> None:
        reply = await self._send(self.addresses[0], self._request_of("machine token", None))
        self._machine_token = str(reply.json()["access_token"])
        for number in range(count):
            address = self.addresses[number % len(self.addresses)]
            reply = await self._send(address, self._request_of("login", None))
            assert reply.status == 200, reply
            self.sessions.append(Session(str(reply.json()["refresh_token"])))

    def start(self) -> None:
        self._sender = asyncio.create_task(self._send_at_rate())

    async def stop(self) -> None:
        assert self._sender is not None
        self._sender.cancel()
        await asyncio.gather(self._sender, return_exceptions=True)
        while self._tasks:
            await asyncio.wait(self._tasks)

    def close(self) -> None:
        for connections in self._free.values():
            for connection in connections:
                connection.close()

    async def refresh_all(self) -> list[str]:
        """One more refresh of every session; what went wrong."""
        problems = []
        for session in self.sessions:
            await self._ask("refresh", session, self.addresses[0])
            last = self.answers[-1]
            if last.status != 200:
                problems.append(f"a session that was not ended: {last.status} {last.text}")
        return problems

    async def _send_at_rate(self) -> None:
        begun, sent = time.monotonic(), 0
        deck: list[str] = []
        while True:
            while sent < (time.monotonic() - begun) * self.rate:
                if not deck:
                    deck = [kind for kind, count in MIX.items() for _ in range(count)]
                    self._random.shuffle(deck)
                self._begin(deck.pop(), self.addresses[sent % len(self.addresses)])
                sent += 1
            await asyncio.sleep(1 / self.rate)

    def _begin(self, kind: str, address: Address) -> None:
        session = None
        if kind == "refresh":
            free = [one for one in self.sessions if not one.is_busy]
            if not free:
                self.skipped += 1
                return
            session = self._random.choice(free)
            session.is_busy = True
        task = asyncio.create_task(self._ask(kind, session, address))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _ask(self, kind: str, session: Session | None, address: Address) -> None:
        began_at = time.monotonic()
        try:
            reply = await self._send(address, self._request_of(kind, session))
        except (OSError, TimeoutError) as error:
            took_s = time.monotonic() - began_at
            self.answers.append(Answer(kind, began_at, took_s, 0, False, repr(error)))
        else:
            has_retry_after = b"\r\nretry-after:" in reply.head.lower()
            took_s = time.monotonic() - began_at
            text = "" if reply.status == 200 else reply.body[:200].decode("utf-8", "replace")
            self.answers.append(Answer(kind, began_at, took_s, reply.status, has_retry_after, text))
            if session is not None and reply.status == 200:
                session.refresh_token = str(reply.json()["refresh_token"])
                session.rotations += 1
        finally:
            if session is not None:
                session.is_busy = False

    async def _send(self, address: Address, request: bytes) -> Reply:
        free = self._free[address]
        connection = free.pop() if free else await Connection.open(address)
        reply = await connection.request(request)
        if b"\r\nconnection: close" in reply.head.lower():
            connection.close()
        else:
            free.append(connection)
        return reply

    def _request_of(self, kind: str, session: Session | None) -> bytes:
        if kind == "key set":
            return get_request(JWKS_PATH)
        if kind == "metadata":
            return get_request(METADATA_PATH)
        if kind == "machine token":
            form = {"grant_type": "client_credentials", "client_id": MACHINE}
            return token_request(form, self.secret)
        if kind == "introspection":
            fields = {"client_id": MACHINE, "client_secret": self.secret}
            return form_request("/oauth2/introspect", {**fields, "token": self._machine_token})
        if session is not None:
            form = {"grant_type": "refresh_token", "client_id": PEOPLE}
            return token_request({**form, "refresh_token": session.refresh_token})
        form = {"grant_type": "password", "username": EMAIL, "password": PASSWORD}
        # Each from a network of its own: guesses are not what is tried here.
        source = f"10.{self._random.randrange(256)}.{self._random.randrange(256)}.1"
        return token_request({**form, "client_id": PEOPLE}, None, {"X-Forwarded-For": source})
