"""What operators change by the command line, each with what must hold after its process was
killed in the middle: as in write_changes.py, beside a server that goes on.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from tests.faults.write_changes import NEW_PASSWORD, Acknowledged
from tests.faults.write_site import AUDIENCE, NEXT, SCOPE, Person, Session, Site, given
from token_server.errors import OperatorError
from token_server.records import AuditEventType, Client
from token_server.services.clients import NewClient, add_client, show_client

_MACHINE = ("client_credentials",)


class Command(Protocol):
    name: str
    event: AuditEventType
    stdin: str

    async def prepare(self, site: Site) -> None: ...

    def arguments(self) -> list[str]: ...

    async def check(self, site: Site, answer: Acknowledged) -> bool: ...


@dataclass(slots=True)
class AddClient:
    name: str = "client add"
    event: AuditEventType = AuditEventType.CLIENT_CREATED
    client_id: str = ""
    stdin: str = ""

    async def prepare(self, site: Site) -> None:
        self.client_id = f"machine-{site.number()}"

    def arguments(self) -> list[str]:
        grant = ["--grant", "client_credentials", "--scope", SCOPE, "--audience", AUDIENCE]
        return ["client", "add", self.client_id, *grant]

    async def check(self, site: Site, answer: Acknowledged) -> bool:
        client = await _client(site, self.client_id)
        if client is not None:
            site.expect(len(client.secrets) == 1, f"{len(client.secrets)} secrets")
        secret = "unknown" if answer is None else answer["client_secret"]
        is_good = await _is_good(site, self.client_id, secret)
        site.expect(is_good == (answer is not None), f"the secret is good: {is_good}")
        return client is not None


@dataclass(slots=True)
class RotateSecret:
    """The old secret ends in the moment in which the new one begins."""

    name: str = "client rotate-secret"
    event: AuditEventType = AuditEventType.CLIENT_SECRET_CREATED
    client_id: str = ""
    secret: str = ""
    stdin: str = ""

    async def prepare(self, site: Site) -> None:
        self.client_id = f"machine-{site.number()}"
        new = NewClient(self.client_id, _MACHINE, (SCOPE,), (AUDIENCE,), (AUDIENCE,))
        async with site.installation.runtime() as runtime:
            _, secret = await add_client(runtime, new)
        assert secret is not None
        self.secret = secret.reveal()

    def arguments(self) -> list[str]:
        return ["client", "rotate-secret", self.client_id, "--expire-others", "0"]

    async def check(self, site: Site, answer: Acknowledged) -> bool:
        is_old = await _is_good(site, self.client_id, self.secret)
        if answer is not None:
            is_new = await _is_good(site, self.client_id, answer["client_secret"])
            site.expect((is_old, is_new) == (False, True), f"old {is_old}, new {is_new}")
        client = await _client(site, self.client_id)
        assert client is not None
        expected = 1 if is_old else 2  # one that has ended is still shown
        site.expect(len(client.secrets) == expected, f"{len(client.secrets)} secrets")
        return not is_old


@dataclass(slots=True)
class DisableUser:
    name: str = "user disable"
    event: AuditEventType = AuditEventType.USER_DISABLED
    stdin: str = ""
    person: Person = field(init=False)
    other: Session = field(init=False)
    key: Mapping[str, Any] = field(init=False)
    exchanged: str = ""

    async def prepare(self, site: Site) -> None:
        self.person = await site.person()
        self.other = await site.session_of(self.person)
        self.key = given(await site.create_key(self.person)).json()
        self.exchanged = given(await site.exchange(self.key["api_key"])).json()["access_token"]

    def arguments(self) -> list[str]:
        return ["user", "disable", self.person.email]

    async def check(self, site: Site, answer: Acknowledged) -> bool:
        states = {
            "login": await site.can_log_in(self.person.email, self.person.password),
            "session": await site.is_alive(self.person.session, "a session of the user"),
            "other session": await site.is_alive(self.other, "another session of the user"),
            "key": await site.is_usable(self.key["api_key"]),
            "its token": await site.is_active(self.exchanged, NEXT),
        }
        site.expect(len(set(states.values())) == 1, f"what is good: {states}")
        site.expect(answer is None or not any(states.values()), f"disabled, and good: {states}")
        await site.expect_bit(self.exchanged, states["its token"], "the exchanged token")
        return not any(states.values())


@dataclass(slots=True)
class SetPassword:
    name: str = "user passwd"
    event: AuditEventType = AuditEventType.USER_PASSWORD_CHANGED
    stdin: str = NEW_PASSWORD
    person: Person = field(init=False)

    async def prepare(self, site: Site) -> None:
        self.person = await site.person()

    def arguments(self) -> list[str]:
        return ["user", "passwd", self.person.email, "--password-stdin"]

    async def check(self, site: Site, answer: Acknowledged) -> bool:
        is_new = await site.expect_one_password(self.person, NEW_PASSWORD)
        site.expect(answer is None or is_new, "changed, and the new password is refused")
        is_alive = await site.is_alive(self.person.session, "the session")
        site.expect(is_alive != is_new, f"new password {is_new}, old session {is_alive}")
        return is_new


@dataclass(slots=True)
class RevokeSession:
    name: str = "session revoke"
    event: AuditEventType = AuditEventType.SESSION_REVOKED
    stdin: str = ""
    person: Person = field(init=False)

    async def prepare(self, site: Site) -> None:
        self.person = await site.person()

    def arguments(self) -> list[str]:
        return ["session", "revoke", self.person.session.sid]

    async def check(self, site: Site, answer: Acknowledged) -> bool:
        is_alive = await site.is_alive(self.person.session, "the session")
        site.expect(answer is None or not is_alive, "revoked, and alive")
        return not is_alive


async def _client(site: Site, client_id: str) -> Client | None:
    async with site.installation.runtime() as runtime:
        try:
            return await show_client(runtime, client_id)
        except OperatorError:
            return None


async def _is_good(site: Site, client_id: str, secret: str) -> bool:
    site.secrets[client_id] = secret
    answer = await site.oauth("/token", client_id, grant_type="client_credentials")
    site.expect(answer.status_code in (200, 401), f"a client was answered {answer.status_code}")
    return answer.status_code == 200


COMMANDS: tuple[Command, ...] = (
    AddClient(),
    RotateSecret(),
    DisableUser(),
    SetPassword(),
    RevokeSession(),
)
