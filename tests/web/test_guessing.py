"""The guessing budget as a client meets it: one count for all doors, one face for all accounts."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path

import httpx
import pytest

from tests.support.account import log_in, post, start_session
from tests.support.server import (
    EMAIL,
    PASSWORD,
    RunningServer,
    copy_keys,
    from_address,
    make_settings,
    running_server,
)
from tests.support.wire import basic
from token_server.core.guess_budget import CLIENT_SECRET_BUDGETS, PASSWORD_BUDGETS
from token_server.records import Secret
from token_server.services.users import NewUser, add_user, disable_user
from token_server.storage import users

BURST = PASSWORD_BUDGETS[0].burst
HERE, ELSEWHERE = from_address("203.0.113.9"), from_address("198.51.100.1")
OAUTH_THROTTLED = (
    b'{"error":"temporarily_unavailable","error_description":"Not now: try again after the time in'
    b' Retry-After."}'
)
Door = Callable[[RunningServer, str, str, Mapping[str, str]], Awaitable[httpx.Response]]


async def by_grant(
    server: RunningServer, email: str, password: str, headers: Mapping[str, str]
) -> httpx.Response:
    form = {"grant_type": "password", "username": email, "password": password}
    return await server.token("app", headers, **form)


async def by_login(
    server: RunningServer, email: str, password: str, headers: Mapping[str, str]
) -> httpx.Response:
    return await post(server, "/login", {"email": email, "password": password}, dict(headers))


DOORS: Mapping[str, Door] = {"password grant": by_grant, "login": by_login}


def face(answer: httpx.Response) -> tuple[int, bytes, dict[str, str]]:
    """All that a stranger sees of an answer, except when it came."""
    varying = {"date", "x-request-id"}
    headers = {name: value for name, value in answer.headers.items() if name not in varying}
    return answer.status_code, answer.content, headers


@pytest.fixture
async def site(server: RunningServer) -> RunningServer:
    """A user, a client for the password grant, and accounts that fail for other causes."""
    await server.add_client("app", grant_types=("password", "refresh_token"), is_public=True)
    await server.add_client("billing", grant_types=("client_credentials",))
    await server.add_user()
    for email in ("disabled@example.org", "damaged@example.org"):
        await add_user(server.runtime, NewUser(email, "Somebody", Secret(PASSWORD)))
    await disable_user(server.runtime, "disabled@example.org")
    async with server.runtime.store.write() as connection:
        damaged = await users.find_user_by_email(connection, "damaged@example.org")
        assert damaged is not None
        junk = Secret("$argon2id$v=19$m=8,t=1,p=1$damaged")
        assert await users.rehash_password(connection, damaged.user_id, 0, junk)
    return server


@pytest.mark.parametrize("door", DOORS)
async def test_failures_look_alike_within_and_beyond_the_budget(
    site: RunningServer, door: str
) -> None:
    """F102: unknown, wrong, disabled, damaged and impossible: the same bytes, then the same 429."""
    attempts = {
        "wrong password": (EMAIL, "wrong"),
        "unknown": ("nobody@example.org", PASSWORD),
        "disabled": ("disabled@example.org", PASSWORD),
        "damaged": ("damaged@example.org", PASSWORD),
        "impossible": ("no address", PASSWORD),
    }
    failed, throttled = {}, {}
    for cause, (email, password) in attempts.items():
        answers = [await DOORS[door](site, email, password, HERE) for _ in range(BURST + 1)]
        assert len({answer.content for answer in answers[:BURST]}) == 1
        failed[cause], throttled[cause] = face(answers[0]), face(answers[-1])
    assert failed["unknown"][0] == (400 if door == "password grant" else 401)
    assert throttled["unknown"][0] == 429
    for cause in attempts:
        assert failed[cause] == failed["unknown"], cause
        assert throttled[cause] == throttled["unknown"], cause


async def test_throttled_grant_answers_in_the_endpoint_s_shape(site: RunningServer) -> None:
    """429 with Retry-After in whole seconds, never `invalid_grant`; then it goes on."""
    for _ in range(BURST):
        await by_grant(site, EMAIL, "wrong", HERE)
    answer = await by_grant(site, EMAIL, PASSWORD, HERE)
    assert (answer.status_code, answer.content) == (429, OAUTH_THROTTLED)
    assert answer.headers["retry-after"] == "10"
    assert answer.headers["cache-control"] == "no-store"
    site.clock.advance(10)
    assert (await by_grant(site, EMAIL, PASSWORD, HERE)).status_code == 200


async def test_throttled_login_answers_a_problem_with_its_code(site: RunningServer) -> None:
    """RFC 9457 with `too_many_attempts` and Retry-After."""
    for _ in range(BURST):
        await by_login(site, EMAIL, "wrong", HERE)
    answer = await by_login(site, EMAIL, PASSWORD, HERE)
    assert answer.json() == {
        "type": "about:blank",
        "title": "Too Many Requests",
        "status": 429,
        "code": "too_many_attempts",
    }
    assert answer.headers["retry-after"] == "10"


async def test_all_doors_share_one_count(site: RunningServer) -> None:
    """F109: what is spent at one door is spent at the others (CVE-2026-9798); the live session
    goes on."""
    session = await start_session(site)
    wrong = {"current_password": "wrong", "new_password": "a whole new phrase"}
    right = {"current_password": PASSWORD, "new_password": "a whole new phrase"}
    own = {"current_password": "wrong"}
    codes = [
        (await by_grant(site, EMAIL, "wrong", HERE)).status_code,
        (await by_grant(site, f" {EMAIL.upper()}", "wrong", HERE)).status_code,
        (await by_login(site, EMAIL, "wrong", HERE)).status_code,
        (await session.call("POST", "/change-password", json=wrong, headers=HERE)).status_code,
        (await session.call("DELETE", "/sessions", json=own, headers=HERE)).status_code,
    ]
    assert codes == [400, 400, 401, 401, 401]

    for answer in (
        await by_grant(site, EMAIL, PASSWORD, HERE),
        await by_login(site, EMAIL, PASSWORD, HERE),
        await session.call("POST", "/change-password", json=right, headers=HERE),
        await session.call(
            "DELETE", "/sessions", json={"current_password": PASSWORD}, headers=HERE
        ),
    ):
        assert answer.status_code == 429, answer.text
        assert answer.headers["retry-after"] == "10"
    assert (await session.call("GET", "/me", headers=HERE)).status_code == 200
    assert (await session.refresh()).status_code == 200
    assert (await by_login(site, EMAIL, PASSWORD, ELSEWHERE)).status_code == 200


async def test_forwarded_address_counts_from_the_right(site: RunningServer) -> None:
    """F112: what a client writes before its proxy's own entry buys no other budget."""
    for number in range(BURST):
        spoofed = from_address(f"192.0.2.{number}, 203.0.113.9")
        assert (await by_login(site, EMAIL, "wrong", spoofed)).status_code == 401
    spoofed = from_address("192.0.2.77, 203.0.113.9")
    assert (await by_login(site, EMAIL, PASSWORD, spoofed)).status_code == 429


@pytest.fixture
async def without_proxy(
    sqlite_url: str, shared_keys: Path, tmp_path: Path
) -> AsyncIterator[RunningServer]:
    copy_keys(shared_keys, tmp_path)
    settings = make_settings(sqlite_url, tmp_path, trusted_proxies=())
    async with running_server(settings) as running:
        await running.add_user()
        yield running


@pytest.mark.parametrize(
    "name", ["X-Forwarded-For", "X-Real-IP", "Forwarded", "True-Client-IP", "CF-Connecting-IP"]
)
async def test_forwarded_addresses_of_strangers_are_ignored(
    without_proxy: RunningServer, name: str
) -> None:
    """F112: without TRUSTED_PROXIES only the peer counts (CVE-2025-59152, CVE-2023-36456)."""
    for number in range(BURST):
        forged = {name: f"192.0.2.{number}" if name != "Forwarded" else f"for=192.0.2.{number}"}
        answer = await post(
            without_proxy, "/login", {"email": EMAIL, "password": "wrong"}, headers=forged
        )
        assert answer.status_code == 401
    assert (await log_in(without_proxy)).status_code == 429


@pytest.mark.parametrize("method", ["client_secret_basic", "client_secret_post"])
async def test_wrong_secrets_get_429_and_the_right_one_a_token(
    site: RunningServer, method: str
) -> None:
    """E96: by either method, in that network; what is right works everywhere."""

    async def machine_token(secret: str, headers: Mapping[str, str]) -> httpx.Response:
        form = {"grant_type": "client_credentials"}
        credentials = dict(headers)
        if method == "client_secret_basic":
            credentials |= [basic("billing", secret)]
        else:
            form |= {"client_id": "billing", "client_secret": secret}
        return await site.http.post("/oauth2/token", data=form, headers=credentials)

    for _ in range(CLIENT_SECRET_BUDGETS[0].burst):
        assert (await machine_token("wrong", HERE)).status_code == 401
    answer = await machine_token("wrong", HERE)
    assert (answer.status_code, answer.content) == (429, OAUTH_THROTTLED)
    assert 1 <= int(answer.headers["retry-after"]) <= 10
    assert (await machine_token("wrong", ELSEWHERE)).status_code == 401
    assert (await machine_token(site.secrets["billing"], HERE)).status_code == 200


async def test_registration_is_a_door_too(
    sqlite_url: str, shared_keys: Path, tmp_path: Path
) -> None:
    """Who asks of one e-mail after the other whether it is taken meets the network's budget."""
    copy_keys(shared_keys, tmp_path)
    settings = make_settings(sqlite_url, tmp_path, registration="open")
    async with running_server(settings) as running:
        body = {"email": EMAIL, "password": PASSWORD, "name": "Ada"}
        statuses = [
            (await post(running, "/register", body, dict(HERE))).status_code
            for _ in range(BURST + 1)
        ]
    assert statuses == [200, *[409] * (BURST - 1), 429]
