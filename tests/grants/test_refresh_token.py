"""Grant `refresh_token` over HTTP: rotation, replay, reuse (RFC 6749 §6, RFC 9700 §4.14.2;
security cases G). Durable effects are asserted through a further request."""

import asyncio
import sqlite3
from typing import Any

import jwt
import pytest

from tests.grants.test_password import APP, INVALID_GRANT, audit_events
from tests.support.server import AUDIENCE, EMAIL, PASSWORD, RunningServer
from token_server.records import AuditEventType, Secret
from token_server.services import clients, users


async def start(server: RunningServer, **client: Any) -> str:
    """A client, a user, a login: the first refresh token."""
    await server.add_client("app", **{**APP, **client})
    await server.add_user()
    return str((await server.login())["refresh_token"])


async def spend(server: RunningServer, token: str, client_id: str = "app") -> str:
    answer = await server.refresh(token, client_id)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["refresh_token"])


async def assert_dead(server: RunningServer, token: str, client_id: str = "app") -> None:
    answer = await server.refresh(token, client_id)
    assert (answer.status_code, answer.content) == (400, INVALID_GRANT)


async def test_rotation_gives_a_new_pair(server: RunningServer) -> None:
    """Exact members; the session stays, the access token is another (RFC 6749 §5.1, §6)."""
    first = await start(server)
    answer = await server.refresh(first)
    body = answer.json()
    assert body.keys() == {"access_token", "token_type", "expires_in", "refresh_token", "scope"}
    assert answer.headers["cache-control"] == "no-store"
    assert body["refresh_token"] != first
    assert await spend(server, body["refresh_token"]) not in (first, body["refresh_token"])


async def test_replay_inside_the_window_gives_the_same_successor(server: RunningServer) -> None:
    """A lost answer is retried: the same refresh token, a fresh access token (G134)."""
    first = await start(server)
    bodies = [(await server.refresh(first)).json() for _ in range(3)]
    assert len({body["refresh_token"] for body in bodies}) == 1
    assert len({body["access_token"] for body in bodies}) == 3
    assert await spend(server, bodies[0]["refresh_token"])


async def test_replay_does_not_move_the_window(server: RunningServer) -> None:
    """GoTrue's window slides with each replay; ours ends 30 s after the rotation (refresh.md 4)."""
    first = await start(server)
    second = await spend(server, first)
    for _ in range(2):
        server.clock.advance(14)
        assert await spend(server, first) == second
    server.clock.advance(2)
    await assert_dead(server, first)
    await assert_dead(server, second)


async def test_reuse_after_the_window_kills_the_family(server: RunningServer) -> None:
    """The newest token dies too (G131), this family only, and it is audited exactly once."""
    first = await start(server)
    other = (await server.login())["refresh_token"]
    second = await spend(server, first)
    server.clock.advance(31)
    await assert_dead(server, first)
    await assert_dead(server, second)
    await assert_dead(server, first)
    assert await spend(server, other)
    events = await audit_events(server)
    assert events.count((AuditEventType.REFRESH_TOKEN_REUSED, "old_generation")) == 1


async def test_two_generations_old_is_reuse_even_inside_the_window(server: RunningServer) -> None:
    """Only the immediate predecessor is excused (G135)."""
    first = await start(server)
    third = await spend(server, await spend(server, first))
    await assert_dead(server, first)
    await assert_dead(server, third)


async def test_strict_mode_knows_no_replay(server: RunningServer) -> None:
    """A window of 0: the second use kills the family, in the same second (refresh.md 4)."""
    first = await start(server, refresh_replay_window_s=0)
    second = await spend(server, first)
    await assert_dead(server, first)
    await assert_dead(server, second)


@pytest.mark.parametrize("strict", [False, True], ids=["replay", "strict"])
async def test_fifty_simultaneous_uses_make_one_step(server: RunningServer, strict: bool) -> None:
    """G132: never two live successors; strict mode has one winner and a dead family."""
    first = await start(server, refresh_replay_window_s=0 if strict else None)
    answers = await asyncio.gather(*(server.refresh(first) for _ in range(50)))
    winners = [a.json()["refresh_token"] for a in answers if a.status_code == 200]
    assert all(a.status_code in (200, 400) for a in answers)
    if strict:
        assert len(winners) == 1
        await assert_dead(server, winners[0])
    else:
        assert (len(winners), len(set(winners))) == (50, 1)
        assert await spend(server, winners[0])


async def test_scope_narrows_for_one_answer_only(server: RunningServer) -> None:
    """The family keeps its scope (RFC 6749 §6, G83)."""
    first = await start(server)
    body = (await server.refresh(first, scope="orders:read")).json()
    assert body["scope"] == "orders:read"
    claims = jwt.decode(body["access_token"], options={"verify_signature": False})
    assert claims["scope"] == "orders:read"
    again = (await server.refresh(body["refresh_token"])).json()
    assert again["scope"] == "orders:read orders:write"


@pytest.mark.parametrize(
    ("form", "error"),
    [
        ({"scope": "orders:read admin"}, "invalid_scope"),
        ({"scope": "orders:read  orders:write"}, "invalid_scope"),
        ({"resource": "https://stock.example"}, "invalid_target"),
        ({"resource": "nonsense"}, "invalid_target"),
    ],
)
async def test_refused_widening_does_not_spend_the_token(
    server: RunningServer, form: dict[str, str], error: str
) -> None:
    """Refused before anything is used up (refresh.md 8): no replay excuse is needed after it."""
    first = await start(server, refresh_replay_window_s=0)
    answer = await server.refresh(first, **form)
    assert (answer.status_code, answer.json()["error"]) == (400, error)
    assert await spend(server, first)


async def test_replay_with_narrower_scope_is_a_replay(server: RunningServer) -> None:
    """Same or narrower scope (refresh.md 4)."""
    first = await start(server)
    second = await spend(server, first)
    body = (await server.refresh(first, scope="orders:read", resource=AUDIENCE)).json()
    assert (body["refresh_token"], body["scope"]) == (second, "orders:read")


async def test_another_client_cannot_use_or_kill_the_token(server: RunningServer) -> None:
    """Client B gets invalid_grant and learns nothing; A's family lives on (G137)."""
    first = await start(server)
    await server.add_client("other", **APP)
    second = await spend(server, first)
    for token in (first, second):
        await assert_dead(server, token, "other")
    server.clock.advance(31)
    await assert_dead(server, first, "other")  # an old one would be reuse, from its own client
    assert await spend(server, second)
    assert (AuditEventType.REFRESH_TOKEN_REFUSED, "client_mismatch") in await audit_events(server)


async def test_idle_and_absolute_lifetime_end_the_session(server: RunningServer) -> None:
    """Each use moves the idle limit, nothing moves the absolute one (G140)."""
    first = await start(server, refresh_idle_ttl_s=100, refresh_absolute_ttl_s=250)
    server.clock.advance(99)
    second = await spend(server, first)
    server.clock.advance(99)
    third = await spend(server, second)
    server.clock.advance(51)
    fourth = await spend(server, third)
    server.clock.advance(1)
    await assert_dead(server, fourth)


async def test_idle_session_is_over(server: RunningServer) -> None:
    """To the second."""
    first = await start(server, refresh_idle_ttl_s=100)
    server.clock.advance(100)
    await assert_dead(server, first)


async def test_all_refusals_look_the_same(server: RunningServer) -> None:
    """Expired, unknown, revoked, junk, foreign MAC: one status, one body (G139)."""
    first = await start(server, refresh_idle_ttl_s=100)
    second = (await server.login())["refresh_token"]
    await spend(server, await spend(server, second))
    await assert_dead(server, second)  # revoked by reuse
    server.clock.advance(100)
    await assert_dead(server, first)  # expired
    await assert_dead(server, "rt_" + "A" * 72)  # foreign MAC
    await assert_dead(server, "junk")
    await assert_dead(server, "rt_" + "\u00e9" * 40)
    await assert_dead(server, first[:-1] + ("A" if first[-1] != "A" else "B"))


async def test_password_change_ends_the_users_sessions(server: RunningServer) -> None:
    """And so does disabling; enabling revives nothing (F124, G141)."""
    first = await start(server)
    await users.set_password(server.runtime, EMAIL, Secret("another horse battery staple"))
    await assert_dead(server, first)
    answer = await server.token(
        "app", grant_type="password", username=EMAIL, password="another horse battery staple"
    )
    second = answer.json()["refresh_token"]
    await users.disable_user(server.runtime, EMAIL)
    await assert_dead(server, second)
    await users.enable_user(server.runtime, EMAIL)
    await assert_dead(server, second)


async def test_password_change_racing_refreshes_leaves_no_live_token(
    server: RunningServer,
) -> None:
    """Whoever commits first, afterwards no token from before the change lives (F125)."""
    await start(server)
    for round_number in range(5):
        token = (
            await server.token(
                "app", grant_type="password", username=EMAIL, password=_password(round_number)
            )
        ).json()["refresh_token"]

        async def keep_refreshing(token: str = token) -> str:
            for _ in range(10):
                answer = await server.refresh(token)
                if answer.status_code != 200:
                    break
                token = answer.json()["refresh_token"]
            return token

        change = users.set_password(server.runtime, EMAIL, Secret(_password(round_number + 1)))
        newest, _ = await asyncio.gather(keep_refreshing(), change)
        await assert_dead(server, newest)


def _password(round_number: int) -> str:
    return PASSWORD if round_number == 0 else f"horse battery staple {round_number}"


async def test_disabled_client_ends_its_sessions_at_once(server: RunningServer) -> None:
    """Also while its record is still in the cache (E100)."""
    first = await start(server)
    await clients.disable_client(server.runtime, "app")
    answer = await server.refresh(first)
    assert answer.status_code in (400, 401)
    await clients.enable_client(server.runtime, "app")
    server.clock.advance(6)
    await assert_dead(server, first)


async def test_shadow_limit_ends_a_family_that_is_followed(server: RunningServer) -> None:
    """Replays in consecutive generations are counted, audited, and fatal where a client says so
    (refresh.md 6)."""
    token = last = await start(server, shadow_limit=2)
    for generation in range(3):
        successor = await spend(server, token)
        answer = await server.refresh(token)  # the other tab, or the thief
        assert answer.status_code == (200 if generation < 2 else 400)
        token, last = successor, token
    await assert_dead(server, token)
    await assert_dead(server, last)
    events = await audit_events(server)
    assert events.count((AuditEventType.REFRESH_TOKEN_SHADOWED, None)) == 1
    assert events.count((AuditEventType.REFRESH_TOKEN_REUSED, "shadow_limit")) == 1


async def test_shadowing_is_audited_and_harmless_by_default(server: RunningServer) -> None:
    """Two tabs must not log anybody out."""
    token = await start(server)
    for _ in range(4):
        successor = await spend(server, token)
        assert await spend(server, token) == successor
        token = successor
    events = await audit_events(server)
    assert events.count((AuditEventType.REFRESH_TOKEN_SHADOWED, None)) == 3


async def test_replays_beyond_the_budget_are_throttled_not_reuse(
    sqlite_server: RunningServer,
) -> None:
    """429 with Retry-After, and the family lives (refresh.md 4)."""
    server = sqlite_server
    first = await start(server, refresh_replay_window_s=300)
    second = await spend(server, first)
    answers = await asyncio.gather(*(server.refresh(first) for _ in range(260)))
    throttled = [answer for answer in answers if answer.status_code == 429]
    assert {answer.status_code for answer in answers} == {200, 429}
    assert int(throttled[0].headers["retry-after"]) >= 1
    assert throttled[0].json()["error"] == "temporarily_unavailable"
    assert await spend(server, second)


async def test_stepped_back_clock_stops_issuing(sqlite_server: RunningServer) -> None:
    """G148: nothing is stretched, nobody is logged out, and the keys stay published."""
    server = sqlite_server
    first = await start(server)
    server.clock.stepped_back = True
    answer = await server.refresh(first)
    assert (answer.status_code, answer.json()["error"]) == (503, "temporarily_unavailable")
    assert (await server.http.get("/.well-known/jwks.json")).status_code == 200
    server.clock.stepped_back = False
    assert await spend(server, first)


async def test_database_holds_nothing_that_can_be_replayed(sqlite_server: RunningServer) -> None:
    """G144: a copy of the database forges no token; secrets and passwords are digests."""
    server = sqlite_server
    first = await start(server)
    await server.add_client("svc", grant_types=("client_credentials",))
    second = await spend(server, first)
    assert server.runtime.store.path is not None
    with sqlite3.connect(server.runtime.store.path) as connection:
        dump = "\n".join(connection.iterdump())
    for secret in (first, second, first[3:], PASSWORD, server.secrets["svc"]):
        assert secret not in dump


async def test_lost_database_answers_503_and_spends_nothing(sqlite_server: RunningServer) -> None:
    """Contention and lost connections are never `invalid_grant` (refresh.md 10)."""
    server = sqlite_server
    first = await start(server)
    assert server.runtime.store.path is not None
    blocker = sqlite3.connect(server.runtime.store.path, isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")  # a program that does not know our lock
    answer = await server.refresh(first)
    assert (answer.status_code, answer.json()["error"]) == (503, "temporarily_unavailable")
    assert int(answer.headers["retry-after"]) >= 1
    blocker.execute("ROLLBACK")
    blocker.close()
    assert await spend(server, first)
