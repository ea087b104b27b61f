"""Access tokens at the account API: RFC 6750 §2.1 and §3, RFC 9068 §4, and the session behind."""

import base64
import dataclasses
import json
from typing import Any

import pytest

from tests.support.account import (
    Session,
    assert_problem,
    log_in,
    post,
    session_of,
    start_session,
)
from tests.support.guessing import buckets
from tests.support.server import EMAIL, ISSUER, PASSWORD, RunningServer
from token_server.core.claims import AccessToken, access_token_claims
from token_server.services.clients import disable_client, enable_client
from token_server.services.user_profile import change_names, set_roles
from token_server.services.users import disable_user, enable_user, list_users

REALM = 'Bearer realm="token-server"'


async def me(server: RunningServer, *authorization: str) -> Any:
    headers = [("Authorization", value) for value in authorization]
    return await server.http.get("/api/auth/me", headers=headers)


def claims_of(access_token: str) -> dict[str, Any]:
    claims: dict[str, Any] = json.loads(base64.urlsafe_b64decode(access_token.split(".")[1] + "=="))
    return claims


def signed(server: RunningServer, claims: dict[str, Any], typ: str = "at+jwt") -> str:
    """A token with our real key and any claims: what only we could have made."""
    payload = json.dumps(claims).encode()
    return server.runtime.keyring.sign_compact(typ, payload, server.clock.now())[0]


async def test_no_token_is_asked_for_one_without_an_error_code(
    sqlite_server: RunningServer,
) -> None:
    """RFC 6750 3.1: another scheme, or none at all."""
    for authorization in ((), ("Basic YTpi",), ("DPoP x",), ("",)):
        answer = await me(sqlite_server, *authorization)
        assert_problem(answer, 401, "token_missing")
        assert answer.headers["www-authenticate"] == REALM


async def test_bad_tokens_are_refused_alike(sqlite_server: RunningServer) -> None:
    """One body and one challenge for every cause (A42); the scheme counts in any case."""
    await sqlite_server.add_user()
    session = await start_session(sqlite_server)
    token = session.access_token
    for scheme in ("Bearer", "bearer", "BEARER"):
        assert (await me(sqlite_server, f"{scheme} {token}")).status_code == 200
    header, payload, signature = token.split(".")
    for bad in (
        "x",
        session.refresh_token,
        token + "=",
        f"{token} {token}",
        f"{token},",
        f"{header}.{payload}.",
        f"{header}.{payload}.{signature[:-2]}AA",
        f"{header}.{payload}x.{signature}",
    ):
        answer = await me(sqlite_server, f"Bearer {bad}")
        assert_problem(answer, 401, "token_refused")
        assert answer.headers["www-authenticate"] == (
            f'{REALM}, error="invalid_token", error_description="The access token is malformed,'
            ' expired, revoked or not meant for this service."'
        )
    assert_problem(
        await me(sqlite_server, f"Bearer {token}", f"Bearer {token}"), 401, "token_refused"
    )
    assert_problem(await me(sqlite_server, "Basic x", f"Bearer {token}"), 401, "token_refused")


@pytest.mark.parametrize(
    "changes",
    [
        {"aud": "https://orders.example"},
        {"iss": "https://auth.example/"},
        {"exp": 1},
        {"client_id": "app"},
        {"sid": None},
        {"sid": "ses_" + "A" * 22},
        {"sub": "usr_" + "A" * 22},
        {"auth_time": 1_799_999_999},
        {"auth_time": None},
    ],
    ids=str,
)
async def test_every_claim_counts_although_the_signature_is_ours(
    sqlite_server: RunningServer, changes: dict[str, Any]
) -> None:
    """Other audience, client, session, user or login: refused (RFC 9068 4)."""
    await sqlite_server.add_user()
    claims = claims_of((await start_session(sqlite_server)).access_token)
    assert (await me(sqlite_server, f"Bearer {signed(sqlite_server, claims)}")).status_code == 200
    changed = {k: v for k, v in {**claims, **changes}.items() if v is not None}
    answer = await me(sqlite_server, f"Bearer {signed(sqlite_server, changed)}")
    assert_problem(answer, 401, "token_refused")


async def test_other_kinds_of_our_jwts_are_no_access_tokens(sqlite_server: RunningServer) -> None:
    """RFC 8725 3.11: `typ` tells them apart."""
    await sqlite_server.add_user()
    claims = claims_of((await start_session(sqlite_server)).access_token)
    for typ in ("JWT", "statuslist+jwt", "logout+jwt", "dpop+jwt"):
        answer = await me(sqlite_server, f"Bearer {signed(sqlite_server, claims, typ)}")
        assert_problem(answer, 401, "token_refused")


async def test_machine_token_is_no_user(sqlite_server: RunningServer) -> None:
    """O270: a client's own token, although its audience is this server."""
    await sqlite_server.add_client("billing", grant_types=("client_credentials",))
    answer = await sqlite_server.token("billing", grant_type="client_credentials")
    token = answer.json()["access_token"]
    assert claims_of(token)["aud"] == ISSUER
    assert_problem(await me(sqlite_server, f"Bearer {token}"), 401, "token_refused")


async def test_token_of_another_client_does_not_manage_the_account(
    sqlite_server: RunningServer,
) -> None:
    """A third party that a person logged in at may read what it was given, and nothing here."""
    await sqlite_server.add_user()
    await sqlite_server.add_client("app", grant_types=("password", "refresh_token"), is_public=True)
    answer = await sqlite_server.token(
        "app", None, grant_type="password", username=EMAIL, password=PASSWORD
    )
    session = session_of(sqlite_server, answer)
    assert claims_of(session.access_token)["aud"] == ISSUER
    for method, path in (
        ("GET", "/me"),
        ("GET", "/sessions"),
        ("DELETE", "/sessions"),
        ("GET", "/sessions/x"),
        ("DELETE", "/sessions/x"),
        ("POST", "/logout"),
    ):
        assert_problem(await session.call(method, path), 401, "token_refused")
    body = {"current_password": PASSWORD, "new_password": "another battery staple"}
    assert_problem(await session.call("POST", "/change-password", json=body), 401, "token_refused")
    refreshed = await post(sqlite_server, "/refresh", {"refresh_token": session.refresh_token})
    assert_problem(refreshed, 401, "credentials_refused")
    assert (await sqlite_server.refresh(session.refresh_token)).status_code == 200


async def test_expired_tokens_and_sessions_are_refused(server: RunningServer) -> None:
    """The token at its `exp`; the session when it was idle for too long."""
    await server.add_user()
    session = await start_session(server)
    server.clock.advance(899)
    assert (await session.call("GET", "/me")).status_code == 200
    server.clock.advance(1)
    assert_problem(await session.call("GET", "/me"), 401, "token_refused")
    server.clock.advance(7 * 86400)
    assert_problem(await session.refresh(), 401, "credentials_refused")


async def test_session_that_ended_takes_its_access_tokens_along(server: RunningServer) -> None:
    """B55 at this server itself: at once, not when the token runs out."""
    await server.add_user()
    await server.add_user("off@example.org")
    mine, off = (
        await start_session(server),
        session_of(server, await log_in(server, "off@example.org")),
    )
    await disable_user(server.runtime, "off@example.org")
    assert_problem(await off.call("GET", "/me"), 401, "token_refused")
    await enable_user(server.runtime, "off@example.org")
    assert_problem(await off.call("GET", "/me"), 401, "token_refused")
    assert (await mine.call("GET", "/me")).status_code == 200


async def test_disabled_account_client_closes_every_door(server: RunningServer) -> None:
    """`client disable account` is the switch of the account API."""
    await server.add_user()
    session = await start_session(server)
    await disable_client(server.runtime, "account")
    server.clock.advance(6)
    assert_problem(await session.call("GET", "/me"), 401, "token_refused")
    assert_problem(await session.refresh(), 401, "credentials_refused")
    assert_problem(await log_in(server), 401, "credentials_refused")
    await enable_client(server.runtime, "account")
    server.clock.advance(6)
    assert (await log_in(server)).status_code == 200


async def test_closed_account_api_looks_at_no_password_and_makes_nobody(
    sqlite_server: RunningServer,
) -> None:
    """F102, F109: a right password would be forgiven and a wrong one counted, so that 429 would
    tell them apart; and a registration must not leave an account behind."""
    server = sqlite_server
    await server.add_user()
    await disable_client(server.runtime, "account")
    server.clock.advance(6)
    for password in (*[PASSWORD] * 7, *["wrong password"] * 7):
        assert_problem(await log_in(server, EMAIL, password), 401, "credentials_refused")
    new = {"email": "new@example.org", "password": PASSWORD, "name": "New"}
    assert_problem(await post(server, "/register", new), 403, "registration_closed")
    assert await buckets(server.runtime) == []
    assert len(await list_users(server.runtime)) == 1


async def test_roles_are_those_of_today_and_names_are_in_no_token(server: RunningServer) -> None:
    """RFC 9068 2.2.3.1: at the next login or refresh; a replay of the last refresh has them too
    (G141: what was withdrawn is gone)."""
    await server.add_user()
    session = await start_session(server)
    assert "roles" not in claims_of(session.access_token)
    await set_roles(server.runtime, EMAIL, ["support", "auditor"])
    second = session_of(server, await session.refresh())
    replayed = session_of(server, await session.refresh())
    for each in (second, replayed, await start_session(server)):
        assert claims_of(each.access_token)["roles"] == ["auditor", "support"]

    await change_names(server.runtime, EMAIL, email="countess@example.org", name="Countess")
    await set_roles(server.runtime, "countess@example.org", [])
    third = session_of(server, await second.refresh())
    claims = claims_of(third.access_token)
    assert "roles" not in claims
    assert "ountess" not in json.dumps(claims)
    shown = (await third.call("GET", "/me")).json()
    assert (shown["email"], shown["name"]) == ("countess@example.org", "Countess")


async def test_password_change_follows_the_person_whatever_the_email(server: RunningServer) -> None:
    """Renamed meanwhile, and the old e-mail given to somebody else with the same password."""
    await server.add_user()
    session = await start_session(server)
    await change_names(server.runtime, EMAIL, email="countess@example.org")
    await server.add_user(EMAIL)
    server.clock.advance(1)
    changed = await session.call(
        "POST",
        "/change-password",
        json={"current_password": PASSWORD, "new_password": "another battery staple"},
    )
    assert changed.status_code == 200, changed.text
    assert (await log_in(server)).status_code == 200  # the other one's is what it was
    answer = await log_in(server, "countess@example.org", "another battery staple")
    assert answer.status_code == 200


async def test_audience_is_the_issuer_and_what_services_expect(
    sqlite_server: RunningServer,
) -> None:
    """An array when DEFAULT_AUDIENCE is another than the issuer; it passes here as well."""
    services = "https://orders.example"
    runtime = sqlite_server.runtime
    token = AccessToken(
        issuer=ISSUER,
        subject="usr_x",
        audience=(ISSUER, services),
        client_id="account",
        scope=(),
        issued_at=1,
        expires_at=2,
        jti="j",
        roles=("auditor",),
    )
    assert access_token_claims(token)["aud"] == [ISSUER, services]
    assert access_token_claims(token)["roles"] == ["auditor"]
    assert "roles" not in access_token_claims(dataclasses.replace(token, roles=()))
    from token_server.services.account import account_audience

    settings = runtime.settings
    assert account_audience(settings) == (ISSUER,)
    other = type(settings)(
        mode="serve",
        issuer=ISSUER,
        database_url=settings.database_url,
        default_audience=services,
    )
    assert account_audience(other) == (ISSUER, services)


async def test_keys_that_rotate_are_followed(sqlite_server: RunningServer) -> None:
    """A token signed by a published key passes whichever verifier the guard had made before."""
    await sqlite_server.add_user()
    before: Session = await start_session(sqlite_server)
    assert (await before.call("GET", "/me")).status_code == 200
    sqlite_server.clock.advance(10)
    after = await start_session(sqlite_server)
    assert (await after.call("GET", "/me")).status_code == 200
    assert (await before.call("GET", "/me")).status_code == 200
