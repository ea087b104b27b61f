"""The place where writes are killed: one installation with its clients, and how people use it.

Everything is asked over HTTP as a stranger would; only the audit trail is read from the database,
and the connection for it is closed again: one held over a kill would spare SQLite its recovery.
"""

import asyncio
import base64
import itertools
import time
import zlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx

from tests.faults.kill_load import CLIENT_ID
from tests.support.plain_http import NO_TLS
from tests.support.process import Installation, ServerProcess
from tests.support.token_state import claims_of
from token_server.core.client_policy import TOKEN_EXCHANGE
from token_server.core.token_exchange import API_KEY_TYPE
from token_server.services.client_changes import ClientChanges, change_client
from token_server.services.clients import NewClient, add_client
from token_server.storage import audit

AUDIENCE, NEXT_AUDIENCE = "https://orders.example", "https://billing.example"
SCOPE = "orders:read"
PASSWORD = "correct horse battery staple"
OVERRIDES = {
    "REGISTRATION": "open",
    "DEFAULT_AUDIENCE": AUDIENCE,
    "TRUSTED_PROXIES": "127.0.0.1",  # each request is from another network: no guess is throttled
    "REFRESH_REPLAY_WINDOW": "5m",  # a slow restart on a busy machine must not look like theft
}
# People's client, machines (the second one's tokens have no place in a status list), who may
# introspect and exchange, and who may introspect what was exchanged.
APP, METER, BILLING, ORDERS, NEXT = "app", "meter", "billing", "orders", "next"
_FOLLOWED_WITHIN_S = 10.0  # a revocation elsewhere is in the list a second later; machines are busy
_ALL_EVENTS = 10_000


@dataclass(slots=True)
class Session:
    """Tokens of one login, the newest that its client was given."""

    client_id: str
    access_token: str
    refresh_token: str

    @property
    def sid(self) -> str:
        return str(claims_of(self.access_token)["sid"])

    def take(self, answer: httpx.Response) -> None:
        tokens = answer.json()
        self.access_token, self.refresh_token = tokens["access_token"], tokens["refresh_token"]


@dataclass(slots=True)
class Person:
    email: str
    session: Session
    password: str = PASSWORD


@dataclass(slots=True)
class Site:
    installation: Installation
    secrets: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    _http: httpx.AsyncClient | None = None
    _numbers: "itertools.count[int]" = field(default_factory=itertools.count)

    async def prepare(self) -> None:
        """Before the first start."""
        people: dict[str, Any] = {
            "audiences": (AUDIENCE,),
            "default_audience": (AUDIENCE,),
            "scopes": (SCOPE,),
        }
        machine = ("client_credentials",)
        clients = (
            NewClient(APP, ("password", "refresh_token"), is_public=True, **people),
            NewClient(METER, machine, is_revocable=True, **people),
            NewClient(BILLING, machine, **people),
            NewClient(
                ORDERS,
                (TOKEN_EXCHANGE,),
                scopes=(SCOPE,),
                serves_audiences=(AUDIENCE,),
                exchange_audiences=(NEXT_AUDIENCE,),
            ),
            NewClient(NEXT, (), serves_audiences=(NEXT_AUDIENCE,)),
        )
        async with self.installation.runtime() as runtime:
            await change_client(runtime, "account", ClientChanges(scopes=(SCOPE,)))
            for client in clients:
                _, secret = await add_client(runtime, client)
                if secret is not None:
                    self.secrets[client.client_id] = secret.reveal()

    async def turn_to(self, server: ServerProcess) -> None:
        await self.leave()
        self._http = httpx.AsyncClient(base_url=server.base_url, verify=NO_TLS, timeout=60)

    async def leave(self) -> None:
        if self._http is not None:
            await self._http.aclose()
            self._http = None

    def number(self) -> int:
        """Never the same twice."""
        return next(self._numbers)

    def expect(self, is_so: bool, problem: str) -> bool:
        if not is_so:
            self.problems.append(problem)
        return is_so

    # ---- requests -------------------------------------------------------------------------------

    async def ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Raises httpx.TransportError when the server goes away."""
        assert self._http is not None
        number = self.number()
        address = f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
        headers = {"X-Forwarded-For": address, **options.pop("headers", {})}
        return await self._http.request(method, path, headers=headers, **options)

    async def account(
        self, method: str, path: str, session: Session | None = None, **options: Any
    ) -> httpx.Response:
        if session is not None:
            options["headers"] = {"Authorization": f"Bearer {session.access_token}"}
        return await self.ask(method, f"/api/auth{path}", **options)

    async def oauth(self, path: str, client_id: str, **form: str) -> httpx.Response:
        """As that client: with its secret, or with its name alone if it has none."""
        options: dict[str, Any] = {"data": form}
        if client_id in self.secrets:
            options["auth"] = httpx.BasicAuth(client_id, self.secrets[client_id])
        else:
            options["data"] = {"client_id": client_id, **form}
        return await self.ask("POST", f"/oauth2{path}", **options)

    async def register(self, email: str) -> httpx.Response:
        body = {"email": email, "password": PASSWORD, "name": "Ada"}
        return await self.account("POST", "/register", json=body)

    async def log_in(self, email: str, password: str) -> httpx.Response:
        body = {"email": email, "password": password}
        return await self.account("POST", "/login", json=body)

    async def grant(self, email: str, password: str = PASSWORD) -> httpx.Response:
        form = {"grant_type": "password", "username": email, "password": password}
        return await self.oauth("/token", APP, **form)

    async def refresh(self, session: Session, token: str | None = None) -> httpx.Response:
        text = token or session.refresh_token
        form = {"grant_type": "refresh_token", "refresh_token": text}
        return await self.oauth("/token", session.client_id, **form)

    async def exchange(self, api_key: str) -> httpx.Response:
        form = {
            "grant_type": TOKEN_EXCHANGE,
            "subject_token": api_key,
            "subject_token_type": API_KEY_TYPE,
        }
        return await self.oauth("/token", ORDERS, **form)

    # ---- people, keys and tokens to begin with --------------------------------------------------

    async def person(self) -> Person:
        email = self.new_email()
        return Person(email, session_of("account", given(await self.register(email)).json()))

    def new_email(self) -> str:
        return f"person-{self.number()}@example.org"

    async def session_of(self, person: Person) -> Session:
        """Another login of theirs, at the client APP."""
        return session_of(APP, given(await self.grant(person.email, person.password)).json())

    async def machine_token(self, client_id: str) -> str:
        answer = await self.oauth("/token", client_id, grant_type="client_credentials")
        return str(given(answer).json()["access_token"])

    async def create_key(self, person: Person) -> httpx.Response:
        body = {"name": "Export", "scopes": [SCOPE], "current_password": person.password}
        return await self.account("POST", "/api-keys", person.session, json=body)

    # ---- what holds now -------------------------------------------------------------------------

    async def is_active(self, token: str, client_id: str = ORDERS) -> bool:
        answer = await self.oauth("/introspect", client_id, token=token)
        return bool(given(answer).json()["active"])

    async def is_alive(self, session: Session, what: str) -> bool:
        """Introspection, the refresh token and the status list must say the same; goes on with
        the refreshed tokens."""
        access_token = session.access_token
        is_active = await self.is_active(access_token)
        answer = await self.refresh(session)
        self.expect(
            answer.status_code == (200 if is_active else 400),
            f"{what}: active is {is_active}, a refresh was answered {answer.status_code}",
        )
        if answer.status_code == 200:
            session.take(answer)
        await self.expect_bit(access_token, is_active, what)
        return is_active

    async def expect_alive(self, session: Session, what: str) -> None:
        self.expect(await self.is_alive(session, what), f"{what} is dead")

    async def expect_bit(self, token: str, is_active: bool, what: str) -> None:
        """The status list must come to agree."""
        claim = claims_of(token)["status"]["status_list"]
        path, index = "/oauth2/status-lists/" + claim["uri"].rpartition("/")[2], claim["idx"]
        deadline = time.monotonic() + _FOLLOWED_WITHIN_S
        while True:
            listed = claims_of(given(await self.ask("GET", path)).text)["status_list"]["lst"]
            raw = zlib.decompress(base64.urlsafe_b64decode(listed + "=" * (-len(listed) % 4)))
            is_set = bool(raw[index >> 3] >> (index & 7) & 1)
            if is_set != is_active:
                return
            if time.monotonic() > deadline:
                break
            await asyncio.sleep(0.2)
        self.problems.append(f"{what}: active is {is_active}, but the status list says otherwise")

    async def can_log_in(self, email: str, password: str) -> bool:
        """At both doors, which must agree."""
        login, grant = await self.log_in(email, password), await self.grant(email, password)
        statuses = (login.status_code, grant.status_code)
        self.expect(statuses in ((200, 200), (401, 400)), f"the doors answered {statuses}")
        return statuses == (200, 200)

    async def expect_one_password(self, person: Person, new: str) -> bool:
        """True when it is the new one."""
        is_new = await self.can_log_in(person.email, new)
        is_old = await self.can_log_in(person.email, person.password)
        self.expect(is_new != is_old, f"the new password is good: {is_new}, the old one: {is_old}")
        return is_new

    async def key_ids(self, person: Person) -> list[str]:
        answer = given(await self.account("GET", "/api-keys", person.session))
        return [str(each["id"]) for each in answer.json()["api_keys"]]

    async def is_usable(self, api_key: str) -> bool:
        answer = await self.ask("GET", "/api/auth/me", headers={"X-API-Key": api_key})
        status = answer.status_code
        self.expect(status in (200, 401), f"an API key was answered {status}")
        return status == 200

    async def audit_trail(self, after: int = 0) -> tuple[int, Counter[str]]:
        """The newest row's id, and how many rows of each event came after the row `after`, without
        those of the load."""
        async with self.installation.runtime() as runtime, runtime.store.read() as connection:
            rows = await audit.list_events(connection, after, _ALL_EVENTS)
        newest = max((row.id for row in rows), default=after)
        events = [row.event for row in rows if row.event.client_id != CLIENT_ID]
        return newest, Counter(event.event.value for event in events)


def session_of(client_id: str, tokens: Mapping[str, Any]) -> Session:
    """From the members of a token response."""
    return Session(client_id, tokens["access_token"], tokens["refresh_token"])


def given(answer: httpx.Response) -> httpx.Response:
    """What is asked while nobody is killed must be answered."""
    if answer.status_code >= 300:
        path = answer.request.url.path
        raise AssertionError(f"{path} was answered {answer.status_code} {answer.text}")
    return answer
