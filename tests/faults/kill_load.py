"""The load under which processes are killed, and what its clients know to be acknowledged.

Sessions refresh without a pause, each with the newest token it was given; accounts get new
passwords from a second process. Every answer that contradicts an earlier acknowledgement is a
problem at once; what was in flight when the process died is left marked for the check.
"""

import asyncio
import itertools
import json
import sys
from asyncio.subprocess import PIPE, Process
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from tests.faults.changer import READY
from tests.support.load import Connection, Reply, open_connections, token_request
from tests.support.process import ROOT, Installation, ServerProcess
from tests.support.refresh_tokens import family_of, generation_of

CLIENT_ID = "survivor"
PAUSE_BETWEEN_CHANGES_S = 0.1
RETRY_S = 0.01
BEHIND_PROXY = {"TRUSTED_PROXIES": "127.0.0.1"}
_LOGINS = itertools.count()
CHEAP_HASHES = {"TOKEN_SERVER_ARGON2_MEMORY_KIB": "8", "TOKEN_SERVER_ARGON2_TIME_COST": "1"}


@dataclass(slots=True)
class Account:
    email: str
    password: str
    changes: bool  # whether its password is changed under load
    version: int = 0  # counts acknowledged changes
    previous: str | None = None  # the password before the last acknowledged change
    pending: str | None = None  # asked for, not acknowledged

    def is_unsettled_since(self, version: int) -> bool:
        """Whether another password may hold than the one of `version`."""
        return self.pending is not None or self.version != version

    def acknowledge_change(self) -> None:
        assert self.pending is not None
        self.previous, self.password, self.pending = self.password, self.pending, None
        self.version += 1


@dataclass(slots=True)
class Session:
    account: Account
    token: str | None = None  # the newest acknowledged refresh token
    version: int = 0  # of the password with which it began
    in_flight: Literal["refresh", "login"] | None = None

    @property
    def must_be_dead(self) -> bool:
        return self.version < self.account.version

    @property
    def may_be_dead(self) -> bool:
        return self.account.is_unsettled_since(self.version)


@dataclass(slots=True)
class World:
    """All that clients know; it outlives the processes."""

    sessions: list[Session]
    acknowledged: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)

    @property
    def accounts(self) -> list[Account]:
        return list({id(each.account): each.account for each in self.sessions}.values())

    def note(self, session: Session, problem: str) -> None:
        self.problems.append(f"{describe(session)}: {problem}")


class PasswordChanger:
    """The process of changer.py."""

    def __init__(self, process: Process) -> None:
        self._process = process

    @classmethod
    async def start(cls, installation: Installation) -> "PasswordChanger":
        """Its hashes are cheap, so that a kill meets the transaction and not the hash; a login
        then stores a dear one, which is one more write to be killed in."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.faults.changer"),
            cwd=ROOT,
            env={**installation.environ(), **CHEAP_HASHES},
            stdin=PIPE,
            stdout=PIPE,
        )
        changer = cls(process)
        assert await changer._read_line() == READY
        return changer

    @property
    def is_alive(self) -> bool:
        return self._process.returncode is None

    async def change(self, email: str, password: str) -> bool:
        """True when the change was acknowledged, False when the process is gone."""
        assert self._process.stdin is not None
        order = json.dumps({"email": email, "password": password}) + "\n"
        try:
            self._process.stdin.write(order.encode())
            await self._process.stdin.drain()
        except ConnectionError:
            return False
        return bool(await self._read_line())

    def kill(self) -> None:
        if self.is_alive:
            self._process.kill()

    async def stop(self) -> None:
        """Lets a change that runs finish; kills nothing that obeys."""
        if self.is_alive:
            assert self._process.stdin is not None
            self._process.stdin.close()
        await asyncio.wait_for(self._process.wait(), 30)

    async def _read_line(self) -> str:
        assert self._process.stdout is not None
        return (await self._process.stdout.readline()).decode().strip()


class Load:
    """Runs until the server dies or `finish` is called."""

    def __init__(
        self,
        world: World,
        server: ServerProcess,
        changer: PasswordChanger | None = None,
        *,
        may_be_unavailable: bool = False,
    ) -> None:
        """`may_be_unavailable`: a 503 ends a session's load as the death of the server does, since
        the database may be what was killed."""
        self._may_be_unavailable = may_be_unavailable
        self._world = world
        self._server = server
        self._changer = changer
        self._is_over = False
        self._changes = 0
        self.change_begun = asyncio.Event()  # set with each password change that is asked for

    def finish(self) -> None:
        """Nothing new is begun; what is in flight may still be answered."""
        self._is_over = True

    async def run(self) -> None:
        world = self._world
        async with open_connections([self._server.address], len(world.sessions)) as connections:
            drivers = [
                self._drive(session, connection)
                for session, connection in zip(world.sessions, connections, strict=True)
            ]
            await asyncio.gather(*drivers, self._change_passwords())

    async def _drive(self, session: Session, connection: Connection) -> None:
        try:
            while not self._is_over:
                if session.token is None:
                    await self._log_in(session, connection)
                else:
                    await self._refresh(session, session.token, connection)
        except ConnectionError:
            return  # killed: `in_flight` stays as it was

    async def _refresh(self, session: Session, token: str, connection: Connection) -> None:
        had_to_be_dead = session.must_be_dead
        session.in_flight = "refresh"
        reply = await self._request(refresh_request(token), connection)
        session.in_flight = None
        if reply.status == 200:
            successor = refresh_token_of(reply)
            if had_to_be_dead:
                self._world.note(session, "refreshed after an acknowledged password change")
            if generation_of(successor) != generation_of(token) + 1:
                self._world.note(session, "the successor is not one generation later")
            session.token = successor
            self._world.acknowledged["refresh"] += 1
        else:
            if not (is_invalid_grant(reply) and session.may_be_dead):
                self._world.note(session, f"a refresh was answered {reply.status} {reply.body!r}")
            session.token = None

    async def _log_in(self, session: Session, connection: Connection) -> None:
        account = session.account
        if account.pending is not None:  # which password holds is not known now
            await asyncio.sleep(RETRY_S)
            return
        version = account.version
        session.in_flight = "login"
        reply = await self._request(login_request(account.email, account.password), connection)
        session.in_flight = None
        if reply.status == 200:
            session.token, session.version = refresh_token_of(reply), version
            self._world.acknowledged["login"] += 1
        elif not (is_invalid_grant(reply) and account.is_unsettled_since(version)):
            self._world.note(session, f"a login was answered {reply.status} {reply.body!r}")

    async def _request(self, request: bytes, connection: Connection) -> Reply:
        reply = await connection.request(request)
        if reply.status == 503 and self._may_be_unavailable:
            raise ConnectionResetError("the server is without its database")
        return reply

    async def _change_passwords(self) -> None:
        changing = [account for account in self._world.accounts if account.changes]
        while changing and self._changer is not None and not self._is_over:
            self._changes += 1
            account = changing[self._changes % len(changing)]
            account.pending = f"correct horse {account.version + 1} battery staple"
            self.change_begun.set()
            if not await self._changer.change(account.email, account.pending):
                return  # killed: `pending` stays
            account.acknowledge_change()
            self._world.acknowledged["password change"] += 1
            await asyncio.sleep(PAUSE_BETWEEN_CHANGES_S)


def in_flight(world: World) -> list[dict[str, Any]]:
    """What was begun and not answered, without any secret: for the log of a kill."""
    requests = [
        {"operation": session.in_flight, "session": describe(session)}
        for session in world.sessions
        if session.in_flight is not None
    ]
    changes = [
        {"operation": "password change", "account": account.email}
        for account in world.accounts
        if account.pending is not None
    ]
    return requests + changes


def describe(session: Session) -> str:
    if session.token is None:
        return f"{session.account.email} (no session)"
    family, generation = family_of(session.token).hex()[:8], generation_of(session.token)
    return f"{session.account.email} family {family} generation {generation}"


def login_request(email: str, password: str) -> bytes:
    """Each from another network (BEHIND_PROXY): a killed login stays counted as a guess, and so
    does each look whether an old password is refused."""
    form = {"grant_type": "password", "username": email, "password": password}
    number = next(_LOGINS)
    address = f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
    return token_request(
        {**form, "client_id": CLIENT_ID}, more_headers={"X-Forwarded-For": address}
    )


def refresh_request(refresh_token: str) -> bytes:
    form = {"grant_type": "refresh_token", "refresh_token": refresh_token}
    return token_request({**form, "client_id": CLIENT_ID})


def refresh_token_of(reply: Reply) -> str:
    return str(reply.json()["refresh_token"])


def is_invalid_grant(reply: Reply) -> bool:
    return reply.status == 400 and reply.json()["error"] == "invalid_grant"


def tokens(sessions: Sequence[Session]) -> list[str]:
    return [session.token for session in sessions if session.token is not None]
