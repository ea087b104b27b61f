"""Bodies, methods and queries that `/api/auth/*` must refuse, each with its stable code."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.support.account import assert_problem, log_in, post, start_session
from tests.support.server import EMAIL, PASSWORD, RunningServer, from_address
from token_server.services.users import list_users

NAME = "Ada"
GOOD = {"email": EMAIL, "password": PASSWORD, "name": NAME}
JSON = {"Content-Type": "application/json"}


async def send(
    server: RunningServer, content: bytes, headers: dict[str, str], path: str = "/login"
) -> Any:
    return await server.http.post(f"/api/auth{path}", content=content, headers=headers)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'"x"',
        b"null",
        b'{"email":"a@b","password":"x"} {}',
        b'{"email":"a@b","email":"c@d","password":"x"}',
        b'{"email":"a@b","password":"x","password":"x"}',
        b'{"email":"a@b","password":NaN}',
        b'{"email":"a@b","password":1e400}',
        b'{"email":"a@b","password":"\\ud800"}',
        b'{"email":"a@b","password":"\xff"}',
        b'\xef\xbb\xbf{"email":"a@b","password":"x"}',
        '{"email":"a@b","password":"x"}'.encode("utf-16"),
        b'{"email":' + b"[" * 5000 + b"]" * 5000 + b',"password":"x"}',
        b'{"email":"a@b","password":"\n"}',
        b"email=a%40b&password=x",
    ],
)
async def test_what_two_parsers_could_read_differently_is_malformed(
    sqlite_server: RunningServer, body: bytes
) -> None:
    """One object in strict UTF-8, each member once, nested a little at most (RFC 8259 4, 8.1)."""
    answer = await send(sqlite_server, body, JSON)
    assert_problem(answer, 400, "malformed_json")


@pytest.mark.parametrize(
    ("members", "field"),
    [
        ({"email": None}, "email"),
        ({"email": 7}, "email"),
        ({"email": ["a@b"]}, "email"),
        ({"email": {"$ne": ""}}, "email"),
        ({"email": ""}, "email"),
        ({"email": "a" * 2000}, "email"),
        ({"password": True}, "password"),
        ({"password": ""}, "password"),
        ({"password": "x" * 5000}, "password"),
        ({"label": ""}, "label"),
        ({"label": "\u0000"}, "label"),
        ({"label": "x" * 101}, "label"),
        ({"label": "two\nlines"}, "label"),
        ({"refresh_token_in": "Cookie"}, "refresh_token_in"),
        ({"refresh_token_in": None}, "refresh_token_in"),
    ],
)
async def test_wrong_member_is_named(
    sqlite_server: RunningServer, members: dict[str, Any], field: str
) -> None:
    """A member of the wrong type, empty or too long; its value is never repeated."""
    body = {"email": EMAIL, "password": PASSWORD, **members}
    answer = await post(sqlite_server, "/login", body)
    assert_problem(answer, 400, "invalid_field", field=field)


@pytest.mark.parametrize("path", ["/register", "/login", "/refresh", "/change-password"])
async def test_unknown_member_is_refused_unnamed(sqlite_server: RunningServer, path: str) -> None:
    """A misspelt option must not be ignored; what it was called is not echoed."""
    await sqlite_server.add_user()
    session = await start_session(sqlite_server)
    answer = await session.call("POST", path, json={"is_admin<script>": True})
    assert_problem(answer, 400, "invalid_field")
    assert "field" not in answer.json()
    assert "script" not in answer.text


async def test_missing_members_are_named(sqlite_server: RunningServer) -> None:
    """The first one that is missing."""
    for path, body, field in (
        ("/register", {}, "email"),
        ("/register", {"email": EMAIL, "password": PASSWORD}, "name"),
        ("/login", {"email": EMAIL}, "password"),
        ("/refresh", {}, "refresh_token"),
        ("/refresh", {"refresh_token": "x", "refresh_token_in": "cookie"}, "refresh_token"),
    ):
        answer = await post(sqlite_server, path, body)
        assert_problem(answer, 400, "invalid_field", field=field)


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": "application/json; charset=utf-16"},
        {"Content-Type": "application/json, text/plain"},
        {"Content-Type": "application/jsonp"},
        {"Content-Type": ""},
    ],
)
async def test_anything_but_json_is_refused_by_its_type(
    sqlite_server: RunningServer, headers: dict[str, str]
) -> None:
    """A form on a foreign page can send the others without being asked first (CSRF)."""
    body = b'{"email":"a@b","password":"x"}'
    assert_problem(await send(sqlite_server, body, headers), 415, "unsupported_media_type")
    good = {"Content-Type": "Application/JSON; charset=UTF-8"}
    assert (await send(sqlite_server, body, good)).status_code == 401


async def test_body_is_bounded(sqlite_server: RunningServer) -> None:
    """16 KiB, announced or not."""
    body = b'{"email":"' + b"a" * 16384 + b'","password":"x"}'

    async def chunks() -> Any:
        yield body

    announced = await send(sqlite_server, body, JSON)
    assert_problem(announced, 413, "payload_too_large")
    chunked = await sqlite_server.http.post("/api/auth/login", content=chunks(), headers=JSON)
    assert_problem(chunked, 413, "payload_too_large")


async def test_other_methods_are_told_which_work(sqlite_server: RunningServer) -> None:
    """RFC 9110 15.5.6: 405 with Allow; GET also answers HEAD."""
    for path, method, allow in (
        ("/login", "GET", "POST"),
        ("/login", "OPTIONS", "POST"),
        ("/me", "POST", "GET, HEAD"),
        ("/sessions", "POST", "DELETE, GET, HEAD"),
        ("/sessions/x", "PUT", "DELETE, GET, HEAD"),
    ):
        answer = await sqlite_server.http.request(method, f"/api/auth{path}")
        assert_problem(answer, 405, "method_not_allowed")
        assert answer.headers["allow"] == allow


async def test_paths_beside_the_api_are_not_found(sqlite_server: RunningServer) -> None:
    """No route begins in the middle of a name."""
    for path in ("", "/", "/nothing", "/sessionsx", "/sessionsx/y", "/me/x"):
        answer = await sqlite_server.http.get(f"/api/auth{path}")
        assert_problem(answer, 404, "not_found")


async def test_query_strings_are_refused(sqlite_server: RunningServer) -> None:
    """RFC 6750 5.3: a token in a URL ends up in logs; so does a password."""
    await sqlite_server.add_user()
    session = await start_session(sqlite_server)
    token = session.access_token
    for method, path in (("GET", "/me"), ("POST", "/login"), ("DELETE", "/sessions/x")):
        answer = await session.call(method, f"{path}?access_token={token}")
        assert_problem(answer, 400, "query_refused")
        assert token not in answer.text


async def test_head_is_the_get_without_its_body(sqlite_server: RunningServer) -> None:
    """RFC 9110 9.3.2."""
    await sqlite_server.add_user()
    session = await start_session(sqlite_server)
    got, head = await session.call("GET", "/me"), await session.call("HEAD", "/me")
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == got.headers["content-length"]


@contextmanager
def other_networks(server: RunningServer) -> Iterator[None]:
    """Every request from a network of its own: none runs out of guesses."""
    numbers = iter(range(1, 250))

    async def hop(request: Any) -> None:
        request.headers.update(from_address(f"198.51.{next(numbers)}.1"))

    server.http.event_hooks["request"].append(hop)
    try:
        yield
    finally:
        server.http.event_hooks["request"].remove(hop)


@pytest.mark.parametrize(
    ("members", "field"),
    [
        ({"email": "no e-mail"}, "email"),
        ({"email": "a@b@c"}, "email"),
        ({"email": "a\u200b@example.com"}, "email"),
        ({"email": "a\u0000@example.com"}, "email"),
        ({"email": "a\u202e@example.com"}, "email"),
        ({"name": "  "}, "name"),
        ({"name": "x" * 101}, "name"),
        ({"name": "a\u0000b"}, "name"),
        ({"name": "two\nlines"}, "name"),
        ({"password": "seven77"}, "password"),
        ({"password": "x" * 101}, "password"),
        ({"password": "with\u0000nul and more"}, "password"),
        ({"password": "unassigned \u0378 here"}, "password"),
        ({"password": "password123"}, "password"),
        ({"password": "PASSWORD123"}, "password"),
        ({"password": "ada@example.org"}, "password"),
        ({"password": "token-server"}, "password"),
    ],
)
async def test_registration_that_is_refused_names_the_field_and_makes_nobody(
    sqlite_server: RunningServer, members: dict[str, str], field: str
) -> None:
    """F115, F118, F119: length in code points, blocklist, own names, impossible characters."""
    answer = await post(sqlite_server, "/register", {**GOOD, **members})
    assert_problem(answer, 400, "invalid_field", field=field)
    assert answer.json()["detail"]
    assert await list_users(sqlite_server.runtime) == []


async def test_passwords_of_every_kind_are_taken_as_they_are(sqlite_server: RunningServer) -> None:
    """F115, F116, F120, F121: no rule of composition, nothing cut, outer spaces kept; one Unicode
    text in its two forms is one password."""
    passwords = (
        "eightchr"[:8],
        "x" * 100,
        "only lower letters",
        "        ",
        "\U0001f600" * 8,
        "my password is long and fine",
        " outer spaces ",
        "cafe\u0301 au lait",
    )
    with other_networks(sqlite_server):
        for number, password in enumerate(passwords):
            email = f"user{number}@example.org"
            body = {"email": email, "password": password, "name": NAME}
            answer = await post(sqlite_server, "/register", body)
            assert answer.status_code == 200, (password, answer.text)
            assert (await log_in(sqlite_server, email, password)).status_code == 200
            if password != password.strip():
                stripped = await log_in(sqlite_server, email, password.strip() or "x")
                assert_problem(stripped, 401, "credentials_refused")
            if len(password) == 100:
                cut = await log_in(sqlite_server, email, password[:99])
                assert_problem(cut, 401, "credentials_refused")
        composed = await log_in(sqlite_server, "user7@example.org", "caf\u00e9 au lait")
    assert composed.status_code == 200
