"""Every operation of the account API, asked by everybody who is not its owner (case O270).

Both sides are generated: the operations from the OpenAPI document, which names every route, and
the callers from tokens and keys of each kind that must not do. Afterwards nothing has changed.
"""

from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import select

from tests.support.account import Session, log_in, session_of, start_session
from tests.support.api_keys import SCOPES, add_owner, make_key
from tests.support.exchange import ORDERS
from tests.support.guessing import context
from tests.support.server import (
    AUDIENCE,
    EMAIL,
    ISSUER,
    PASSWORD,
    RunningServer,
    copy_keys,
    from_address,
    make_settings,
    running_server,
)
from tests.support.token_state import World, claims_of
from tests.support.wire import basic
from token_server.core.client_policy import TOKEN_EXCHANGE
from token_server.core.token_exchange import ACCESS_TOKEN_TYPE
from token_server.services.own_api_keys import revoke_api_key
from token_server.services.users import disable_user
from token_server.storage.schema import api_keys, families, users
from token_server.web.cookies import COOKIE_NAME

EVE = "eve@example.org"
# For whoever has no account: doors (test_guess_doors.py), or what looks at credentials of its own
# (test_introspection.py, test_revocation.py, test_forward_auth.py). Other documents are GETs.
PUBLIC = {
    "register",
    "logIn",
    "refreshTokens",
    "getToken",
    "revokeToken",
    "introspectToken",
    "forwardAuth",
    "getOpenApi",
}
Headers = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Operation:
    method: str
    path: str
    document: Mapping[str, Any]

    @property
    def name(self) -> str:
        return str(self.document["operationId"])

    @property
    def is_read(self) -> bool:
        return self.method == "GET"

    async def call(
        self, http: httpx.AsyncClient, headers: Headers, ids: Mapping[str, str]
    ) -> httpx.Response:
        """With the owner's password where one may be sent: it must not help anybody else."""
        content = self.document.get("requestBody", {}).get("content", {})
        body = None
        if content:
            body = dict(content["application/json"]["example"])
            if "current_password" in body:
                body["current_password"] = PASSWORD
        return await http.request(
            self.method, self.path.format(**ids), headers=dict(headers), json=body
        )


@dataclass(frozen=True, slots=True)
class Sweep:
    server: RunningServer
    operations: list[Operation]
    owner: Session
    ids: Mapping[str, str]  # of the owner's other session and API key

    async def rows(self) -> list[Any]:
        """All that any of the operations could change."""
        async with self.server.runtime.store.read() as connection:
            found = []
            for table in (users, families, api_keys):
                columns = [c for c in table.columns if c.name != "last_used_at"]
                found += [tuple(row) for row in await connection.execute(select(*columns))]
        return sorted(found, key=repr)


def operations_of(document: Mapping[str, Any]) -> Iterator[Operation]:
    for path, item in document["paths"].items():
        for method, operation in item.items():
            yield Operation(method.upper(), path, operation)


@pytest.fixture
async def sweep(sqlite_url: str, shared_keys: Path, tmp_path: Path) -> AsyncIterator[Sweep]:
    copy_keys(shared_keys, tmp_path)
    async with running_server(make_settings(sqlite_url, tmp_path, log_level="error")) as server:
        await add_owner(server.runtime)
        await server.add_user(EVE)
        await server.add_client("billing", grant_types=("client_credentials",))
        await server.add_client(
            "app", grant_types=("password", "refresh_token"), audiences=(ISSUER,), is_public=True
        )
        await server.add_client(
            "gateway",
            grant_types=(TOKEN_EXCHANGE,),
            scopes=SCOPES,
            serves_audiences=(ISSUER,),
            exchange_audiences=(ORDERS, ISSUER),
        )
        owner, other = await start_session(server), await start_session(server)
        made = await owner.call("POST", "/api-keys", json={"name": "Swept"})
        document = (await server.http.get("/openapi.json")).json()
        protected = [
            operation
            for operation in operations_of(document)
            if operation.path.startswith("/api/auth") and operation.name not in PUBLIC
        ]
        ids = {"session_id": await other.sid(), "key_id": made.json()["id"]}
        yield Sweep(server, protected, owner, ids)


async def strangers(sweep: Sweep) -> dict[str, Headers]:
    """Callers of every kind that must be refused by every operation."""
    server, world = sweep.server, World(sweep.server)
    claims, now = claims_of(sweep.owner.access_token), server.clock.now()
    ended = await start_session(server)
    assert (await ended.call("POST", "/logout")).status_code == 204
    machine = await world.machine_token("billing")
    exchanged = await server.token(
        "gateway",
        None,
        grant_type=TOKEN_EXCHANGE,
        subject_token=sweep.owner.access_token,
        subject_token_type=ACCESS_TOKEN_TYPE,
        resource=ISSUER,
    )
    by_app = (await server.login("app"))["access_token"]
    header, payload, signature = sweep.owner.access_token.split(".")
    bearers = {
        "machine": machine,
        "own login of another client": by_app,
        "exchanged by a service": exchanged.json()["access_token"],
        "revoked": ended.access_token,
        "expired": world.signed({**claims, "iat": now - 900, "exp": now}),
        "not yet issued": world.signed({**claims, "iat": now + 900, "exp": now + 1800}),
        "wrong audience": world.signed({**claims, "aud": AUDIENCE}),
        "wrong issuer": world.signed({**claims, "iss": AUDIENCE}),
        "wrong typ": world.signed(claims, "JWT"),
        "another's session": world.signed({**claims, "sub": "usr_" + "A" * 22}),
        "without a session": world.signed({k: v for k, v in claims.items() if k != "sid"}),
        "cut signature": f"{header}.{payload}.{signature[:-2]}",
        "unsigned": f"{header}.{payload}.",
        "refresh token": sweep.owner.refresh_token,
    }
    return {
        "anonymous": {},
        "client": dict([basic("billing", server.secrets["billing"])]),
        "user by password": dict([basic(EMAIL, PASSWORD)]),
        "cookie": {"Cookie": f"{COOKIE_NAME}={sweep.owner.refresh_token}"},
        **{name: {"Authorization": f"Bearer {token}"} for name, token in bearers.items()},
    }


async def keys(sweep: Sweep) -> tuple[dict[str, Headers], str]:
    """API keys that are not good any more, and one that is, of Eve's."""
    server, now = sweep.server, sweep.server.clock.now()
    runtime, at = server.runtime, context(server.runtime)
    owner = await add_owner(runtime, "third@example.org")
    revoked, revoked_text = await make_key(runtime, owner)
    await revoke_api_key(runtime, owner, revoked.key_id, at)
    _, expired_text = await make_key(runtime, owner, expires_at=now + 1)
    gone = await server.add_user("gone@example.org")
    _, orphan_text = await make_key(runtime, gone)
    await disable_user(runtime, "gone@example.org")
    server.clock.advance(1)
    eve = session_of(server, await log_in(server, EVE))
    text = (await eve.call("POST", "/api-keys", json={"name": "Eve's"})).json()["api_key"]
    return {
        "revoked key": {"X-API-Key": revoked_text},
        "expired key": {"X-API-Key": expired_text},
        "disabled owner's key": {"X-API-Key": orphan_text},
        "mistyped key": {"X-API-Key": text[:-1] + ("A" if text[-1] != "A" else "B")},
        "token as a key": {"X-API-Key": sweep.owner.access_token},
        "refresh token as a key": {"X-API-Key": sweep.owner.refresh_token},
    }, text


async def test_every_operation_says_who_may_call_it(sweep: Sweep) -> None:
    """A route that asks for nobody is public on purpose or a mistake."""
    document = (await sweep.server.http.get("/openapi.json")).json()
    names = {operation.name for operation in sweep.operations}
    assert len(names) >= 12
    for operation in operations_of(document):
        ways = operation.document.get("security", [])
        if operation.name in names:
            assert ways, operation.name
            assert {} not in ways, operation.name
        elif operation.name not in PUBLIC:
            assert (operation.method, ways) == ("GET", []), operation.name


async def test_nobody_but_the_owner_is_let_in(sweep: Sweep) -> None:
    """O270, I166, I168: each operation by each kind of stranger: 401, and not a row has changed."""
    callers = await strangers(sweep)
    dead_keys, key_of_eve = await keys(sweep)
    callers["key as a token"] = {"Authorization": f"Bearer {key_of_eve}"}
    before, network, tried = await sweep.rows(), 0, 0
    for operation in sweep.operations:
        for name, headers in {**callers, **dead_keys}.items():
            network += 1
            sent = {**headers, **from_address(f"10.0.{network // 250}.{network % 250}")}
            answer = await operation.call(sweep.server.http, sent, sweep.ids)
            expected = {401}
            if name in dead_keys and not operation.is_read:
                expected = {403}  # a key of whatever worth only reads
            if name == "cookie" and operation.name == "logOut":
                expected = {403}  # no page of ours sent it
            assert answer.status_code in expected, (operation.name, name, answer.text)
            assert answer.json().keys() <= {"type", "title", "status", "code", "detail"}
            tried += 1
    assert tried == len(sweep.operations) * (len(callers) + len(dead_keys)) >= 250
    assert await sweep.rows() == before
    assert (await sweep.owner.call("GET", "/me")).status_code == 200


async def test_another_user_reaches_nothing_of_the_owners(sweep: Sweep) -> None:
    """O270, I164: by token and by key; foreign ids are 404 like unknown ones."""
    _, key_of_eve = await keys(sweep)
    eve = session_of(sweep.server, await log_in(sweep.server, EVE))
    before = await sweep.rows()
    for operation in sweep.operations:
        callers = {"token": eve.bearer}
        if operation.is_read:
            callers["key"] = {"X-API-Key": key_of_eve}
        for name, headers in callers.items():
            if "{" not in operation.path and not operation.is_read:
                continue  # acts on the caller's own account alone
            answer = await operation.call(sweep.server.http, headers, sweep.ids)
            assert answer.status_code == (404 if "{" in operation.path else 200), (operation, name)
            for foreign in (EMAIL, *sweep.ids.values(), await sweep.owner.sid()):
                assert foreign not in answer.text, (operation.name, name)
    assert await sweep.rows() == before
    # What acts on the caller's own account ends Eve's sessions and keys, and none of the owner's.
    for operation in sweep.operations:
        if operation.is_read or "{" in operation.path or operation.name == "changePassword":
            continue
        eve = session_of(sweep.server, await log_in(sweep.server, EVE))
        assert (await operation.call(sweep.server.http, eve.bearer, {})).is_success, operation.name
    for path in ("/sessions/{session_id}", "/api-keys/{key_id}"):
        kept = await sweep.owner.call("GET", path.format(**sweep.ids))
        assert kept.status_code == 200, path
