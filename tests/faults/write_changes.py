"""What clients change over HTTP, each with what must hold after a kill in the middle of it.

A change prepares what it needs, is asked for once, and is looked at afterwards: acknowledged, it
is there; not acknowledged, it is there wholly or not at all. `check` says whether it is there
(None where nobody outside can tell), and notes every contradiction on the site.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import httpx

from tests.faults.write_site import (
    APP,
    METER,
    NEXT,
    PASSWORD,
    Person,
    Session,
    Site,
    given,
    session_of,
)
from token_server.records import AuditEventType

Acknowledged = Mapping[str, Any] | None  # the answer's members, {} for an empty one
NEW_PASSWORD = "another battery staple horse"


class Change(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def event(self) -> AuditEventType | None:
        """Written in the transaction of the change."""

    async def prepare(self, site: Site) -> None: ...

    async def act(self, site: Site) -> httpx.Response: ...

    async def check(self, site: Site, answer: Acknowledged) -> bool | None: ...


@dataclass(slots=True)
class Register:
    """Whole is an account that can log in; the session that the answer would have begun may be
    missing, and its tokens are nobody's then."""

    name: str = "register"
    event: AuditEventType | None = AuditEventType.USER_CREATED
    email: str = ""

    async def prepare(self, site: Site) -> None:
        self.email = site.new_email()

    async def act(self, site: Site) -> httpx.Response:
        return await site.register(self.email)

    async def check(self, site: Site, answer: Acknowledged) -> bool | None:
        again = await site.register(self.email)
        exists = again.status_code == 409
        if not exists:  # then the e-mail was free, and is not any more
            site.expect(again.status_code == 200, f"a second try: {again.status_code}")
        site.expect(await site.can_log_in(self.email, PASSWORD), "no login is possible")
        if answer is not None:
            session = session_of("account", answer)
            me = await site.account("GET", "/me", session)
            site.expect(me.status_code == 200, f"me was answered {me.status_code}")
            await site.expect_alive(session, "the new account's session")
        return exists


@dataclass(slots=True)
class LogIn:
    """At one of the two doors."""

    name: str
    ask: Callable[[Site, str], Any]
    client_id: str
    event: AuditEventType | None = AuditEventType.LOGIN_SUCCEEDED
    person: Person = field(init=False)

    async def prepare(self, site: Site) -> None:
        self.person = await site.person()

    async def act(self, site: Site) -> httpx.Response:
        answer: httpx.Response = await self.ask(site, self.person.email)
        return answer

    async def check(self, site: Site, answer: Acknowledged) -> bool | None:
        listed = given(await site.account("GET", "/sessions", self.person.session)).json()
        sids = {each["id"] for each in listed["sessions"]}
        site.expect(len(sids) in (1, 2), f"{len(sids)} sessions after one login more")
        if answer is not None:
            session = session_of(self.client_id, answer)
            site.expect(session.sid in sids, "the new session is not listed")
            await site.expect_alive(session, "the new session")
        return len(sids) == 2


@dataclass(slots=True)
class Refresh:
    name: str = "refresh"
    event: AuditEventType | None = None  # a line of the log (style.md 39)
    session: Session = field(init=False)

    async def prepare(self, site: Site) -> None:
        self.session = await site.session_of(await site.person())

    async def act(self, site: Site) -> httpx.Response:
        return await site.refresh(self.session)

    async def check(self, site: Site, answer: Acknowledged) -> bool | None:
        """One token of the family is usable; the use of another one ends it."""
        before = self.session.refresh_token
        newest = before if answer is None else answer["refresh_token"]
        first = await site.refresh(self.session, newest)
        again = await site.refresh(self.session, newest)
        statuses = (first.status_code, again.status_code)
        if not site.expect(statuses == (200, 200), f"the newest token: {statuses}"):
            return None
        successor = first.json()["refresh_token"]
        site.expect(again.json()["refresh_token"] == successor, "two successors of one token")
        spent = await site.refresh(self.session, successor)
        site.expect(spent.status_code == 200, f"the successor: {spent.status_code}")
        last = spent.json().get("refresh_token", successor)
        for token in (before, last, successor):
            answered = (await site.refresh(self.session, token)).status_code
            site.expect(answered == 400, f"usable beside the newest token: {answered}")
        return None


@dataclass(slots=True)
class RevokeRefreshToken:
    name: str = "revoke a refresh token"
    event: AuditEventType | None = AuditEventType.SESSION_REVOKED
    person: Person = field(init=False)
    session: Session = field(init=False)

    async def prepare(self, site: Site) -> None:
        self.person = await site.person()
        self.session = await site.session_of(self.person)

    async def act(self, site: Site) -> httpx.Response:
        return await site.oauth("/revoke", APP, token=self.session.refresh_token)

    async def check(self, site: Site, answer: Acknowledged) -> bool | None:
        is_alive = await site.is_alive(self.session, "the revoked session")
        site.expect(answer is None or not is_alive, "revoked, and alive")
        await site.expect_alive(self.person.session, "another session of the person")
        return not is_alive


@dataclass(slots=True)
class RevokeMachineToken:
    """With a place in a status list (METER), or in the table of refused tokens."""

    client_id: str
    event: AuditEventType | None = AuditEventType.TOKEN_REVOKED
    token: str = ""

    @property
    def name(self) -> str:
        return f"revoke a machine token of {self.client_id}"

    async def prepare(self, site: Site) -> None:
        self.token = await site.machine_token(self.client_id)

    async def act(self, site: Site) -> httpx.Response:
        return await site.oauth("/revoke", self.client_id, token=self.token)

    async def check(self, site: Site, answer: Acknowledged) -> bool | None:
        is_active = await site.is_active(self.token)
        site.expect(answer is None or not is_active, "revoked, and active")
        if self.client_id == METER:
            await site.expect_bit(self.token, is_active, "the machine token")
        return not is_active


@dataclass(slots=True)
class ChangePassword:
    name: str = "change-password"
    event: AuditEventType | None = AuditEventType.USER_PASSWORD_CHANGED
    person: Person = field(init=False)
    other: Session = field(init=False)

    async def prepare(self, site: Site) -> None:
        self.person = await site.person()
        self.other = await site.session_of(self.person)

    async def act(self, site: Site) -> httpx.Response:
        body = {"current_password": self.person.password, "new_password": NEW_PASSWORD}
        return await site.account("POST", "/change-password", self.person.session, json=body)

    async def check(self, site: Site, answer: Acknowledged) -> bool | None:
        is_new = await site.expect_one_password(self.person, NEW_PASSWORD)
        site.expect(answer is None or is_new, "changed, and the new password is refused")
        is_alive = await site.is_alive(self.other, "the other session")
        site.expect(is_alive != is_new, f"new password {is_new}, other session {is_alive}")
        own = self.person.session
        if not is_new:
            await site.expect_alive(own, "the own session")
            return False
        site.expect(not await site.is_active(own.access_token), "an old access token is active")
        refused = await site.refresh(own)
        site.expect(refused.status_code == 400, f"an old token: {refused.status_code}")
        if answer is not None:
            await site.expect_alive(session_of("account", answer), "the renewed session")
        return True


@dataclass(slots=True)
class LogOut:
    name: str = "logout"
    event: AuditEventType | None = AuditEventType.SESSION_REVOKED
    person: Person = field(init=False)

    async def prepare(self, site: Site) -> None:
        self.person = await site.person()

    async def act(self, site: Site) -> httpx.Response:
        return await site.account("POST", "/logout", self.person.session)

    async def check(self, site: Site, answer: Acknowledged) -> bool | None:
        me = await site.account("GET", "/me", self.person.session)
        is_alive = await site.is_alive(self.person.session, "the session")
        site.expect(me.status_code == (200 if is_alive else 401), f"me: {me.status_code}")
        site.expect(answer is None or not is_alive, "logged out, and alive")
        return not is_alive


@dataclass(slots=True)
class EndSession:
    name: str = "end a session"
    event: AuditEventType | None = AuditEventType.SESSION_REVOKED
    person: Person = field(init=False)
    other: Session = field(init=False)

    async def prepare(self, site: Site) -> None:
        self.person = await site.person()
        self.other = await site.session_of(self.person)

    async def act(self, site: Site) -> httpx.Response:
        path = f"/sessions/{self.other.sid}"
        return await site.account("DELETE", path, self.person.session)

    async def check(self, site: Site, answer: Acknowledged) -> bool | None:
        is_alive = await site.is_alive(self.other, "the ended session")
        site.expect(answer is None or not is_alive, "ended, and alive")
        await site.expect_alive(self.person.session, "the own session")
        return not is_alive


@dataclass(slots=True)
class CreateKey:
    name: str = "create an API key"
    event: AuditEventType | None = AuditEventType.API_KEY_CREATED
    person: Person = field(init=False)

    async def prepare(self, site: Site) -> None:
        self.person = await site.person()

    async def act(self, site: Site) -> httpx.Response:
        return await site.create_key(self.person)

    async def check(self, site: Site, answer: Acknowledged) -> bool | None:
        ids = await site.key_ids(self.person)
        site.expect(len(ids) in (0, 1), f"{len(ids)} keys after one was made")
        if answer is not None:
            site.expect(ids == [answer["id"]], f"the new key is not listed: {ids}")
            site.expect(await site.is_usable(answer["api_key"]), "the new key is refused")
            exchanged = given(await site.exchange(answer["api_key"])).json()["access_token"]
            site.expect(await site.is_active(exchanged, NEXT), "its token is inactive")
        return len(ids) == 1


@dataclass(slots=True)
class RevokeKey:
    name: str = "revoke an API key"
    event: AuditEventType | None = AuditEventType.API_KEY_REVOKED
    person: Person = field(init=False)
    key: Mapping[str, Any] = field(init=False)
    exchanged: str = ""

    async def prepare(self, site: Site) -> None:
        self.person = await site.person()
        self.key = given(await site.create_key(self.person)).json()
        self.exchanged = given(await site.exchange(self.key["api_key"])).json()["access_token"]

    async def act(self, site: Site) -> httpx.Response:
        return await site.account("DELETE", f"/api-keys/{self.key['id']}", self.person.session)

    async def check(self, site: Site, answer: Acknowledged) -> bool | None:
        is_usable = await site.is_usable(self.key["api_key"])
        is_listed = bool(await site.key_ids(self.person))
        is_active = await site.is_active(self.exchanged, NEXT)
        states = (is_usable, is_listed, is_active)
        site.expect(len(set(states)) == 1, f"usable, listed, its token active: {states}")
        site.expect(answer is None or not is_usable, "revoked, and usable")
        await site.expect_bit(self.exchanged, is_active, "the exchanged token")
        return not is_usable


@dataclass(slots=True)
class ExchangeKey:
    """The first exchange of a key takes a number for the status of its tokens. Whatever the kill
    met, tokens exchanged before and after it are good, and end with the key."""

    name: str = "exchange an API key"
    event: AuditEventType | None = None
    person: Person = field(init=False)
    key: Mapping[str, Any] = field(init=False)

    async def prepare(self, site: Site) -> None:
        self.person = await site.person()
        self.key = given(await site.create_key(self.person)).json()

    async def act(self, site: Site) -> httpx.Response:
        return await site.exchange(self.key["api_key"])

    async def check(self, site: Site, answer: Acknowledged) -> bool | None:
        tokens = [given(await site.exchange(self.key["api_key"])).json()["access_token"]]
        if answer is not None:
            tokens.append(answer["access_token"])
        for token in tokens:
            site.expect(await site.is_active(token, NEXT), "an exchanged token is inactive")
        given(await site.account("DELETE", f"/api-keys/{self.key['id']}", self.person.session))
        for token in tokens:
            site.expect(not await site.is_active(token, NEXT), "active without its key")
            await site.expect_bit(token, False, "a token of a revoked key")
        return None


async def _log_in(site: Site, email: str) -> httpx.Response:
    return await site.log_in(email, PASSWORD)


async def _grant(site: Site, email: str) -> httpx.Response:
    return await site.grant(email)


CHANGES: tuple[Change, ...] = (
    Register(),
    LogIn("login", _log_in, "account"),
    LogIn("login by password grant", _grant, APP),
    Refresh(),
    RevokeRefreshToken(),
    RevokeMachineToken(METER),
    RevokeMachineToken("billing"),
    ChangePassword(),
    LogOut(),
    EndSession(),
    CreateKey(),
    RevokeKey(),
    ExchangeKey(),
)
