"""`/api/auth/api-keys` and X-API-Key over HTTP (cases I162 to I168, ASVS 8.2.2, 11.5.1, 14.2.1)."""

import asyncio
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from tests.support.account import Session, assert_problem, log_in, post, session_of, start_session
from tests.support.databases import TEST_EPOCH
from tests.support.exchange import ORDERS, Chain
from tests.support.server import EMAIL, PASSWORD, RunningServer
from token_server.core.api_key import format_api_key, read_key_id
from token_server.core.guess_budget import API_KEY_BUDGETS
from token_server.core.token_exchange import API_KEY_TYPE
from token_server.services.account import RECENT_LOGIN_S
from token_server.services.client_changes import ClientChanges, change_client
from token_server.services.users import disable_user
from token_server.web.account import ROUTES
from token_server.web.account_call import PREFIX

SCOPES = ("orders:read", "orders:write")
READS = ("/me", "/sessions", "/sessions/{sid}", "/api-keys", "/api-keys/{key_id}")


@pytest.fixture
async def session(server: RunningServer) -> Session:
    return await _start(server)


@pytest.fixture
async def sqlite_session(sqlite_server: RunningServer) -> Session:
    return await _start(sqlite_server)


async def _start(server: RunningServer) -> Session:
    await change_client(server.runtime, "account", ClientChanges(scopes=SCOPES))
    await server.add_user()
    return await start_session(server)


async def create(session: Session, **members: Any) -> httpx.Response:
    return await session.call("POST", "/api-keys", json={"name": "Nightly export", **members})


async def make_key(session: Session, **members: Any) -> dict[str, Any]:
    answer = await create(session, **members)
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


async def ask(
    server: RunningServer, path: str, *api_keys: str, method: str = "GET", **headers: str
) -> httpx.Response:
    sent = [("X-API-Key", each) for each in api_keys] + list(headers.items())
    return await server.http.request(method, f"{PREFIX}{path}", headers=sent)


async def is_good(server: RunningServer, text: str) -> bool:
    answer = await ask(server, "/me", text)
    if answer.status_code != 200:
        assert_problem(answer, 401, "api_key_refused")
    return answer.status_code == 200


async def test_walk_from_making_to_revoking(server: RunningServer, session: Session) -> None:
    """Made, listed, used, revoked, refused; the secret is in the first answer and no other."""
    made = await make_key(session, scopes=["orders:read"], expires_in_s=3600)
    text = made.pop("api_key")
    assert read_key_id(text) == made["id"]
    assert made == {
        "id": made["id"],
        "name": "Nightly export",
        "scopes": ["orders:read"],
        "created_at": "2027-01-15T08:00:00Z",
        "expires_at": "2027-01-15T09:00:00Z",
        "last_used_at": None,
    }
    listed = await session.call("GET", "/api-keys")
    assert listed.json() == {"api_keys": [made], "available_scopes": list(SCOPES)}
    shown = await session.call("GET", f"/api-keys/{made['id']}")
    assert shown.json() == made
    assert (await ask(server, "/me", text)).json()["email"] == EMAIL
    for answer in (listed, shown):
        assert text not in answer.text
        assert answer.headers["cache-control"] == "no-store"
    ended = await session.call("DELETE", f"/api-keys/{made['id']}")
    assert (ended.status_code, ended.content) == (204, b"")
    assert not await is_good(server, text)
    for method in ("GET", "DELETE"):
        again = await session.call(method, f"/api-keys/{made['id']}")
        assert_problem(again, 404, "api_key_not_found")
    assert (await session.call("GET", "/api-keys")).json()["api_keys"] == []


async def test_key_without_wishes_reads_the_account_and_lives_on(session: Session) -> None:
    """No scope unless it is asked for; no end unless one is named."""
    made = await make_key(session)
    assert (made["scopes"], made["expires_at"]) == ([], None)
    assert await is_good(session.server, made["api_key"])


async def test_end_is_named_by_instant_or_by_duration(sqlite_session: Session) -> None:
    """RFC 3339 with an offset, or seconds; not both, not in the past, not without an offset."""
    at = datetime.fromtimestamp(TEST_EPOCH + 90, UTC).isoformat()
    assert (await make_key(sqlite_session, expires_at=at))["expires_at"] == "2027-01-15T08:01:30Z"
    for members in (
        {"expires_at": at, "expires_in_s": 90},
        {"expires_at": "2027-01-15T08:01:30"},
        {"expires_at": "2020-01-01T00:00:00Z"},
        {"expires_at": "0001-01-01T00:00:00+14:00"},
        {"expires_at": "9999-12-31T23:59:59-14:00"},
        {"expires_at": TEST_EPOCH + 90},
    ):
        assert_problem(
            await create(sqlite_session, **members), 400, "invalid_field", field="expires_at"
        )
    for seconds in (0, -1, 3650 * 86400 + 1, 2**53 - 1, "90", 1.5, True):
        answer = await create(sqlite_session, expires_in_s=seconds)
        assert_problem(answer, 400, "invalid_field", field="expires_in_s")


@pytest.mark.parametrize(
    ("members", "field"),
    [
        ({"name": ""}, "name"),
        ({"name": "x" * 101}, "name"),
        ({"name": "a\nb"}, "name"),
        ({"name": None}, "name"),
        ({"scopes": ["orders:delete"]}, "scopes"),
        ({"scopes": ["orders:read orders:write"]}, "scopes"),
        ({"scopes": "orders:read"}, "scopes"),
        ({"scopes": [1]}, "scopes"),
        ({"scopes": ["a"] * 101}, "scopes"),
    ],
)
async def test_bad_member_is_named(
    sqlite_session: Session, members: dict[str, Any], field: str
) -> None:
    """I165: also a scope that the owner may not have; nothing is repeated, nothing made."""
    answer = await create(sqlite_session, **members)
    assert_problem(answer, 400, "invalid_field", field=field)
    assert "delete" not in answer.text
    assert (await sqlite_session.call("GET", "/api-keys")).json()["api_keys"] == []


async def test_old_login_alone_makes_and_ends_no_key(
    server: RunningServer, session: Session
) -> None:
    """A stolen access token must not leave a key behind: a fresh login, or the password."""
    made = await make_key(session)
    server.clock.advance(RECENT_LOGIN_S + 1)
    one = f"/api-keys/{made['id']}"
    wishes = (("POST", "/api-keys"), ("DELETE", one), ("DELETE", "/api-keys"))
    for method, path in wishes:
        body = {"name": "x"} if method == "POST" else {}
        answer = await session.call(method, path, json=body)
        assert_problem(answer, 401, "reauthentication_required")
        wrong = {**body, "current_password": "not it at all"}
        answer = await session.call(method, path, json=wrong)
        assert_problem(answer, 401, "credentials_refused")
    assert await is_good(server, made["api_key"])
    proof = {"current_password": PASSWORD}
    assert (await make_key(session, **proof))["id"] != made["id"]
    assert (await session.call("DELETE", one, json=proof)).status_code == 204
    ended = await session.call("DELETE", "/api-keys", json=proof)
    assert ended.json() == {"api_keys_revoked": 1}


async def test_keys_of_others_are_not_there(server: RunningServer, session: Session) -> None:
    """I164: B sees, reads and revokes nothing of A's, by token and by key."""
    made = await make_key(session)
    await server.add_user("eve@example.org")
    eve = session_of(server, await log_in(server, "eve@example.org"))
    own = await make_key(eve)
    path = f"/api-keys/{made['id']}"
    for method in ("GET", "DELETE"):
        assert_problem(await eve.call(method, path), 404, "api_key_not_found")
    assert_problem(await ask(server, path, own["api_key"]), 404, "api_key_not_found")
    sid = await session.sid()
    assert_problem(await ask(server, f"/sessions/{sid}", own["api_key"]), 404, "session_not_found")
    listed = (await ask(server, "/api-keys", own["api_key"])).json()["api_keys"]
    assert [each["id"] for each in listed] == [own["id"]]
    assert (await eve.call("DELETE", "/api-keys")).json() == {"api_keys_revoked": 1}
    assert await is_good(server, made["api_key"])


async def test_key_reads_and_does_nothing_else(server: RunningServer, session: Session) -> None:
    """Every GET of the account API, and no other method of any path, login and logout included."""
    made = await make_key(session, scopes=list(SCOPES))
    text, names = made["api_key"], {"sid": await session.sid(), "key_id": made["id"]}
    for path in READS:
        for method in ("GET", "HEAD"):
            answer = await ask(server, path.format(**names), text, method=method)
            assert answer.status_code == 200, path
    names["session_id"] = names["sid"]
    for path, methods in ROUTES.items():
        assert ("GET" in methods) is (path.replace("session_id", "sid") in READS)
        for method in methods.keys() - {"GET"}:
            answer = await ask(server, path.format(**names), text, method=method)
            assert_problem(answer, 403, "api_key_not_allowed")
    assert (await session.call("GET", "/sessions")).status_code == 200
    assert await is_good(server, text)


async def test_no_session_is_current_for_a_key(sqlite_session: Session) -> None:
    """A key is no login: the list marks none."""
    made = await make_key(sqlite_session)
    found = (await ask(sqlite_session.server, "/sessions", made["api_key"])).json()["sessions"]
    assert [each["is_current"] for each in found] == [False]


async def test_two_credentials_are_refused(sqlite_session: Session) -> None:
    """No guess at which one is meant, at reads and writes alike, good ones or bad."""
    server, bearer = sqlite_session.server, sqlite_session.bearer
    text = (await make_key(sqlite_session))["api_key"]
    for method, path in (("GET", "/me"), ("POST", "/login"), ("DELETE", "/sessions")):
        for keys, headers in (
            ((text,), bearer),
            ((text,), {"Authorization": "Basic YTpi"}),
            ((text, text), {}),
            ((text, "junk"), {}),
            (("junk", text), bearer),
        ):
            answer = await ask(server, path, *keys, method=method, **headers)
            assert_problem(answer, 400, "credentials_ambiguous")


async def test_key_and_token_are_not_taken_for_each_other(sqlite_session: Session) -> None:
    """I168: each only in its own header, refused by its form."""
    server = sqlite_session.server
    text = (await make_key(sqlite_session))["api_key"]
    as_bearer = await server.http.get(f"{PREFIX}/me", headers={"Authorization": f"Bearer {text}"})
    assert_problem(as_bearer, 401, "token_refused")
    for junk in (sqlite_session.access_token, f"Bearer {text}", f"{text}, {text}", "", "é"):
        answer = await ask(server, "/me", junk.encode("latin-1"))  # type: ignore[arg-type]  # raw
        assert_problem(answer, 401, "api_key_refused")


async def test_key_in_a_query_string_is_refused_and_not_logged(
    sqlite_session: Session, capfd: pytest.CaptureFixture[str]
) -> None:
    """I162: at every path, and whatever the parameter is called."""
    made = await make_key(sqlite_session)
    server, text = sqlite_session.server, made["api_key"]
    for path in ("/me", "/sessions", "/api-keys", f"/api-keys/{made['id']}"):
        for name in ("api_key", "x-api-key", "access_token"):
            answer = await server.http.get(f"{PREFIX}{path}?{name}={text}")
            assert_problem(answer, 400, "query_refused")
            assert text not in answer.text
    assert not await is_good(server, format_api_key(made["id"], bytes(32)))
    assert await is_good(server, text)
    await asyncio.sleep(0.7)  # what the background writer logs
    shown = capfd.readouterr()
    assert text not in shown.out + shown.err
    assert "query_string_present" in shown.err


async def test_ended_key_is_refused_in_the_same_second(
    server: RunningServer, session: Session
) -> None:
    """I166: expiry, revocation and the disabling of its owner; the answers are one."""
    expiring = await make_key(session, expires_in_s=60)
    revoked = await make_key(session)
    kept = await make_key(session)
    await session.call("DELETE", f"/api-keys/{revoked['id']}")
    server.clock.advance(59)
    assert await is_good(server, expiring["api_key"])
    server.clock.advance(1)
    answers = [await ask(server, "/me", each["api_key"]) for each in (expiring, revoked)]
    assert await is_good(server, kept["api_key"])
    await disable_user(server.runtime, EMAIL)
    answers += [
        await ask(server, "/me", text)
        for text in (kept["api_key"], format_api_key(kept["id"], bytes(32)), "junk")
    ]
    for answer in answers:
        assert_problem(answer, 401, "api_key_refused")
    assert len({answer.content for answer in answers}) == 1


async def test_twenty_of_sixty_at_once_are_made(server: RunningServer, session: Session) -> None:
    """I167: the limit holds against requests that overtake each other."""
    answers = await asyncio.gather(*(create(session) for _ in range(60)))
    refused = [answer for answer in answers if answer.status_code != 201]
    for answer in refused:
        assert_problem(answer, 409, "too_many_api_keys")
    assert len(answers) - len(refused) == 20
    assert len((await session.call("GET", "/api-keys")).json()["api_keys"]) == 20
    assert len({answer.json()["api_key"] for answer in answers if answer not in refused}) == 20


async def test_guessing_at_keys_ends_in_429(sqlite_session: Session) -> None:
    """F109: after the budget of this network; the good key and logins go on."""
    server = sqlite_session.server
    made = await make_key(sqlite_session)
    forged = format_api_key(made["id"], bytes(32))
    for _ in range(API_KEY_BUDGETS[0].burst):
        assert not await is_good(server, forged)
    throttled = await ask(server, "/me", forged)
    assert_problem(throttled, 429, "too_many_attempts")
    assert throttled.headers["retry-after"] == "10"
    assert await is_good(server, made["api_key"])
    assert (await log_in(server)).status_code == 200


async def test_password_change_and_logout_leave_keys_alone(
    server: RunningServer, session: Session
) -> None:
    """Keys have a list and an end of their own (docs/api-keys.md)."""
    text = (await make_key(session))["api_key"]
    change = {"current_password": PASSWORD, "new_password": PASSWORD + "!"}
    changed = await session.call("POST", "/change-password", json=change)
    assert changed.status_code == 200
    assert await is_good(server, text)
    assert (await session_of(server, changed).call("POST", "/logout")).status_code == 204
    assert await is_good(server, text)


async def test_revoking_a_key_ends_its_access_tokens(server: RunningServer) -> None:
    """What was exchanged for it is inactive at once, and its position in the list is set; a
    password change in between ended neither."""
    chain = await Chain.make(server)
    await change_client(server.runtime, "account", ClientChanges(scopes=SCOPES))
    session = await start_session(server)
    made, other = [await make_key(session, scopes=["orders:read"]) for _ in range(2)]
    server.clock.advance(1)
    token, spared = [
        await chain.exchange(
            "gateway", each["api_key"], subject_token_type=API_KEY_TYPE, resource=ORDERS
        )
        for each in (made, other)
    ]
    server.clock.advance(1)
    change = {"current_password": PASSWORD, "new_password": PASSWORD + "!"}
    session = session_of(server, await session.call("POST", "/change-password", json=change))

    async def is_active(access_token: str) -> bool:
        answer = await chain.world.introspect("orders", access_token)
        return bool(answer.json()["active"])

    assert await is_active(token)
    assert (await session.call("DELETE", f"/api-keys/{made['id']}")).status_code == 204
    assert not await is_active(token)
    assert await is_active(spared)
    refused = await chain.ask("gateway", made["api_key"], subject_token_type=API_KEY_TYPE)
    assert refused.json()["error"] == "invalid_request"


async def test_login_has_the_scopes_that_keys_may_be_given(server: RunningServer) -> None:
    """`client change account --scope`: granted at login, kept over a password change."""
    session = await _start(server)
    login = await log_in(server)
    assert login.json()["scope"] == " ".join(SCOPES)
    change = {"current_password": PASSWORD, "new_password": PASSWORD + "!"}
    changed = await session.call("POST", "/change-password", json=change)
    assert changed.json()["scope"] == " ".join(SCOPES)
    refreshed = await post(server, "/refresh", {"refresh_token": changed.json()["refresh_token"]})
    assert refreshed.json()["scope"] == " ".join(SCOPES)
