"""Clients that go through the front while servers restart: machine tokens, refreshes, key sets.

A client here does nothing clever: it keeps its connection unless it was told to close, sends each
request once, and notes everything but a 200 as a failure.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Coroutine
from dataclasses import dataclass, field

from tests.support.load import Address, Connection, Reply, get_request, token_request
from token_server.records import Secret
from token_server.runtime import Runtime
from token_server.services.clients import NewClient, add_client
from token_server.services.users import NewUser, add_user

MACHINE = "restart-machine"
PEOPLE = "restart-people"
EMAIL = "restarter@example.org"
PASSWORD = "correct horse battery staple"
JWKS_PATH = "/.well-known/jwks.json"
FAILURES_SHOWN = 20


async def register(runtime: Runtime) -> str:
    """The two clients and the user; the machine client's secret."""
    _, secret = await add_client(runtime, NewClient(MACHINE, ("client_credentials",)))
    people = NewClient(PEOPLE, ("password", "refresh_token"), is_public=True)
    await add_client(runtime, people)
    await add_user(runtime, NewUser(EMAIL, "Restarter", Secret(PASSWORD)))
    assert secret is not None
    return secret.reveal()


@dataclass(frozen=True, slots=True)
class Mix:
    """How many clients of each kind, and how long each waits between two requests."""

    machines: int = 6
    sessions: int = 6
    readers: int = 4
    pause_s: float = 0.04


@dataclass(slots=True)
class Account:
    """What the clients saw."""

    answered: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    slowest_s: float = 0.0


class Load:
    """`run()` until `stop()`, then one more refresh for each session."""

    def __init__(self, front: Address, secret: str, mix: Mix) -> None:
        self._front = front
        self._mix = mix
        form = {"grant_type": "client_credentials", "client_id": MACHINE}
        self._machine_request = token_request(form, secret)
        self._sessions: list[_Session] = []
        self._is_stopping = False
        self.account = Account()

    async def log_in(self) -> None:
        form = {"grant_type": "password", "username": EMAIL, "password": PASSWORD}
        for _ in range(self._mix.sessions):
            client = _Client(self._front, self.account)
            reply = await client.ask("login", token_request({**form, "client_id": PEOPLE}))
            assert reply is not None, self.account.failures
            self._sessions.append(_Session(client, str(reply.json()["refresh_token"])))

    async def run(self) -> None:
        work: list[Coroutine[None, None, None]] = [self._refresh(one) for one in self._sessions]
        requests = [("machine token", self._machine_request)] * self._mix.machines
        requests += [("key set", get_request(JWKS_PATH))] * self._mix.readers
        work += [self._repeat(kind, request) for kind, request in requests]
        async with asyncio.TaskGroup() as group:
            for each in work:
                group.create_task(each)
        for session in self._sessions:
            await session.refresh()
            session.client.close()

    def stop(self) -> None:
        """What is under way is still answered."""
        self._is_stopping = True

    async def _refresh(self, session: "_Session") -> None:
        while not self._is_stopping:
            await session.refresh()
            await asyncio.sleep(self._mix.pause_s)

    async def _repeat(self, kind: str, request: bytes) -> None:
        client = _Client(self._front, self.account)
        try:
            while not self._is_stopping:
                await client.ask(kind, request)
                await asyncio.sleep(self._mix.pause_s)
        finally:
            client.close()


class _Client:
    """One connection to the front, opened anew when it was closed."""

    def __init__(self, front: Address, account: Account) -> None:
        self._front = front
        self._account = account
        self._connection: Connection | None = None

    async def ask(self, kind: str, request: bytes) -> Reply | None:
        """The answer with status 200; None for a failure, which is noted."""
        started = time.monotonic()
        try:
            if self._connection is None:
                self._connection = await Connection.open(self._front)
            reply = await self._connection.request(request)
        except (OSError, TimeoutError) as error:
            self.close()
            self._fail(kind, repr(error))
            return None
        self._account.slowest_s = max(self._account.slowest_s, time.monotonic() - started)
        if b"\r\nconnection: close" in reply.head.lower():
            self.close()
        if reply.status != 200:
            self._fail(kind, f"{reply.status} {reply.body[:120]!r}")
            return None
        self._account.answered[kind] += 1
        return reply

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _fail(self, kind: str, what: str) -> None:
        at = time.strftime("%H:%M:%S", time.gmtime())
        self._account.failures.append(f"{at}Z {kind}: {what}")


class _Session:
    """A login that refreshes; after a failure it sends the same refresh token again."""

    def __init__(self, client: _Client, refresh_token: str) -> None:
        self.client = client
        self._refresh_token = refresh_token

    async def refresh(self) -> None:
        form = {"grant_type": "refresh_token", "client_id": PEOPLE}
        request = token_request({**form, "refresh_token": self._refresh_token})
        reply = await self.client.ask("refresh", request)
        if reply is not None:
            self._refresh_token = str(reply.json()["refresh_token"])
