"""The refresh token in a cookie: for pages of our own origins, and for nobody else."""

from typing import Any

import pytest

from tests.support.account import Session, assert_problem, post, session_of
from tests.support.server import EMAIL, ISSUER, PASSWORD, RunningServer

NAME = "__Host-token_server_refresh"
OWN = {"Origin": ISSUER, "Sec-Fetch-Site": "same-origin"}
LOGIN = {"email": EMAIL, "password": PASSWORD, "refresh_token_in": "cookie"}
REFRESH = {"refresh_token_in": "cookie"}


def cookie_of(answer: Any) -> str:
    """The value of the one cookie that the answer sets, with all its attributes in order."""
    (header,) = answer.headers.get_list("set-cookie")
    value, _, attributes = header.partition("; ")
    name, _, token = value.partition("=")
    assert name == NAME
    assert attributes == "Max-Age=604800; Path=/; Secure; HttpOnly; SameSite=Strict"
    assert token.startswith("rt_")
    return str(token)


def with_cookie(*values: str) -> dict[str, str]:
    return {**OWN, "Cookie": "; ".join(f"{NAME}={value}" for value in values)}


async def test_login_and_refresh_keep_the_token_out_of_the_body(server: RunningServer) -> None:
    """RFC 6265bis 4.1.3.2: `__Host-`, Secure, HttpOnly, SameSite=Strict; each refresh renews it."""
    await server.add_user()
    answer = await post(server, "/login", LOGIN, OWN)
    assert answer.status_code == 200, answer.text
    token = cookie_of(answer)
    for _ in range(2):
        assert answer.json().keys() == {"access_token", "token_type", "expires_in"}
        assert token not in answer.text
        answer = await post(server, "/refresh", REFRESH, with_cookie(token))
        assert answer.status_code == 200, answer.text
        assert cookie_of(answer) != token
        token = cookie_of(answer)


async def test_register_and_password_change_use_the_cookie_too(server: RunningServer) -> None:
    """The old cookie is worth nothing after the change."""
    registered = await post(server, "/register", {**LOGIN, "name": "Ada"}, OWN)
    old = cookie_of(registered)
    server.clock.advance(1)
    changed = await server.http.post(
        "/api/auth/change-password",
        json={
            "current_password": PASSWORD,
            "new_password": "another battery staple",
            "refresh_token_in": "cookie",
        },
        headers={**OWN, "Authorization": f"Bearer {registered.json()['access_token']}"},
    )
    assert changed.status_code == 200, changed.text
    assert "refresh_token" not in changed.json()
    stale = await post(server, "/refresh", REFRESH, with_cookie(old))
    assert_problem(stale, 401, "credentials_refused")
    fresh = await post(server, "/refresh", REFRESH, with_cookie(cookie_of(changed)))
    assert fresh.status_code == 200


async def test_without_asking_there_is_no_cookie(sqlite_server: RunningServer) -> None:
    """Neither set, nor read when the token is in the body."""
    await sqlite_server.add_user()
    in_cookie = cookie_of(await post(sqlite_server, "/login", LOGIN, OWN))
    plain = await post(sqlite_server, "/login", {"email": EMAIL, "password": PASSWORD}, OWN)
    assert "set-cookie" not in plain.headers
    body = {"refresh_token": "rt_junk"}
    answer = await post(sqlite_server, "/refresh", body, with_cookie(in_cookie))
    assert_problem(answer, 401, "credentials_refused")


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Origin": "null"},
        {"Origin": "https://evil.example"},
        {"Origin": "https://auth.example.evil.example"},
        {"Origin": "http://auth.example"},
        {"Origin": "https://auth.example:8443"},
        {"Origin": "https://auth.example/"},
        {"Origin": "https://AUTH.example"},
        {"Origin": ISSUER, "Sec-Fetch-Site": "cross-site"},
        {"Origin": ISSUER, "Sec-Fetch-Site": "none"},
        {"Referer": ISSUER},
    ],
    ids=str,
)
async def test_pages_of_other_origins_get_and_use_no_cookie(
    sqlite_server: RunningServer, headers: dict[str, str]
) -> None:
    """The Origin is compared as text with an exact list; absent is refused as well (CSRF)."""
    await sqlite_server.add_user()
    token = cookie_of(await post(sqlite_server, "/login", LOGIN, OWN))
    with_token = {**headers, "Cookie": f"{NAME}={token}"}
    for path, body, sent in (
        ("/login", LOGIN, headers),
        ("/register", {**LOGIN, "email": "new@example.org", "name": "New"}, headers),
        ("/refresh", REFRESH, with_token),
        ("/logout", None, with_token),
    ):
        answer = await post(sqlite_server, path, body, sent)
        assert_problem(answer, 403, "origin_refused")
        assert "set-cookie" not in answer.headers
    assert (await post(sqlite_server, "/refresh", REFRESH, with_cookie(token))).status_code == 200


async def test_two_origins_are_none(sqlite_server: RunningServer) -> None:
    """Which of them a proxy would believe, nobody can tell."""
    await sqlite_server.add_user()
    headers = [("Origin", ISSUER), ("Origin", ISSUER)]
    answer = await sqlite_server.http.post("/api/auth/login", json=LOGIN, headers=headers)
    assert_problem(answer, 403, "origin_refused")


async def test_two_cookies_of_the_name_are_refused(sqlite_server: RunningServer) -> None:
    """One of them was planted: in one header or two, in any case of the name."""
    await sqlite_server.add_user()
    token = cookie_of(await post(sqlite_server, "/login", LOGIN, OWN))
    for headers in (
        with_cookie(token, token),
        with_cookie(token, "rt_other"),
        {**OWN, "Cookie": f"{NAME}={token};{NAME.upper()}=x"},
        OWN,
        {**OWN, "Cookie": f"other={token}"},
    ):
        answer = await post(sqlite_server, "/refresh", REFRESH, headers)
        assert_problem(answer, 401, "credentials_refused")
    both = [*OWN.items(), ("Cookie", f"{NAME}={token}"), ("Cookie", f"{NAME}={token}")]
    answer = await sqlite_server.http.post("/api/auth/refresh", json=REFRESH, headers=both)
    assert_problem(answer, 401, "credentials_refused")
    among_others = {**OWN, "Cookie": f"a=b; {NAME}={token}; theme=dark"}
    assert (await post(sqlite_server, "/refresh", REFRESH, among_others)).status_code == 200


async def test_logout_by_cookie_ends_the_session_and_clears_it(server: RunningServer) -> None:
    """A page whose access token has run out can still log out; repeating it is harmless."""
    await server.add_user()
    answer = await post(server, "/login", LOGIN, OWN)
    token = cookie_of(answer)
    session = Session(server, answer.json()["access_token"], token)
    server.clock.advance(901)
    for headers in (with_cookie(token), {**with_cookie(token), **session.bearer}):
        done = await post(server, "/logout", None, headers)
        assert done.status_code == 204
        assert done.headers.get_list("set-cookie") == [
            f"{NAME}=; Max-Age=0; Path=/; Secure; HttpOnly; SameSite=Strict"
        ]
    assert_problem(await session.call("GET", "/me"), 401, "token_refused")
    assert_problem(
        await post(server, "/refresh", REFRESH, with_cookie(token)), 401, "credentials_refused"
    )
    assert (await post(server, "/logout", None, with_cookie("junk"))).status_code == 204


async def test_refresh_token_of_another_client_logs_nobody_out(server: RunningServer) -> None:
    """The cookie ends sessions of the account API; the token endpoint's clients have their own."""
    await server.add_user()
    await server.add_client("app", grant_types=("password", "refresh_token"), is_public=True)
    granted = await server.token(
        "app", None, grant_type="password", username=EMAIL, password=PASSWORD
    )
    session = session_of(server, granted)
    done = await post(server, "/logout", None, with_cookie(session.refresh_token))
    assert done.status_code == 204
    assert (await server.refresh(session.refresh_token)).status_code == 200


async def test_no_answer_opens_the_api_to_other_origins(sqlite_server: RunningServer) -> None:
    """No CORS header for anybody, not for a preflight either: a browser keeps the answer back."""
    await sqlite_server.add_user()
    preflight = {
        "Origin": ISSUER,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "content-type",
    }
    answers = [await post(sqlite_server, "/login", LOGIN, OWN)]
    for path in ("/login", "/refresh", "/me", "/sessions"):
        answers.append(await sqlite_server.http.options(f"/api/auth{path}", headers=preflight))
        assert_problem(answers[-1], 405, "method_not_allowed")
    for answer in answers:
        assert not [name for name in answer.headers if name.startswith("access-control-")]
