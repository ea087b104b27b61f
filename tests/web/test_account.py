"""`/api/auth/*` over HTTP on both engines: the walk, each answer, and what must have ended."""

import base64
import json
from typing import Any

import pytest
from sqlalchemy import text

from tests.support.account import (
    NEW_PASSWORD,
    Session,
    assert_problem,
    log_in,
    post,
    session_of,
    start_session,
)
from tests.support.databases import TEST_EPOCH
from tests.support.server import EMAIL, ISSUER, PASSWORD, RunningServer
from token_server.services.users import disable_user, show_user

NEWCOMER = {"email": "test@example.com", "password": "securepass123", "name": "Test User"}


def claims_of(access_token: str) -> dict[str, Any]:
    payload = access_token.split(".")[1]
    claims: dict[str, Any] = json.loads(base64.urlsafe_b64decode(payload + "=="))
    return claims


async def test_the_walk_of_the_seed(server: RunningServer) -> None:
    """Register, log in, ask who one is: 200 each, with the shapes of interface.md."""
    registered = await post(server, "/register", NEWCOMER)
    logged_in = await log_in(server, NEWCOMER["email"], NEWCOMER["password"])

    for answer in (registered, logged_in):
        assert answer.status_code == 200, answer.text
        assert answer.json().keys() == {
            "access_token",
            "token_type",
            "expires_in",
            "refresh_token",
        }
        assert answer.headers["cache-control"] == "no-store"
        me = await session_of(server, answer).call("GET", "/me")
        assert me.status_code == 200, me.text
        user = await show_user(server.runtime, NEWCOMER["email"])
        assert me.json() == {
            "id": user.user_id,
            "email": "test@example.com",
            "name": "Test User",
            "is_active": True,
            "created_at": "2027-01-15T08:00:00Z",
        }
        assert me.headers["cache-control"] == "no-store"
        assert me.headers["content-type"] == "application/json"


async def test_access_token_names_the_account_client_and_no_person(server: RunningServer) -> None:
    """RFC 9068 2.2: exactly these claims; `aud` is one string where issuer and default agree."""
    user = await server.add_user()
    session = await start_session(server)
    claims = claims_of(session.access_token)

    assert claims.pop("jti")
    assert claims.pop("status")["status_list"]["uri"] == ISSUER + "/oauth2/status-lists/s0"
    assert claims == {
        "iss": ISSUER,
        "sub": user.user_id,
        "aud": ISSUER,
        "exp": TEST_EPOCH + 900,
        "iat": TEST_EPOCH,
        "client_id": "account",
        "sid": await session.sid(),
        "auth_time": TEST_EPOCH,
    }


async def test_login_notes_when(server: RunningServer) -> None:
    """`last_login_at` is the instant of the login."""
    await server.add_user()
    server.clock.advance(7)
    await start_session(server)
    assert (await show_user(server.runtime, EMAIL)).last_login_at == TEST_EPOCH + 7


async def test_refresh_gives_the_next_pair_and_spends_the_old_token(server: RunningServer) -> None:
    """After the window a second use ends the session, as everywhere (RFC 9700 4.14.2)."""
    await server.add_user()
    session = await start_session(server)
    answer = await session.refresh()
    assert answer.status_code == 200, answer.text
    newer = session_of(server, answer)
    assert newer.refresh_token != session.refresh_token
    assert (await newer.call("GET", "/me")).status_code == 200

    server.clock.advance(31)
    assert_problem(await session.refresh(), 401, "credentials_refused")
    assert_problem(await newer.refresh(), 401, "credentials_refused")
    assert_problem(await newer.call("GET", "/me"), 401, "token_refused")


async def test_taken_email_is_a_conflict_in_every_spelling(server: RunningServer) -> None:
    """F106: case, width and composition do not make another person."""
    assert (await post(server, "/register", NEWCOMER)).status_code == 200
    for email in ("TEST@example.com", " test@example.com ", "\uff54est@example.com"):
        assert_problem(
            await post(server, "/register", {**NEWCOMER, "email": email}), 409, "email_taken"
        )


async def test_one_refusal_for_unknown_wrong_and_disabled(server: RunningServer) -> None:
    """F102: same status, body and headers, whatever was wrong; also for a refresh token."""
    await server.add_user()
    await server.add_user("off@example.org")
    disabled_session = session_of(server, await log_in(server, "off@example.org"))
    await disable_user(server.runtime, "off@example.org")
    answers = [
        await log_in(server, "nobody@example.org"),
        await log_in(server, "no e-mail"),
        await log_in(server, password="wrong password"),
        await log_in(server, "off@example.org"),
        await post(server, "/refresh", {"refresh_token": "junk"}),
        await disabled_session.refresh(),
    ]

    for answer in answers:
        assert_problem(answer, 401, "credentials_refused")
        answer.headers.pop("x-request-id")
        answer.headers.pop("date", None)
    assert len({answer.content for answer in answers}) == 1
    assert len({tuple(answer.headers.multi_items()) for answer in answers}) == 1
    assert_problem(await disabled_session.call("GET", "/me"), 401, "token_refused")


async def test_password_change_ends_all_else_and_goes_on(server: RunningServer) -> None:
    """F124, F125: other sessions and all older tokens are dead, even those of the same second; the
    session keeps its id."""
    await server.add_user()
    other, mine = await start_session(server), await start_session(server)
    sid = await mine.sid()
    rotated = session_of(server, await mine.refresh())
    changed = await rotated.call(
        "POST",
        "/change-password",
        json={"current_password": PASSWORD, "new_password": NEW_PASSWORD},
    )

    assert changed.status_code == 200, changed.text
    fresh = session_of(server, changed)
    assert await fresh.sid() == sid
    for old in (other, mine, rotated):
        assert_problem(await old.refresh(), 401, "credentials_refused")
        assert_problem(await old.call("GET", "/me"), 401, "token_refused")
    assert (await fresh.refresh()).status_code == 200
    assert_problem(await log_in(server), 401, "credentials_refused")
    assert (await log_in(server, password=NEW_PASSWORD)).status_code == 200


async def test_password_change_needs_the_current_password(server: RunningServer) -> None:
    """F123: without it, with a wrong one, with a bad new one: nothing changes, nobody is out."""
    await server.add_user()
    session = await start_session(server)
    for body, status, code, members in (
        ({"new_password": NEW_PASSWORD}, 400, "invalid_field", {"field": "current_password"}),
        (
            {"current_password": "wrong", "new_password": NEW_PASSWORD},
            401,
            "credentials_refused",
            {},
        ),
        (
            {"current_password": PASSWORD, "new_password": PASSWORD},
            400,
            "invalid_field",
            {"field": "new_password", "detail": "the new password is the old one"},
        ),
        (
            {"current_password": PASSWORD, "new_password": "password"},
            400,
            "invalid_field",
            {"field": "new_password"},
        ),
    ):
        answer = await session.call("POST", "/change-password", json=body)
        assert_problem(answer, status, code, **members)
    assert (await session.refresh()).status_code == 200
    assert (await log_in(server)).status_code == 200
    events = await audit_events(server, "login.failed")
    assert [event["reason"] for event in events] == ["password_wrong"]


async def test_logout_ends_the_session_on_the_server(server: RunningServer) -> None:
    """Neither token is worth anything afterwards; others' sessions go on."""
    await server.add_user()
    other, mine = await start_session(server), await start_session(server)
    answer = await mine.call("POST", "/logout")

    assert (answer.status_code, answer.content) == (204, b"")
    assert_problem(await mine.call("GET", "/me"), 401, "token_refused")
    assert_problem(await mine.refresh(), 401, "credentials_refused")
    assert_problem(await mine.call("POST", "/logout"), 401, "token_refused")
    assert (await other.call("GET", "/me")).status_code == 200


async def test_sessions_say_where_they_are(server: RunningServer) -> None:
    """Label, address, user agent, instants, and which one this is; the newest first."""
    await server.add_user()
    first = await start_session(server, label="My phone")
    server.clock.advance(10)
    answer = await server.http.post(
        "/api/auth/login",
        json={"email": EMAIL, "password": PASSWORD},
        headers={"User-Agent": "Firefox/1", "X-Forwarded-For": "203.0.113.9"},
    )
    second = session_of(server, answer)
    server.clock.advance(10)
    first = session_of(server, await first.refresh())
    listed = (await first.call("GET", "/sessions")).json()["sessions"]

    assert [each["is_current"] for each in listed] == [False, True]
    assert listed[0] == {
        "id": await second.sid(),
        "client_id": "account",
        "label": None,
        "ip_address": "203.0.113.9",
        "user_agent": "Firefox/1",
        "created_at": "2027-01-15T08:00:10Z",
        "last_used_at": "2027-01-15T08:00:10Z",
        "expires_at": "2027-01-22T08:00:10Z",
        "is_current": False,
    }
    assert listed[1]["label"] == "My phone"
    assert listed[1]["last_used_at"] == "2027-01-15T08:00:20Z"
    one = await first.call("GET", f"/sessions/{listed[0]['id']}")
    assert one.json() == listed[0]


async def test_one_session_or_all_others_are_ended(server: RunningServer) -> None:
    """Within five minutes of the login no password is asked for."""
    await server.add_user()
    mine, second, third, fourth = [await start_session(server) for _ in range(4)]
    ended = await mine.call("DELETE", f"/sessions/{await second.sid()}")
    assert ended.status_code == 204
    assert_problem(await second.call("GET", "/me"), 401, "token_refused")
    rest = await mine.call("DELETE", "/sessions")
    assert (rest.status_code, rest.json()) == (200, {"sessions_ended": 2})
    for gone in (second, third, fourth):
        assert_problem(await gone.refresh(), 401, "credentials_refused")
    assert (await mine.refresh()).status_code == 200


async def test_ending_others_after_five_minutes_needs_the_password(server: RunningServer) -> None:
    """A stolen access token must not lock its owner out (RFC 9470 3); one's own session may end."""
    await server.add_user()
    mine, other = await start_session(server), await start_session(server)
    sid = await other.sid()
    server.clock.advance(301)
    for path in ("/sessions", f"/sessions/{sid}"):
        refused = await mine.call("DELETE", path)
        assert_problem(refused, 401, "reauthentication_required")
        assert 'error="insufficient_user_authentication"' in refused.headers["www-authenticate"]
        wrong = await mine.call("DELETE", path, json={"current_password": "wrong"})
        assert_problem(wrong, 401, "credentials_refused")
    assert (await other.call("GET", "/me")).status_code == 200

    right = await mine.call("DELETE", f"/sessions/{sid}", json={"current_password": PASSWORD})
    assert right.status_code == 204
    assert_problem(await other.call("GET", "/me"), 401, "token_refused")
    assert (await mine.call("DELETE", f"/sessions/{await mine.sid()}")).status_code == 204
    assert_problem(await mine.call("GET", "/me"), 401, "token_refused")


async def test_nobody_sees_or_ends_the_session_of_another(server: RunningServer) -> None:
    """O270: foreign, ended, unknown and impossible ids are one 404."""
    await server.add_user()
    await server.add_user("eve@example.org")
    mine = await start_session(server)
    eve = session_of(server, await log_in(server, "eve@example.org"))
    gone = await start_session(server)
    gone_sid = await gone.sid()
    await gone.call("POST", "/logout")
    for sid in (await mine.sid(), gone_sid, "ses_" + "A" * 22, "x", "%00", "ses_%00", "%27%20OR"):
        for method in ("GET", "DELETE"):
            answer = await eve.call(method, f"/sessions/{sid}")
            assert_problem(answer, 404, "session_not_found")
    assert (await mine.call("GET", "/me")).status_code == 200


async def audit_events(server: RunningServer, event: str) -> list[dict[str, Any]]:
    """The rows of one event; refusals are written a moment later."""
    await server.runtime.background.close()
    async with server.runtime.store.read() as connection:
        statement = text("SELECT * FROM audit_events WHERE event = :event ORDER BY id LIMIT 100")
        rows = await connection.execute(statement, {"event": event})
        return [dict(row._mapping) for row in rows]


async def test_each_change_leaves_one_audit_event(server: RunningServer) -> None:
    """O264: who, what, from where; never a name or an e-mail."""
    session: Session = session_of(server, await post(server, "/register", NEWCOMER))
    assert_problem(await post(server, "/register", NEWCOMER), 409, "email_taken")
    await start_session_of(server)
    changed = await session.call(
        "POST",
        "/change-password",
        json={"current_password": NEWCOMER["password"], "new_password": NEW_PASSWORD},
    )
    await session_of(server, changed).call("POST", "/logout")
    user_id = (await show_user(server.runtime, NEWCOMER["email"])).user_id
    found = {
        name: await audit_events(server, name)
        for name in (
            "user.created",
            "user.registration_refused",
            "login.succeeded",
            "user.password_changed",
            "session.revoked",
        )
    }

    assert {name: len(rows) for name, rows in found.items()} == {
        "user.created": 1,
        "user.registration_refused": 1,
        "login.succeeded": 2,
        "user.password_changed": 1,
        "session.revoked": 1,
    }
    (created,), (refused,) = found["user.created"], found["user.registration_refused"]
    assert (created["actor"], created["subject"]) == ("anonymous", user_id)
    assert (refused["actor"], refused["subject"], refused["reason"]) == (
        "anonymous",
        None,
        "email_taken",
    )
    (change,) = found["user.password_changed"]
    assert (change["actor"], json.loads(change["details"])) == (
        f"user:{user_id}",
        {"sessions_ended": 1},
    )
    for rows in found.values():
        for row in rows:
            assert row["ip_address"] == "127.0.0.1"
            assert row["request_id"]
            assert "example.com" not in str(row)


async def start_session_of(server: RunningServer) -> None:
    answer = await log_in(server, NEWCOMER["email"], NEWCOMER["password"])
    assert answer.status_code == 200


async def test_no_secret_is_logged(
    sqlite_server: RunningServer, capfd: pytest.CaptureFixture[str]
) -> None:
    """O263: neither password nor token nor e-mail, whether it went well or not."""
    server = sqlite_server
    first = session_of(server, await post(server, "/register", NEWCOMER))
    await post(server, "/register", NEWCOMER)
    await log_in(server, NEWCOMER["email"], "a wrong password")
    await post(server, "/login", {"email": NEWCOMER["email"], "password": 7, "hunter": "2"})
    second = session_of(server, await first.refresh())
    body = {"current_password": NEWCOMER["password"], "new_password": NEW_PASSWORD}
    third = session_of(server, await second.call("POST", "/change-password", json=body))
    await second.call("GET", f"/me?access_token={second.access_token}")
    await third.call("POST", "/logout")
    logged = "".join(capfd.readouterr())

    assert "user_password_changed" in logged
    assert "login_failed" in logged
    sessions = (first, second, third)
    secrets = [NEW_PASSWORD, "a wrong password", *NEWCOMER.values()]
    secrets += [s.refresh_token for s in sessions]
    secrets += [s.access_token.rpartition(".")[2] for s in sessions]
    # What the test's own HTTP client logs is not the server's.
    lines = [line for line in logged.splitlines() if '"module":"httpx"' not in line]
    assert [secret for secret in secrets if any(secret in line for line in lines)] == []
