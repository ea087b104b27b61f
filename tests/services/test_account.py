"""What goes wrong around an account: storage, clock, damaged hashes, two changes at once."""

import asyncio

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
from tests.support.server import EMAIL, PASSWORD, RunningServer
from token_server.records import AuditEventType
from token_server.services.clients import list_clients
from token_server.services.sessions import list_sessions_of
from token_server.services.users import list_users
from token_server.storage import audit

CHANGE = {"current_password": PASSWORD, "new_password": NEW_PASSWORD}


async def test_nobody_is_there_before_an_operator_or_a_registration(
    server: RunningServer,
) -> None:
    """F130: no account ships, and the one client that does has no secret and no password grant."""
    assert await list_users(server.runtime) == []
    (built_in,) = await list_clients(server.runtime)
    assert (built_in.client_id, built_in.is_public, built_in.secrets) == ("account", True, ())
    assert built_in.grant_types == {"refresh_token"}
    refused = await server.token(
        "account", None, grant_type="password", username=EMAIL, password=PASSWORD
    )
    assert (refused.status_code, refused.json()["error"]) == (400, "unauthorized_client")


async def test_database_that_is_away_is_a_retryable_503(sqlite_server: RunningServer) -> None:
    """Never a refusal of credentials or tokens, which would log people out (O250)."""
    await sqlite_server.add_user()
    session = await start_session(sqlite_server)
    await sqlite_server.runtime.store.close()
    answers = [
        await log_in(sqlite_server),
        await session.refresh(),
        await session.call("GET", "/me"),
        await session.call("GET", "/sessions"),
        await session.call("DELETE", "/sessions"),
        await session.call("POST", "/logout"),
        await session.call("POST", "/change-password", json=CHANGE),
        await post(
            sqlite_server,
            "/register",
            {"email": "new@example.org", "password": PASSWORD, "name": "New"},
        ),
    ]
    for answer in answers:
        assert_problem(answer, 503, "temporarily_unavailable")
        assert int(answer.headers["retry-after"]) > 0


async def test_no_token_is_made_while_the_clock_stands_back(sqlite_server: RunningServer) -> None:
    """It would live longer than it says; what is only read goes on."""
    await sqlite_server.add_user()
    session = await start_session(sqlite_server)
    sqlite_server.clock.stepped_back = True
    new = {"email": "new@example.org", "password": PASSWORD, "name": "New"}
    for answer in (
        await log_in(sqlite_server),
        await session.refresh(),
        await post(sqlite_server, "/register", new),
        await session.call("POST", "/change-password", json=CHANGE),
    ):
        assert_problem(answer, 503, "temporarily_unavailable")
    assert (await session.call("GET", "/me")).status_code == 200
    sqlite_server.clock.stepped_back = False
    assert (await log_in(sqlite_server)).status_code == 200
    assert len(await list_users(sqlite_server.runtime)) == 1


async def test_damaged_or_absurd_hash_fails_closed_with_an_alarm(server: RunningServer) -> None:
    """F128: the same 401 as for a wrong password, an audit event of its own, no crash."""
    user = await server.add_user()
    absurd = "$argon2id$v=19$m=4194304,t=2,p=1$" + "A" * 22 + "$" + "A" * 43
    for stored in ("", "$2b$12$x", "$argon2id$v=19$m=8,t=1,p=1$AAAA", absurd):
        async with server.runtime.store.write() as connection:
            await connection.execute(
                text("UPDATE users SET password_hash = :stored WHERE user_id = :user_id"),
                {"stored": stored, "user_id": user.user_id},
            )
        assert_problem(await log_in(server), 401, "credentials_refused")
    await server.runtime.background.close()
    async with server.runtime.store.read() as connection:
        rows = await audit.list_events(connection, 0, 100)
    alarms = [row.event for row in rows if row.event.event is AuditEventType.PASSWORD_HASH_UNUSABLE]
    assert [alarm.subject for alarm in alarms] == [user.user_id] * 4


async def test_old_password_stays_good(sqlite_server: RunningServer) -> None:
    """F122: nothing forces anybody to change it, however old it is."""
    await sqlite_server.add_user()
    sqlite_server.clock.advance(10 * 365 * 86400)
    assert (await log_in(sqlite_server)).status_code == 200


async def test_two_password_changes_at_once_leave_one_password_and_one_session(
    server: RunningServer,
) -> None:
    """The second one read credentials that are no longer; its session ended with the first."""
    await server.add_user()
    first, second = await start_session(server), await start_session(server)
    passwords = ("the first new password", "the second new password")
    answers = await asyncio.gather(
        *(
            session.call(
                "POST",
                "/change-password",
                json={"current_password": PASSWORD, "new_password": password},
            )
            for session, password in zip((first, second), passwords, strict=True)
        )
    )
    statuses = [answer.status_code for answer in answers]
    assert sorted(statuses) == [200, 401]
    winner = statuses.index(200)
    assert answers[1 - winner].json()["code"] in {"credentials_refused", "token_refused"}
    assert len(await list_sessions_of(server.runtime, EMAIL)) == 1
    assert (await log_in(server, password=passwords[winner])).status_code == 200
    assert_problem(await log_in(server, password=passwords[1 - winner]), 401, "credentials_refused")


async def test_logout_racing_a_password_change_of_the_same_session_ends_it(
    server: RunningServer,
) -> None:
    """The change replaces the family's id meanwhile; a logout goes by the session's."""
    await server.add_user()
    password = PASSWORD
    for number in range(8):
        session = session_of(server, await log_in(server, password=password))
        new_password = f"password number {number}"
        body = {"current_password": password, "new_password": new_password}

        async def log_out(session: Session = session, delay_s: float = number / 500) -> int:
            await asyncio.sleep(delay_s)
            return (await session.call("POST", "/logout")).status_code

        changed, status = await asyncio.gather(
            session.call("POST", "/change-password", json=body), log_out()
        )
        if changed.status_code == 200:
            fresh = session_of(server, changed)
            if status == 401:  # the change came first, and the old access token ended with it
                assert (await fresh.call("POST", "/logout")).status_code == 204
            assert_problem(await fresh.refresh(), 401, "credentials_refused")
        else:
            assert_problem(changed, 401, "token_refused")
            assert status == 204
        assert await list_sessions_of(server.runtime, EMAIL) == []
        server.clock.advance(1)
        logged_in = await log_in(server, password=new_password)
        if logged_in.status_code == 200:
            password = new_password
            assert (await session_of(server, logged_in).call("POST", "/logout")).status_code == 204
