"""What operators do with users, clients and sessions: the functions behind the command line."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Protocol

from tests.model.answers import Answer, Expected
from tests.model.calls import Call, Moment, Outcome
from tests.model.state import PRUNED_AFTER_S, Doors, State
from token_server.records import Secret
from token_server.runtime import Runtime
from token_server.services import clients, maintenance, sessions, users
from token_server.services.clients import SecretRotation

_DONE = Expected(0)


class OperatorCall(Call, Protocol):
    async def perform(self, runtime: Runtime) -> object: ...


@dataclass(frozen=True, slots=True)
class SetUserActive:
    """`user disable` and `user enable`: sessions end with the first and stay ended."""

    email: str
    is_active: bool

    async def perform(self, runtime: Runtime) -> object:
        change = users.enable_user if self.is_active else users.disable_user
        return await change(runtime, self.email)

    def outcomes(self, state: State, _moment: Moment, _: Answer) -> Iterator[Outcome]:
        user = state.users[self.email]
        if self.is_active:
            yield _DONE, state.with_user(replace(user, is_active=True))
            return
        user = replace(user, is_active=False, version=user.version + 1)
        yield _DONE, state.with_user(user).ending_all(email=self.email)


@dataclass(frozen=True, slots=True)
class SetPassword:
    """`user passwd`."""

    email: str
    password: str

    async def perform(self, runtime: Runtime) -> object:
        return await users.set_password(runtime, self.email, Secret(self.password))

    def outcomes(self, state: State, _moment: Moment, _: Answer) -> Iterator[Outcome]:
        user = state.users[self.email]
        user = replace(user, password=self.password, version=user.version + 1)
        yield _DONE, state.with_user(user).ending_all(email=self.email)


@dataclass(frozen=True, slots=True)
class SetClientEnabled:
    """`client disable` and `client enable`; a server notices within five seconds."""

    client_id: str
    is_enabled: bool

    async def perform(self, runtime: Runtime) -> object:
        change = clients.enable_client if self.is_enabled else clients.disable_client
        return await change(runtime, self.client_id)

    def outcomes(self, state: State, moment: Moment, _: Answer) -> Iterator[Outcome]:
        client = state.clients[self.client_id]
        doors = replace(client.doors, is_enabled=self.is_enabled)
        after = state.with_client(client.with_doors(doors, moment.uptime_ms))
        yield _DONE, after if self.is_enabled else after.ending_all(client_id=self.client_id)


@dataclass(frozen=True, slots=True)
class RotateSecret:
    """`client rotate-secret`: one more secret, and an end for the others."""

    client_id: str
    expire_others_in_s: int

    async def perform(self, runtime: Runtime) -> object:
        rotation = SecretRotation("next", expire_others_in_s=self.expire_others_in_s)
        _, secret = await clients.rotate_secret(runtime, self.client_id, rotation)
        return secret.reveal()

    def outcomes(self, state: State, moment: Moment, answer: Answer) -> Iterator[Outcome]:
        client, end = state.clients[self.client_id], moment.now + self.expire_others_in_s
        kept = tuple(
            (text, end if ends_at is None else min(end, ends_at))
            for text, ends_at in client.doors.secrets
            if ends_at is None or moment.now < ends_at
        )
        doors = Doors(client.doors.is_enabled, (*kept, (answer.value, None)))
        yield _DONE, state.with_client(client.with_doors(doors, moment.uptime_ms))


@dataclass(frozen=True, slots=True)
class EndSessions:
    """`session revoke`: one session, all of a user's or all of a client's."""

    sid: str | None = None
    email: str | None = None
    client_id: str | None = field(default=None)

    async def perform(self, runtime: Runtime) -> object:
        if self.sid is not None:
            return await sessions.revoke_session(runtime, self.sid)
        if self.email is not None:
            return await sessions.end_user_sessions(runtime, self.email)
        return await clients.end_client_sessions(runtime, self.client_id or "")

    def outcomes(self, state: State, _moment: Moment, _: Answer) -> Iterator[Outcome]:
        if self.sid is None:
            yield _DONE, state.ending_all(email=self.email, client_id=self.client_id)
            return
        found = state.find_session(self.sid)
        yield _DONE, state if found is None else state.ending(found)


@dataclass(frozen=True, slots=True)
class Prune:
    """`db prune`: sessions that ended long ago lose their rows."""

    async def perform(self, runtime: Runtime) -> object:
        return await maintenance.prune_database(runtime, None)

    def outcomes(self, state: State, moment: Moment, _: Answer) -> Iterator[Outcome]:
        kept = {
            key: each
            for key, each in state.families.items()
            if each.absolute_expires_at >= moment.now - PRUNED_AFTER_S
        }
        yield _DONE, replace(state, families=kept)
