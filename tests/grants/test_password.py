"""Grant `password` over HTTP (RFC 6749 §4.3; security cases F101, F102)."""

import asyncio
import itertools

import jwt
import pytest

from tests.support.server import AUDIENCE, EMAIL, PASSWORD, RunningServer, from_address
from token_server.records import AuditEventType, Secret
from token_server.services.users import disable_user, enable_user, set_password, show_user
from token_server.storage.audit import list_events

APP = {
    "grant_types": ("password", "refresh_token"),
    "scopes": ("orders:read", "orders:write"),
    "audiences": (AUDIENCE, "https://stock.example"),
    "is_public": True,
}

INVALID_GRANT = (
    b'{"error":"invalid_grant","error_description":"The credentials or the refresh token are'
    b' invalid, expired or revoked."}'
)


async def audit_events(server: RunningServer) -> list[tuple[AuditEventType, str | None]]:
    """What the audit trail holds by now, oldest first."""
    await server.runtime.background.close()
    async with server.runtime.store.read() as connection:
        stored = await list_events(connection, 0, 1000)
    return [(entry.event.event, entry.event.reason) for entry in stored]


async def test_login_gives_an_access_and_a_refresh_token(server: RunningServer) -> None:
    """RFC 6749 §4.3.3, §5.1; the access token names the session and nothing personal."""
    await server.add_client("app", **APP)
    user = await server.add_user()
    body = await server.login()
    assert body.keys() == {"access_token", "token_type", "expires_in", "refresh_token", "scope"}
    claims = jwt.decode(body["access_token"], options={"verify_signature": False})
    assert claims.keys() == {
        "iss", "sub", "aud", "exp", "iat", "jti", "client_id", "scope", "sid", "auth_time",
        "status",
    }  # fmt: skip
    assert claims["sub"] == user.user_id
    assert claims["aud"] == AUDIENCE
    assert claims["auth_time"] == claims["iat"] == server.clock.now()
    assert EMAIL not in str(claims)
    assert (await show_user(server.runtime, EMAIL)).last_login_at == server.clock.now()
    assert (AuditEventType.LOGIN_SUCCEEDED, None) in await audit_events(server)


async def test_every_login_is_its_own_session(sqlite_server: RunningServer) -> None:
    """Two logins: two families, two sids."""
    server = sqlite_server
    await server.add_client("app", **APP)
    await server.add_user()
    tokens = [await server.login() for _ in range(2)]
    sids = {
        jwt.decode(t["access_token"], options={"verify_signature": False})["sid"] for t in tokens
    }
    assert len(sids) == 2
    assert tokens[0]["refresh_token"] != tokens[1]["refresh_token"]


async def test_refused_logins_cannot_be_told_apart(server: RunningServer) -> None:
    """Unknown user, wrong password, disabled user, impossible e-mail: one status, one body."""
    await server.add_client("app", **APP)
    await server.add_user()
    disabled = await server.add_user("disabled@example.org")
    await disable_user(server.runtime, disabled.user_id)
    attempts = [
        ("nobody@example.org", PASSWORD),
        (EMAIL, "wrong horse battery staple"),
        ("disabled@example.org", PASSWORD),
        ("not an e-mail", PASSWORD),
        ("usr_AAAAAAAAAAAAAAAAAAAAAA", PASSWORD),
    ]
    answers = [
        await server.token("app", grant_type="password", username=name, password=password)
        for name, password in attempts
    ]
    assert {answer.status_code for answer in answers} == {400}
    assert {answer.content for answer in answers} == {INVALID_GRANT}
    reasons = [r for event, r in await audit_events(server) if event is AuditEventType.LOGIN_FAILED]
    assert reasons == [
        "user_unknown", "password_wrong", "user_disabled", "user_unknown", "user_unknown",
    ]  # fmt: skip


@pytest.mark.parametrize("missing", ["username", "password"])
async def test_missing_credentials_are_an_invalid_request(
    sqlite_server: RunningServer, missing: str
) -> None:
    """Left out or empty is the same (RFC 6749 §3.2)."""
    await sqlite_server.add_client("app", **APP)
    form = {"grant_type": "password", "username": EMAIL, "password": PASSWORD, missing: ""}
    answer = await sqlite_server.token("app", None, **form)
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request")


async def test_client_without_the_grant_is_unauthorized(sqlite_server: RunningServer) -> None:
    """Whatever the password is, it is not looked at (F101)."""
    server = sqlite_server
    await server.add_client("svc", grant_types=("client_credentials",))
    await server.add_user()
    answer = await server.token("svc", grant_type="password", username=EMAIL, password=PASSWORD)
    assert (answer.status_code, answer.json()["error"]) == (400, "unauthorized_client")


async def test_login_narrows_scope_and_audience_for_the_whole_session(
    server: RunningServer,
) -> None:
    """What a login asked for is what its family has (RFC 6749 §3.3, RFC 8707 §2)."""
    await server.add_client("app", **APP)
    await server.add_user()
    body = await server.login(scope="orders:read", resource="https://stock.example")
    assert body["scope"] == "orders:read"
    refreshed = (await server.refresh(body["refresh_token"])).json()
    claims = jwt.decode(refreshed["access_token"], options={"verify_signature": False})
    assert (claims["scope"], claims["aud"]) == ("orders:read", "https://stock.example")
    wider = await server.refresh(refreshed["refresh_token"], resource=AUDIENCE)
    assert wider.json()["error"] == "invalid_target"


async def test_client_without_refresh_gets_a_session_as_long_as_its_token(
    sqlite_server: RunningServer,
) -> None:
    """No refresh token leaves, and nothing stays behind longer than the access token."""
    server = sqlite_server
    await server.add_client("once", grant_types=("password",), scopes=("a",))
    await server.add_user()
    answer = await server.token("once", grant_type="password", username=EMAIL, password=PASSWORD)
    body = answer.json()
    assert "refresh_token" not in body
    assert body["expires_in"] == 900


async def test_access_token_never_outlives_its_session(sqlite_server: RunningServer) -> None:
    """`exp` is cut at the family's absolute expiry (revocation.md)."""
    server = sqlite_server
    await server.add_client(
        "app", **APP, refresh_absolute_ttl_s=1000, refresh_idle_ttl_s=1000, access_token_ttl_s=600
    )
    await server.add_user()
    body = await server.login()
    server.clock.advance(700)
    assert (await server.refresh(body["refresh_token"])).json()["expires_in"] == 300


async def test_e_mail_is_found_in_any_spelling(sqlite_server: RunningServer) -> None:
    """Case, outer spaces and full-width letters are one account (F106)."""
    server = sqlite_server
    await server.add_client("app", **APP)
    await server.add_user()
    for name in (EMAIL.upper(), f" {EMAIL} ", "\uff41da@example.org"):
        answer = await server.token("app", grant_type="password", username=name, password=PASSWORD)
        assert answer.status_code == 200, name


async def test_password_change_racing_logins_leaves_no_old_session(server: RunningServer) -> None:
    """A login that was hashing while the password changed makes no session (refresh.md 9)."""
    await server.add_client("app", **APP)
    user = await server.add_user()
    passwords = itertools.cycle([PASSWORD, "another horse battery staple"])
    current = next(passwords)
    for _ in range(5):
        following = next(passwords)

        async def log_in(number: int, password: str = current) -> str | None:
            answer = await server.token(
                "app",
                from_address(f"192.0.2.{number}"),
                grant_type="password",
                username=EMAIL,
                password=password,
            )
            assert answer.status_code in (200, 400), answer.text
            return str(token) if (token := answer.json().get("refresh_token")) else None

        async def change(password: str = following) -> None:
            await asyncio.sleep(0.01)
            await set_password(server.runtime, user.user_id, Secret(password))

        *tokens, _ = await asyncio.gather(*map(log_in, range(12)), change())
        for token in tokens:
            if token is not None:
                answer = await server.refresh(token)
                assert answer.json()["error"] == "invalid_grant"
        current = following


async def test_disabling_racing_logins_leaves_no_session(server: RunningServer) -> None:
    """The same for disabling a user (refresh.md 9)."""
    await server.add_client("app", **APP)
    user = await server.add_user()

    async def log_in(number: int) -> str | None:
        answer = await server.token(
            "app",
            from_address(f"192.0.2.{number}"),
            grant_type="password",
            username=EMAIL,
            password=PASSWORD,
        )
        assert answer.status_code in (200, 400), answer.text
        return str(token) if (token := answer.json().get("refresh_token")) else None

    async def disable() -> None:
        await asyncio.sleep(0.01)
        await disable_user(server.runtime, user.user_id)

    for _ in range(5):
        *tokens, _ = await asyncio.gather(*map(log_in, range(12)), disable())
        for token in tokens:
            if token is not None:
                assert (await server.refresh(token)).status_code == 400
        await enable_user(server.runtime, user.user_id)
    assert (await server.login())["refresh_token"]
