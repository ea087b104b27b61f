"""Is the client who it says it is? Effects and caches, on both engines (cases E93 to E100)."""

import contextlib
import hashlib
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.engine import Engine

from tests.support.server import RunningServer
from token_server.records import AuditEvent, AuditEventType
from token_server.services.clients import (
    SecretRotation,
    delete_client,
    disable_client,
    enable_client,
    revoke_secret,
    rotate_secret,
    show_client,
)
from token_server.storage.audit import list_events
from token_server.storage.client_cache import CLIENT_MAX_AGE_S

MACHINE = {"grant_types": ("client_credentials",), "scopes": ("orders:read",)}
APP = {
    "grant_types": ("password", "refresh_token", "client_credentials"),
    "scopes": ("orders:read",),
}
INVALID_CLIENT = b'{"error":"invalid_client","error_description":"Client authentication failed."}'
MARK = "zq7mark"


@contextlib.contextmanager
def counted_queries() -> Iterator[list[str]]:
    """The queries that any engine of this process runs meanwhile; audit rows are written apart."""
    statements: list[str] = []

    def note(_c: object, _cursor: object, statement: str, *_: object) -> None:
        if statement.startswith("SELECT"):
            statements.append(statement)

    event.listen(Engine, "before_cursor_execute", note)
    try:
        yield statements
    finally:
        event.remove(Engine, "before_cursor_execute", note)


async def machine_token(server: RunningServer, client_id: str = "billing") -> int:
    return (await server.token(client_id, grant_type="client_credentials")).status_code


async def with_secret(server: RunningServer, client_id: str, secret: str) -> tuple[int, bytes]:
    answer = await server.http.post(
        "/oauth2/token",
        data={
            "grant_type": "client_credentials",
            "client_id": client_id,
            "client_secret": secret,
        },
    )
    return answer.status_code, answer.content


async def written_events(server: RunningServer) -> list[AuditEvent]:
    """The audit trail as it is in the database, after everything pending has been written."""
    await server.runtime.background.close()
    async with server.runtime.store.read() as connection:
        return [stored.event for stored in await list_events(connection, 0, 1000)]


@pytest.mark.parametrize("is_warm", [False, True], ids=["cold_cache", "warm_cache"])
async def test_unknown_wrong_and_disabled_cannot_be_told_apart(
    server: RunningServer, is_warm: bool
) -> None:
    """E93: the same status, bytes, headers and queries (ASVS 6.3.8)."""
    for client_id in ("wrong", "disabled", "expired"):
        await server.add_client(client_id, **MACHINE)
        if is_warm:
            assert await machine_token(server, client_id) == 200
    await server.add_client("public", grant_types=("password",), is_public=True)
    await disable_client(server.runtime, "disabled")
    await rotate_secret(server.runtime, "expired", SecretRotation("next", expire_others_in_s=0))
    faces = {}
    for client_id in ("unknown", "wrong", "disabled", "expired", "public"):
        secret = MARK if client_id == "wrong" else server.secrets.get(client_id, MARK)
        with counted_queries() as statements:
            answer = await server.http.post(
                "/oauth2/token",
                data={"grant_type": "client_credentials"},
                auth=(client_id, secret),
            )
        headers = {k: v for k, v in answer.headers.items() if k not in ("date", "x-request-id")}
        faces[client_id] = (answer.status_code, answer.content, headers, statements)
    if is_warm:  # these two are let in for as long as the cache may be behind
        assert faces.pop("disabled")[0] == faces.pop("expired")[0] == 200
    assert faces["unknown"][:2] == (401, INVALID_CLIENT)
    about_clients = [text for text in faces["unknown"][3] if " client" in text]
    assert len(about_clients) == 2
    for client_id, face in faces.items():
        assert face == faces["unknown"], client_id


async def test_good_authentication_asks_the_database_once_per_cache_age(
    server: RunningServer,
) -> None:
    """A client is read once and then known for CLIENT_MAX_AGE_S: no query on the hot path."""
    await server.add_client("billing", **MACHINE)
    assert await machine_token(server) == 200
    await server.runtime.background.close()
    with counted_queries() as statements:
        for _ in range(3):
            assert await machine_token(server) == 200
    assert statements == []
    server.clock.advance(int(CLIENT_MAX_AGE_S))
    with counted_queries() as statements:
        assert await machine_token(server) == 200
    assert len(statements) == 2


async def test_failures_are_audited_without_what_was_sent(
    server: RunningServer, capfd: pytest.CaptureFixture[str]
) -> None:
    """One row per failure with time, source and reason; an unknown id may be a mistyped secret and
    is not kept (ASVS 16.2.5, 16.3.1)."""
    await server.add_client("billing", **MACHINE)
    await server.add_client("public", grant_types=("password",), is_public=True)
    answers = [
        await server.http.post("/oauth2/token", data={"client_id": i, "client_secret": s})
        for i, s in ((MARK, MARK), ("billing", MARK), ("billing", ""), ("public", MARK))
    ]
    events = [
        e
        for e in await written_events(server)
        if e.event is AuditEventType.CLIENT_AUTHENTICATION_FAILED
    ]
    assert [(e.client_id, e.reason) for e in events] == [
        (None, "client_unknown"),
        ("billing", "client_secret_wrong"),
        ("billing", "client_auth_method_not_registered"),
        ("public", "client_auth_method_not_registered"),
    ]
    assert [e.request_id for e in events] == [a.headers["x-request-id"] for a in answers]
    assert {(e.at, e.actor, e.ip_address) for e in events} == {
        (server.clock.now(), "anonymous", "127.0.0.1")
    }
    assert MARK not in str(events)
    assert MARK not in capfd.readouterr().err


async def test_refused_grant_is_audited(server: RunningServer) -> None:
    """A client that tries what it was not registered for leaves a row (ASVS 16.3.2)."""
    await server.add_client("billing", **MACHINE)
    await server.add_client("public", grant_types=("password", "refresh_token"), is_public=True)
    answers = [
        await server.token("billing", grant_type="password"),
        await server.token("public", grant_type="client_credentials"),
    ]
    assert {answer.json()["error"] for answer in answers} == {"unauthorized_client"}
    events = [e for e in await written_events(server) if e.event is AuditEventType.GRANT_REFUSED]
    assert [(e.actor, e.client_id, e.reason, dict(e.details)) for e in events] == [
        ("client:billing", "billing", "grant_type_not_registered", {"grant_type": "password"}),
        (
            "client:public",
            "public",
            "grant_type_not_registered",
            {"grant_type": "client_credentials"},
        ),
    ]
    assert [e.request_id for e in events] == [a.headers["x-request-id"] for a in answers]


async def test_use_of_a_secret_is_stamped(server: RunningServer) -> None:
    """E98: `client show` tells which secret is still in use before one is revoked."""
    await server.add_client("billing", **MACHINE)
    record, secret = await rotate_secret(server.runtime, "billing", SecretRotation("second"))
    server.clock.advance(100)
    assert (await with_secret(server, "billing", MARK))[0] == 401
    assert (await with_secret(server, "billing", secret.reveal()))[0] == 200
    await server.runtime.background.close()
    stamps = {
        s.secret_id: s.last_used_at for s in (await show_client(server.runtime, "billing")).secrets
    }
    assert stamps.pop(record.secret_id) == server.clock.now()
    assert list(stamps.values()) == [None]


async def test_secret_is_stored_as_a_digest_only(server: RunningServer) -> None:
    """E97, E98: SHA-256 of at least 256 random bits; nothing gives the text again."""
    client = await server.add_client("billing", **MACHINE)
    text = server.secrets["billing"]
    assert text.startswith("ts_")
    assert len(text) >= 3 + 43
    digest = hashlib.sha256(text.encode()).digest()
    assert [s.secret_digest for s in client.secrets] == [digest]
    shown = await show_client(server.runtime, "billing")
    assert text not in repr(shown)
    async with server.runtime.store.read() as connection:
        rows = await connection.exec_driver_sql("SELECT * FROM client_secrets")
        assert text not in str(rows.all())
        rows = await connection.exec_driver_sql("SELECT * FROM audit_events")
        assert text not in str(rows.all())


@pytest.mark.parametrize(
    "offered", ["digest_hex", "digest_raw", "prefix", "longer", "case", "space"]
)
async def test_only_the_secret_itself_is_accepted(
    sqlite_server: RunningServer, offered: str
) -> None:
    """E97: a leaked digest authenticates nobody, and nothing is trimmed or folded."""
    client = await sqlite_server.add_client("billing", **MACHINE)
    text, digest = sqlite_server.secrets["billing"], client.secrets[0].secret_digest
    forms = {
        "digest_hex": digest.hex(),
        "digest_raw": digest.decode("latin-1"),
        "prefix": text[:-1],
        "longer": text + "x",
        "case": text.swapcase(),
        "space": text + " ",
    }
    status, _ = await with_secret(sqlite_server, "billing", forms[offered])
    assert status in (400, 401)  # 400: raw bytes are often control characters
    assert (await with_secret(sqlite_server, "billing", text))[0] == 200


async def test_two_secrets_live_side_by_side_for_the_overlap(server: RunningServer) -> None:
    """E98: the new secret works at once, the old one until its time, the new one beyond it."""
    await server.add_client("billing", **MACHINE)
    old = server.secrets["billing"]
    assert (await with_secret(server, "billing", old))[0] == 200
    _, new = await rotate_secret(
        server.runtime, "billing", SecretRotation("next", expire_others_in_s=3600)
    )
    for secret in (new.reveal(), old):
        assert (await with_secret(server, "billing", secret))[0] == 200
    server.clock.advance(3599)
    assert (await with_secret(server, "billing", old))[0] == 200
    server.clock.advance(1)
    assert await with_secret(server, "billing", old) == (401, INVALID_CLIENT)
    assert (await with_secret(server, "billing", new.reveal()))[0] == 200


async def test_secret_with_an_end_stops_in_its_last_second(server: RunningServer) -> None:
    """An expired secret is refused from `expires_at` on, from the cache as well."""
    await server.add_client("billing", **MACHINE)
    _, short = await rotate_secret(
        server.runtime, "billing", SecretRotation("short", expires_in_s=2)
    )
    server.clock.advance(1)
    assert (await with_secret(server, "billing", short.reveal()))[0] == 200
    server.clock.advance(1)
    assert (await with_secret(server, "billing", short.reveal()))[0] == 401
    assert await machine_token(server) == 200


async def test_revoked_secret_stops_within_the_age_of_the_cache(server: RunningServer) -> None:
    """Other secrets of the client go on."""
    client = await server.add_client("billing", **MACHINE)
    old = server.secrets["billing"]
    _, new = await rotate_secret(server.runtime, "billing", SecretRotation("next"))
    assert (await with_secret(server, "billing", old))[0] == 200
    await revoke_secret(server.runtime, "billing", client.secrets[0].secret_id)
    server.clock.advance(int(CLIENT_MAX_AGE_S))
    assert (await with_secret(server, "billing", old))[0] == 401
    assert (await with_secret(server, "billing", new.reveal()))[0] == 200


async def test_failed_attempt_brings_a_disabling_forward(server: RunningServer) -> None:
    """Each failure reads the client afresh, so that the cache is never older than the last one."""
    await server.add_client("billing", **MACHINE)
    assert await machine_token(server) == 200
    await disable_client(server.runtime, "billing")
    assert (await with_secret(server, "billing", MARK))[0] == 401
    assert await machine_token(server) == 401


@pytest.mark.parametrize("end", [disable_client, delete_client])
async def test_client_that_ended_gets_no_tokens(server: RunningServer, end: Any) -> None:
    """E100: machine tokens stop within the age of the cache, refresh tokens and logins at once
    (CVE-2025-64521, CVE-2024-47000)."""
    await server.add_client("app", **APP)
    await server.add_client("other", **APP)
    await server.add_user()
    tokens = await server.login()
    others = await server.login("other")
    assert await machine_token(server, "app") == 200
    await end(server.runtime, "app")
    refused = await server.refresh(tokens["refresh_token"])
    assert (refused.status_code, refused.json()["error"]) == (400, "invalid_grant")
    logged_in = await server.token(
        "app",
        grant_type="password",
        username="ada@example.org",
        password="correct horse battery staple",
    )
    assert (logged_in.status_code, logged_in.json()["error"]) == (400, "invalid_grant")
    server.clock.advance(int(CLIENT_MAX_AGE_S))
    assert await machine_token(server, "app") == 401
    refused = await server.refresh(tokens["refresh_token"])
    assert (refused.status_code, refused.json()["error"]) == (401, "invalid_client")
    assert await machine_token(server, "other") == 200
    assert (await server.refresh(others["refresh_token"], "other")).status_code == 200


async def test_enabled_again_the_secret_works_and_the_sessions_stay_ended(
    server: RunningServer,
) -> None:
    """E100: enabling brings back the client, never what its disabling ended."""
    await server.add_client("app", **APP)
    await server.add_user()
    tokens = await server.login()
    await disable_client(server.runtime, "app")
    server.clock.advance(int(CLIENT_MAX_AGE_S))
    assert await machine_token(server, "app") == 401
    await enable_client(server.runtime, "app")
    assert await machine_token(server, "app") == 200
    refused = await server.refresh(tokens["refresh_token"])
    assert refused.json()["error"] == "invalid_grant"


async def test_client_made_again_is_another_client(server: RunningServer) -> None:
    """E100: neither the secret nor the sessions of a deleted client come back with its id."""
    await server.add_client("app", **APP)
    await server.add_user()
    tokens = await server.login()
    old = server.secrets["app"]
    await delete_client(server.runtime, "app")
    await server.add_client("app", **APP)
    server.clock.advance(int(CLIENT_MAX_AGE_S))
    assert (await with_secret(server, "app", old))[0] == 401
    refused = await server.refresh(tokens["refresh_token"])
    assert (refused.status_code, refused.json()["error"]) == (400, "invalid_grant")


NASTY = [
    "' OR '1'='1",
    "'; DROP TABLE clients; --",
    '"',
    "\\",
    "%",
    "_",
    ":client_id",
    "$1",
    "{0}",
    "*",
    "../../etc/passwd",
    "\U0010ffff",
    "\u0130\u212a",
]


@pytest.mark.parametrize("name", ["client_id", "client_secret", "username", "refresh_token"])
async def test_meta_characters_are_only_characters(server: RunningServer, name: str) -> None:
    """O269: everything reaches the database as a parameter, on both engines (ASVS 1.2.4)."""
    await server.add_client("billing", **MACHINE)
    await server.add_client("app", grant_types=("password", "refresh_token"), is_public=True)
    for value in NASTY:
        sound = {"client_id": "app", "grant_type": "password", "username": "x", "password": "y"}
        if name == "client_secret":
            sound["client_id"] = "billing"
        if name == "refresh_token":
            sound["grant_type"] = "refresh_token"
        answer = await server.http.post("/oauth2/token", data={**sound, name: value})
        server.clock.advance(120)  # they are guesses, too
        expected = "invalid_client" if name.startswith("client") else "invalid_grant"
        assert answer.json()["error"] == expected, value
    assert await machine_token(server) == 200
