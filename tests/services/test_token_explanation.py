"""Why a token is refused: keys that are gone, clocks that differ, what has ended behind it."""

import json
from typing import Any

import jwt
import pytest

from tests.support.server import EMAIL, RunningServer
from tests.support.token_state import World, claims_of
from token_server.records import KeyState, Secret
from token_server.services.clients import delete_client, disable_client
from token_server.services.key_rotation import Asked, compromise_key
from token_server.services.token_explanation import LIVE, Explanation, explain_token
from token_server.services.users import disable_user, set_password


@pytest.fixture
async def world(sqlite_server: RunningServer) -> World:
    return await World.make(sqlite_server)


async def explain(world: World, token: str) -> Explanation:
    found = await explain_token(world.server.runtime, token)
    assert token not in repr(found)
    return found


async def test_verdict_agrees_with_introspection(world: World) -> None:
    """One truth: live here, active there, through the life and the end of a login."""
    tokens = await world.server.login("web")
    access = tokens["access_token"]
    assert (await explain(world, access)).verdict == LIVE
    assert (await explain(world, tokens["refresh_token"])).verdict == LIVE
    newer = (await world.server.refresh(tokens["refresh_token"], "web")).json()
    assert (await explain(world, tokens["refresh_token"])).verdict == "refresh_token_spent"
    await world.give_back("web", newer["refresh_token"])
    found = await explain(world, access)
    assert (found.verdict, found.checks[-1].reason) == ("session_revoked", "session_revoked")
    assert found.session is not None
    assert (found.session.revoked_at, found.session.revoked_reason) == (
        world.server.clock.now(),
        "revoked_by_client",
    )
    assert (await explain(world, newer["refresh_token"])).verdict == "family_revoked"
    assert not await world.is_active(access)


async def test_expired_token_is_looked_behind(world: World) -> None:
    """Its time is over, and that its session was ended as well is told all the same."""
    tokens = await world.server.login("web")
    await world.give_back("web", tokens["refresh_token"])
    world.server.clock.advance(1000)
    found = await explain(world, tokens["access_token"])
    assert found.verdict == "expired"
    assert [check.reason for check in found.checks if check.reason] == [
        "expired",
        "session_revoked",
    ]
    assert found.now - (found.expires_at or 0) == 100


async def test_clock_that_is_behind_is_named(world: World) -> None:
    """A token from the future: issued by an instance whose clock is ahead."""
    now = world.server.clock.now()
    claims = claims_of(await world.machine_token())
    found = await explain(world, world.signed({**claims, "iat": now + 60, "exp": now + 960}))
    assert (found.verdict, (found.issued_at or 0) - found.now) == ("iat_in_future", 60)


async def test_compromised_key_is_named_with_its_state(world: World) -> None:
    """The signature is good, and worth nothing."""
    token = await world.machine_token()
    kid = jwt.get_unverified_header(token)["kid"]
    await compromise_key(world.server.runtime, kid, Asked("compromise"))
    found = await explain(world, token)
    assert (found.verdict, found.key_state) == ("key_compromised", KeyState.COMPROMISED)
    assert [(check.name, check.reason) for check in found.checks[2:4]] == [
        ("key", "key_compromised"),
        ("signature", None),
    ]
    assert found.key is not None
    assert found.key.compromised_at == world.server.clock.now()


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        ("user", "user_disabled"),
        ("client", "client_disabled"),
        ("deleted client", "client_unknown"),
        ("password", "session_revoked"),
    ],
)
async def test_end_of_people_and_clients_is_named(world: World, end: str, reason: str) -> None:
    """The first that counts is the verdict; the records show the rest."""
    runtime = world.server.runtime
    tokens = await world.server.login("web")
    match end:
        case "user":
            await disable_user(runtime, EMAIL)
        case "client":
            await disable_client(runtime, "web")
        case "deleted client":
            await delete_client(runtime, "web")
        case "password":
            await set_password(runtime, EMAIL, Secret("another password 1"))
    found = await explain(world, tokens["access_token"])
    assert found.verdict == reason
    assert (found.client is None) == (end == "deleted client")
    assert found.user is not None
    assert found.user.is_active == (end != "user")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"iss": "https://evil.example"}, "iss_refused"),
        ({"aud": []}, "aud_refused"),
        ({"iat": "yesterday"}, "iat_invalid"),
        ({"jti": ""}, "jti_invalid"),
    ],
)
async def test_claims_that_were_never_good_are_named(
    world: World, change: dict[str, Any], reason: str
) -> None:
    """Signed by our own key, and still no access token of ours."""
    claims = claims_of(await world.machine_token())
    found = await explain(world, world.signed({**claims, **change}))
    assert (found.verdict, found.checks[-1].name) == (reason, "claims")


async def test_other_kinds_of_jwt_are_told_by_their_typ(world: World) -> None:
    """A status list token under the same key is no access token."""
    listed = (await world.server.http.get("/oauth2/status-lists/s0")).text
    found = await explain(world, listed)
    assert found.verdict == "typ_refused"
    assert found.key_state is KeyState.ACTIVE


async def test_unsigned_header_cannot_choose_what_is_shown(world: World) -> None:
    """A key id of 200 control characters comes out short and printable."""
    header = {"alg": "RS256", "typ": "at+jwt", "kid": "\x1b" * 200}
    parts = [json.dumps(header).encode(), b"{}", b"\x00\x00\x00"]
    found = await explain(world, ".".join(jwt.utils.base64url_encode(p).decode() for p in parts))
    assert (found.verdict, found.kid) == ("kid_unknown", "?" * 80 + "...")
