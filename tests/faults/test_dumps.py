"""A thief with the database has nothing to use: no secret in any encoding, and no value in it that
opens a door (144, 98, 237; ASVS 6.5.2, 11.4.2)."""

import asyncio
import base64
import json
import re
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from tests.support.account import post, start_session
from tests.support.exchange import SCOPES, Chain
from tests.support.leaks.hooks import KeyDirectories
from tests.support.leaks.watch import Watch
from tests.support.server import (
    EMAIL,
    PASSWORD,
    RunningServer,
    from_address,
    make_settings,
    running_server,
)
from token_server.core.token_exchange import API_KEY_TYPE
from token_server.services.client_changes import ClientChanges, change_client
from token_server.services.clients import SecretRotation, rotate_secret
from token_server.storage.schema import metadata

NEW_PASSWORD = "a quite different sentence now"
KINDS = {"password", "client secret", "API key", "refresh token", "access token"}
KEY_KINDS = {"signing key", "master key"}


@pytest.fixture
async def lived_in(database_url: str, tmp_path: Path) -> AsyncIterator[Chain]:
    """A server whose keys are in the database, too, after a day on which everything happened."""
    master = tmp_path / "master.key"
    master.write_text("1:" + base64.urlsafe_b64encode(bytes(range(99, 131))).decode() + "\n")
    master.chmod(0o600)
    settings = make_settings(database_url, tmp_path, key_store="database", master_key_file=master)
    async with running_server(settings) as server:
        chain = await Chain.make(server)
        await live(chain)
        await server.runtime.background.close()  # what is written behind answers
        yield chain


async def live(chain: Chain) -> None:
    """Logins, refreshes, replays, exchanges, API keys, revocations, changes, failures."""
    server = chain.server
    await change_client(server.runtime, "account", ClientChanges(scopes=SCOPES))
    tokens = await server.login()
    for _ in range(2):
        assert (await server.refresh(tokens["refresh_token"])).status_code == 200
    machine = await chain.machine("job")
    revocable = await chain.machine("meter")
    await chain.through(await chain.login())
    session = await start_session(server, label="phone")
    made = await session.call("POST", "/api-keys", json={"name": "Export", "scopes": [SCOPES[0]]})
    key = made.json()["api_key"]
    assert (await server.http.get("/api/auth/me", headers={"X-API-Key": key})).status_code == 200
    await chain.ask("gateway", key, subject_token_type=API_KEY_TYPE)
    await chain.world.revoke("job", machine)
    await chain.world.revoke("meter", revocable)
    change = {"current_password": PASSWORD, "new_password": NEW_PASSWORD}
    assert (await session.call("POST", "/change-password", json=change)).status_code == 200
    await post(server, "/login", {"email": EMAIL, "password": "a guess at somebody"})
    await post(server, "/refresh", {"refresh_token": tokens["refresh_token"]})
    await server.token("gateway", None, grant_type="client_credentials")
    form = {"grant_type": "client_credentials"}
    await server.http.post("/oauth2/token", data=form, auth=("gateway", "ts_a-guess-at-a-secret"))
    _, secret = await rotate_secret(server.runtime, "gateway", SecretRotation(label="second"))
    server.secrets["gateway"] = secret.reveal()
    assert (await server.token("gateway", grant_type="client_credentials")).status_code == 200


async def dump(server: RunningServer) -> bytes:
    """Every byte of the database: files with write-ahead log and free pages, or COPY of all tables
    as pg_dump makes it."""
    url = server.runtime.settings.database_url.reveal()
    if url.startswith("sqlite"):
        path = Path(url.removeprefix("sqlite:///"))
        files = [file.read_bytes() for file in sorted(path.parent.glob(f"{path.name}*"))]
        copy = sqlite3.connect(path)
        text = "\n".join(copy.iterdump()).encode()
        copy.close()
        return b"\n".join([*files, text])
    connection = await asyncpg.connect(url)
    parts: list[bytes] = []

    async def keep(data: bytes) -> None:
        parts.append(data)

    try:
        for table in metadata.tables:
            await connection.copy_from_table(table, output=keep)
    finally:
        await connection.close()
    return b"".join(parts)


async def values(server: RunningServer) -> dict[str, str]:
    """Whatever a column holds, as a text that could be presented; with the column's name."""
    found: dict[str, str] = {}
    async with server.runtime.store.read() as connection:
        for table in metadata.tables:
            result = await connection.exec_driver_sql(f"SELECT * FROM {table}")  # noqa: S608
            for row in result.mappings():
                for column, value in row.items():
                    for text in texts(value):
                        found.setdefault(text, f"{table}.{column}")
    return found


def texts(value: Any) -> list[str]:
    if isinstance(value, bytes):
        base64url = base64.urlsafe_b64encode(value).decode().rstrip("=")
        return [
            value.hex(),
            base64url,
            *(f"{prefix}_{base64url}" for prefix in ("ts", "tsk", "rt")),
        ]
    if isinstance(value, str) and len(value) >= 8 and value.isprintable():
        return [value]
    return []


async def open_doors(chain: Chain, text: str, number: int) -> list[str]:
    """The doors that this text opens; each door is another network's, so that none is throttled."""
    http = chain.server.http
    here = from_address(f"10.{number // 250}.{number % 250}.7")
    sendable = text if re.fullmatch(r"[\x21-\x7e]{1,4000}", text) else "x"
    login = {"email": EMAIL, "password": text[:100]}
    refresh = {"grant_type": "refresh_token", "refresh_token": text, "client_id": "app"}
    bearer = {"Authorization": f"Bearer {sendable}"}
    pair = base64.b64encode(f"gateway:{sendable}".encode()).decode()
    answers = {
        "bearer": await http.get("/api/auth/me", headers={**here, **bearer}),
        "api key": await http.get("/api/auth/me", headers={**here, "X-API-Key": sendable}),
        "refresh": await http.post("/oauth2/token", data=refresh, headers=here),
        "client": await http.post(
            "/oauth2/token",
            data={"grant_type": "client_credentials"},
            headers={**here, "Authorization": f"Basic {pair}"},
        ),
        "password": await http.post("/api/auth/login", json=login, headers=here),
    }
    asked = await chain.world.introspect("orders", text)
    open_ones = [
        f"{name} {answer.status_code}"
        for name, answer in answers.items()
        if answer.status_code not in (400, 401)
    ]
    return open_ones + (["introspection"] if asked.content != b'{"active":false}' else [])


async def test_dump_holds_no_secret_in_any_encoding(
    lived_in: Chain, leak_watch: tuple[Watch, KeyDirectories]
) -> None:
    """Files, write-ahead log and tables: 0 hits for whatever was made or sent; and a secret that
    is added would be found."""
    known = leak_watch[0].secrets
    assert set(known.values()) >= KINDS | KEY_KINDS
    scan = Watch()
    for secret, kind in known.items():
        scan.learn(kind, secret)
    content = await dump(lived_in.server)
    assert len(content) > 10_000
    scan.hear("the dump", content)
    assert sorted(map(str, scan.look())) == []
    token = lived_in.server.secrets["gateway"]
    scan.hear("a worse dump", content + token.encode())
    assert {leak.kind for leak in scan.look()} == {"client secret"}


async def test_nothing_in_the_database_opens_a_door(
    lived_in: Chain, leak_watch: tuple[Watch, KeyDirectories]
) -> None:
    """Every value of every column, presented as a token, key, secret and password: refused."""
    found = await values(lived_in.server)
    tables = {place.partition(".")[0] for place in found.values()}
    assert tables >= {"users", "clients", "client_secrets", "families", "api_keys", "signing_keys"}
    limit = asyncio.Semaphore(8)

    async def try_one(number: int, text: str) -> tuple[str, list[str]]:
        async with limit:
            return found[text], await open_doors(lived_in, text, number)

    with leak_watch[0].not_learning():
        tried = await asyncio.gather(*(try_one(number, text) for number, text in enumerate(found)))
    assert len(tried) > 100
    assert [(place, doors) for place, doors in tried if doors] == []
    good = {"email": EMAIL, "password": NEW_PASSWORD}  # the doors do open
    assert (await post(lived_in.server, "/login", good)).status_code == 200
    assert json.loads((await lived_in.server.http.get("/.well-known/jwks.json")).content)["keys"]
