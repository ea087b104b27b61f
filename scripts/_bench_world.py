"""What the measured database holds: clients, users, sessions; and tokens that are really theirs.

Sessions are written by the server's own storage functions, many in a transaction: a login would
cost a password hash each. Tokens are then used through the door like anybody's.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from scripts._bench_load import Address, Chain, LoadError
from tests.support.load import Reply, get_request, json_request, open_connections, token_request
from tests.support.process import PUBLIC_ISSUER, Installation
from tests.support.records import log_in
from token_server.core.client_policy import ACCOUNT_CLIENT_ID, TOKEN_EXCHANGE
from token_server.core.refresh import TokenText, encode_refresh_token
from token_server.core.status_list import PATH as STATUS_PATH
from token_server.records import Secret
from token_server.runtime import Runtime, open_runtime
from token_server.services.clients import NewClient, add_client
from token_server.services.metadata import JWKS_PATH
from token_server.services.users import NewUser, add_user
from token_server.storage.families import NewFamily

PASSWORD = "correct horse battery staple"
SERVICE, APP, GATEWAY = "bench-service", "bench-app", "bench-gateway"
AUDIENCE, NEXT_AUDIENCE = "https://orders.example", "https://stock.example"
SCOPE = "orders:read"
USERS = 4
_BATCH = 250  # sessions in one transaction
_LONG_AGO_S = 60 * 86400


@dataclass(slots=True)
class World:
    """One database with what was put into it. `secrets` are by client id."""

    installation: Installation
    secrets: dict[str, str] = field(default_factory=dict)
    emails: list[str] = field(default_factory=list)
    user_ids: list[str] = field(default_factory=list)
    chains: list[Chain] = field(default_factory=list)  # sessions of the app
    account_chains: list[Chain] = field(default_factory=list)  # of the account API
    unused: list[str] = field(default_factory=list)  # refresh tokens, each for one revocation
    etag: str = ""
    status_path: str = ""

    async def register(self, users: int = USERS, sessions: int = 0) -> None:
        """Clients, users, and at either door so many sessions that live for the whole run."""
        async with self._runtime() as runtime:
            await self._add_clients(runtime)
            for number in range(users):
                email = f"bench-{number}@example.org"
                user = await add_user(runtime, NewUser(email, "Bench", Secret(PASSWORD)))
                self.emails.append(email)
                self.user_ids.append(user.user_id)
            for token in await self._mint(runtime, APP, sessions):
                self.chains.append(Chain(token, refresh_form))
            for token in await self._mint(runtime, ACCOUNT_CLIENT_ID, sessions):
                self.account_chains.append(Chain(token, account_refresh))

    async def stock_up(self, count: int) -> None:
        """At least so many sessions that nobody has touched, for revocations."""
        if len(self.unused) < count:
            async with self._runtime() as runtime:
                self.unused += await self._mint(runtime, APP, count - len(self.unused))

    async def bury(self, count: int) -> None:
        """So many sessions that ended long ago: work for `db prune`."""
        async with self._runtime() as runtime:
            await self._mint(runtime, APP, count, age_s=_LONG_AGO_S)

    async def look(self, address: Address) -> None:
        """Fresh access tokens, and what the server publishes now: once before each round."""
        async with open_connections([address], 1) as [connection]:
            for chain in (*self.chains, *self.account_chains):
                request = chain.ask()
                if request is None:
                    raise LoadError("a refresh was never answered")
                reply = await connection.request(request)
                problem = chain.hear(b"%d" % reply.status, reply.body, is_sample=True)
                if problem is not None:
                    raise LoadError(f"a session cannot go on: {problem}")
            key_set = await connection.request(get_request(JWKS_PATH))
            self.etag = _header(key_set, b"etag")
            lists = (await connection.request(get_request(STATUS_PATH))).json()["status_lists"]
            self.status_path = urlsplit(lists[0]).path

    async def _add_clients(self, runtime: Runtime) -> None:
        audience = (AUDIENCE,)
        new = (
            NewClient(SERVICE, ("client_credentials",), (SCOPE,), audience),
            NewClient(APP, ("password", "refresh_token"), (SCOPE,), audience, is_public=True),
            NewClient(
                GATEWAY,
                (TOKEN_EXCHANGE,),
                (SCOPE,),
                serves_audiences=audience,
                exchange_audiences=(NEXT_AUDIENCE,),
            ),
        )
        for client in new:
            _, secret = await add_client(runtime, client)
            if secret is not None:
                self.secrets[client.client_id] = secret.reveal()

    async def _mint(
        self, runtime: Runtime, client_id: str, count: int, age_s: int = 0
    ) -> list[str]:
        tokens: list[str] = []
        while len(tokens) < count:
            size = min(_BATCH, count - len(tokens))
            async with runtime.store.write() as connection:
                for _ in range(size):
                    user_id = self.user_ids[len(tokens) % len(self.user_ids)]
                    new = _new_family(runtime, client_id, user_id, age_s)
                    if await log_in(connection, new) is None:
                        raise LoadError(f"no session for {client_id}")
                    tokens.append(_refresh_token(runtime, new))
        return tokens

    @asynccontextmanager
    async def _runtime(self) -> AsyncIterator[Runtime]:
        async with open_runtime(self.installation.settings()) as runtime:
            yield runtime


def _new_family(runtime: Runtime, client_id: str, user_id: str, age_s: int) -> NewFamily:
    now, is_account = runtime.clock.now() - age_s, client_id == ACCOUNT_CLIENT_ID
    return NewFamily(
        family_id=runtime.entropy.token_bytes(16),
        sid="ses_" + runtime.entropy.token_bytes(11).hex(),
        client_id=client_id,
        user_id=user_id,
        scope=() if is_account else (SCOPE,),
        audience=(PUBLIC_ISSUER,) if is_account else (AUDIENCE,),
        mac_version=runtime.master_keys.current,
        auth_time=now,
        created_at=now,
        idle_expires_at=now + runtime.settings.refresh_idle_ttl_s,
        absolute_expires_at=now + runtime.settings.refresh_absolute_ttl_s,
        label=None,
        ip_address="127.0.0.1",
        user_agent=None,
    )


def _refresh_token(runtime: Runtime, new: NewFamily) -> str:
    mac_key = runtime.master_keys.find_refresh_mac_key(new.mac_version)
    if mac_key is None:
        raise LoadError("the master key of this installation is not there")
    return encode_refresh_token(
        TokenText(new.mac_version, new.family_id, 0), mac_key, runtime.epoch
    )


def refresh_form(token: str) -> bytes:
    """The app's request with this refresh token."""
    return token_request({"grant_type": "refresh_token", "client_id": APP, "refresh_token": token})


def account_refresh(token: str) -> bytes:
    """The same at the account API."""
    return json_request("/api/auth/refresh", {"refresh_token": token})


def login_form(email: str) -> dict[str, str]:
    """The app's password grant for this user."""
    return {"grant_type": "password", "client_id": APP, "username": email, "password": PASSWORD}


def access_tokens(chains: Sequence[Chain]) -> list[str]:
    return [chain.access_token for chain in chains]


def _header(reply: Reply, name: bytes) -> str:
    lines = reply.head.split(b"\r\n")
    return next(
        line.partition(b":")[2].strip().decode("ascii")
        for line in lines
        if line.lower().startswith(name + b":")
    )
