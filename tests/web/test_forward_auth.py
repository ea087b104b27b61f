"""`GET /oauth2/forward-auth`: what a proxy is told, whatever it and its clients send."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.forward_auth import (
    HERE,
    INVALID_TOKEN,
    NAMES,
    PATH,
    ask,
    assert_refused,
    bearer,
    identity,
)
from tests.support.server import (
    AUDIENCE,
    EMAIL,
    RunningServer,
    copy_keys,
    make_settings,
    running_server,
)
from tests.support.token_state import World, claims_of
from tests.web.conftest import EdgeServer
from tests.web.test_faults import database_away
from token_server.core.identifiers import audience_problem
from token_server.errors import ProxyConfigurationError
from token_server.services.maintenance import mark_restored
from token_server.services.sessions import revoke_session
from token_server.services.user_profile import set_roles
from token_server.services.users import disable_user
from token_server.web.forward_auth import read_demand

PIECES = (
    *(b"audience=", b"token_audience=", b"scope=", b"role=", b"&", b"https://a.example"),
    *(b"orders:read", b"+", b"%20", b"%", b"=", b"clerk", b"%00"),
)
MISUNDERSTOOD = (
    "scopes=orders:read",
    "scope=",
    "scope",
    "scope=%22",
    "scope=orders:read&scope=",
    "scope=a++b",
    "audience=https://orders.example&audience=https://stock.example",
    "audience=orders",
    "audience=https://orders.example%0d%0aX:y",
    "audience=%zz",
    "audience=%ff",
    "token_audience=x",
    "token_audience=https://a.example&token_audience=https://b.example",
    "role=",
    "role=a+b",
    "role=%00",
    "access_token=eyJ",
    "&",
    "Audience=https://orders.example",
    "scope=" + "a" * 5000,
)


@pytest.fixture
async def world(server: RunningServer) -> World:
    return await World.make(server)


@pytest.fixture
async def sqlite_world(sqlite_server: RunningServer) -> World:
    return await World.make(sqlite_server)


# --- who passes ----------------------------------------------------------------------------------


async def test_user_is_told_in_headers(world: World) -> None:
    """Always the same headers, empty where there is nothing to say."""
    await set_roles(world.server.runtime, EMAIL, ["clerk", "orders:admin"])
    token = (await world.server.login("app"))["access_token"]
    claims = claims_of(token)
    answer = await ask(world, bearer(token))
    assert identity(answer) == {
        "subject": claims["sub"],
        "client-id": "app",
        "scope": "orders:read orders:write",
        "roles": "clerk,orders:admin",
        "session": claims["sid"],
        "actor": "",
        "api-key-id": "",
    }
    assert answer.headers["authorization"] == ""


async def test_machine_is_its_own_subject(sqlite_world: World) -> None:
    """No session, no roles (RFC 9068 §2.2)."""
    told = identity(await ask(sqlite_world, bearer(await sqlite_world.machine_token())))
    assert (told["subject"], told["client-id"]) == ("billing", "billing")
    assert (told["session"], told["roles"]) == ("", "")


async def test_last_actor_of_a_chain_is_told(sqlite_world: World) -> None:
    """RFC 8693 §4.1: who acts now; those before are history."""
    claims = claims_of((await sqlite_world.server.login("app"))["access_token"])
    act = {"sub": "billing", "act": {"sub": "web"}}
    token = sqlite_world.signed({**claims, "client_id": "billing", "act": act})
    told = identity(await ask(sqlite_world, bearer(token)))
    assert (told["subject"], told["actor"]) == (claims["sub"], "billing")


async def test_head_is_a_get_without_a_body(sqlite_world: World) -> None:
    """RFC 9110 §9.3.2: also for refusals."""
    token = await sqlite_world.machine_token()
    got = await ask(sqlite_world, bearer(token))
    headed = await ask(sqlite_world, bearer(token), method="HEAD")
    assert identity(headed) == identity(got)
    refused = await ask(sqlite_world, bearer("junk"), method="HEAD")
    assert (refused.status_code, refused.content) == (401, b"")
    assert refused.headers["www-authenticate"] == INVALID_TOKEN


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"])
async def test_other_methods_are_refused(sqlite_world: World, method: str) -> None:
    """405 with `Allow`; proxies ask with GET whatever they were asked."""
    headers = bearer(await sqlite_world.machine_token())
    answer = await sqlite_world.server.http.request(method, PATH, headers=headers, params=HERE)
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD")


# --- who does not --------------------------------------------------------------------------------


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Basic YTpi"}, {"Authorization": ""}])
async def test_without_credentials_only_the_scheme_is_named(
    sqlite_world: World, headers: dict[str, str]
) -> None:
    """RFC 6750 §3: no error code in the challenge."""
    answer = await ask(sqlite_world, headers)
    assert_refused(answer, 401, "invalid_request")
    assert answer.headers["www-authenticate"] == 'Bearer realm="token-server"'


async def test_junk_is_refused(sqlite_world: World) -> None:
    """I168: an API key as a bearer token and a JWT as a key, too: by their form."""
    junk = ("junk", "a.b.c", "eyJhbGciOiJub25lIn0.e30.", "rt_" + "A" * 80, "tsk_" + "A" * 65)
    token = await sqlite_world.machine_token()
    for headers in (*map(bearer, (*junk, "x" * 6000)), *({"X-API-Key": t} for t in (*junk, token))):
        answer = await ask(sqlite_world, headers, {})
        assert_refused(answer, 401, "invalid_token")
        assert answer.headers["www-authenticate"] == INVALID_TOKEN


async def test_malformed_credentials_are_a_401(sqlite_world: World) -> None:
    """Not RFC 6750's 400: nginx makes a 500 of that, and a client could do nothing with it."""
    token = await sqlite_world.machine_token()
    key = ("X-API-Key", "tsk_x")
    good = ("Authorization", f"Bearer {token}")
    for headers in (
        [good, good],
        [good, ("Authorization", "Basic YTpi")],
        [good, key],
        [("Authorization", "Basic YTpi"), key],
        [key, key],
        [("Authorization", f"Bearer {token},Bearer {token}")],
        [("Authorization", "Bearer")],
        [("Authorization", f"Bearer {token} x")],
    ):
        answer = await ask(sqlite_world, headers)
        assert_refused(answer, 401, "invalid_request")
        assert 'error="invalid_request"' in answer.headers["www-authenticate"]


async def test_token_for_another_audience_does_not_pass(sqlite_world: World) -> None:
    """RFC 9068 §4: also where the operator names none, and DEFAULT_AUDIENCE counts."""
    token = await sqlite_world.machine_token()
    for query in ({}, {"audience": "https://stock.example"}):
        answer = await ask(sqlite_world, bearer(token), query)
        assert_refused(answer, 401, "invalid_token")
    login = {"email": EMAIL, "password": "correct horse battery staple"}
    own = (await sqlite_world.server.http.post("/api/auth/login", json=login)).json()
    told = identity(await ask(sqlite_world, bearer(own["access_token"]), {}))
    assert told["client-id"] == "account"


async def test_missing_scope_is_a_403_that_names_it(sqlite_world: World) -> None:
    """RFC 6750 §3.1: all of them are needed, repeated or separated by spaces."""
    token = (await sqlite_world.server.login("app", scope="orders:read"))["access_token"]
    assert identity(await ask(sqlite_world, bearer(token), {**HERE, "scope": "orders:read"}))
    for wanted in ("orders:read orders:write", ["orders:read", "orders:write"]):
        answer = await ask(sqlite_world, bearer(token), {**HERE, "scope": wanted})
        assert_refused(answer, 403, "insufficient_scope")
        assert 'scope="orders:read orders:write"' in answer.headers["www-authenticate"]


async def test_one_of_the_roles_suffices_and_counts_as_it_is_now(world: World) -> None:
    """A role that was taken away is gone at once; one that was given comes with the next token."""
    runtime = world.server.runtime
    await set_roles(runtime, EMAIL, ["clerk"])
    headers = bearer((await world.server.login("app"))["access_token"])
    wanted = {**HERE, "role": ["boss", "clerk"]}
    assert identity(await ask(world, headers, wanted))["roles"] == "clerk"
    answer = await ask(world, headers, {**HERE, "role": "boss"})
    assert_refused(answer, 403, "insufficient_scope")
    assert "scope=" not in answer.headers["www-authenticate"]
    await set_roles(runtime, EMAIL, ["boss"])
    assert_refused(await ask(world, headers, wanted), 403, "insufficient_scope")
    assert identity(await ask(world, headers))["roles"] == ""


async def test_what_has_ended_is_refused_at_once(world: World) -> None:
    """Session, user, client, restored backup: no cache stands between."""
    runtime, clock = world.server.runtime, world.server.clock

    async def status(token: str) -> int:
        return (await ask(world, bearer(token))).status_code

    tokens = [(await world.server.login("app"))["access_token"] for _ in range(3)]
    machine = await world.machine_token("meter")
    assert [await status(token) for token in (*tokens, machine)] == [200] * 4
    await revoke_session(runtime, claims_of(tokens[0])["sid"])
    assert await status(tokens[0]) == 401
    await world.give_back("meter", machine)
    assert await status(machine) == 401
    assert await status(tokens[1]) == 200
    await disable_user(runtime, EMAIL)
    assert await status(tokens[1]) == 401
    other = await world.machine_token("meter")
    await mark_restored(runtime)
    assert await status(other) == 401
    last = await world.machine_token("billing")
    assert await status(last) == 200
    clock.advance(900)
    assert await status(last) == 401


async def test_identity_that_would_break_a_header_is_nobody(sqlite_world: World) -> None:
    """Signed by us all the same: refused rather than cut, escaped or sent on."""
    claims = claims_of(await sqlite_world.machine_token())
    for subject in ("a\r\nX-Auth-Roles: boss", "ünï", "a  b", " a", "\u2028"):
        token = sqlite_world.signed({**claims, "sub": subject, "client_id": subject})
        assert_refused(await ask(sqlite_world, bearer(token)), 401, "invalid_token")


async def test_database_away_is_a_503(postgres_url: str, shared_keys: Path, tmp_path: Path) -> None:
    """Fails closed; junk is refused without a query, so also then."""
    copy_keys(shared_keys, tmp_path)
    async with running_server(make_settings(postgres_url, tmp_path)) as server:
        world = await World.make(server)
        headers = bearer(await world.machine_token())
        async with database_away(postgres_url):
            answer = await ask(world, headers)
            assert (answer.status_code, answer.json()["error"]) == (503, "temporarily_unavailable")
            assert int(answer.headers["retry-after"]) > 0
            assert_refused(await ask(world, bearer("a.b.c")), 401, "invalid_token")


# --- the operator's query ------------------------------------------------------------------------


async def test_query_that_is_not_understood_lets_nobody_pass(
    sqlite_world: World, capfd: pytest.CaptureFixture[str]
) -> None:
    """A misspelt demand is no demand: 400, which nginx turns into a 500, and a warning in the
    log."""
    headers = bearer(await sqlite_world.machine_token())
    for query in MISUNDERSTOOD:
        capfd.readouterr()
        answer = await sqlite_world.server.http.get(f"{PATH}?{query}", headers=headers)
        assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request"), query
        assert "x-auth-subject" not in answer.headers
        lines = capfd.readouterr().err.splitlines()
        logged = [line for line in lines if '"forward_auth_misconfigured"' in line]
        assert len(logged) == 1
        assert "orders" not in logged[0]


@given(
    st.one_of(
        st.binary(max_size=200),
        st.lists(st.sampled_from(PIECES), max_size=12).map(b"".join),
    )
)
def test_any_query_is_a_demand_or_an_error_of_the_operators(query: bytes) -> None:
    """Nothing else is raised; whatever is demanded was written, and is in the grammar."""
    try:
        demand = read_demand(query, AUDIENCE)
    except ProxyConfigurationError:
        return
    names = {part.partition(b"=")[0] for part in query.split(b"&")} if query else set()
    assert (b"scope" in names) == bool(demand.scope)
    assert (b"role" in names) == bool(demand.roles)
    assert (b"token_audience" in names) == (demand.token_audience is not None)
    for audience in (demand.audience, demand.token_audience or AUDIENCE):
        assert audience_problem(audience) is None


# --- byte for byte -------------------------------------------------------------------------------


def test_strange_bytes_in_headers_are_refused(edge: EdgeServer) -> None:
    """Control characters, other encodings, very long values: 4xx, never a 5xx, nothing echoed."""
    for value in ("Bearer a\tb", "Bearer \xe9", "Bearer " + "x" * 9000, "\x00", "Bearer a\r\n b"):
        for name in ("Authorization", "X-API-Key", "X-Forward-Auth-Client"):
            try:
                answer = edge.wire.request("GET", f"{PATH}?audience={AUDIENCE}", [(name, value)])
            except ConnectionError:
                continue
            assert answer.status in (400, 401, 431), (name, value[:20], answer)
            assert "x-auth-subject" not in dict(answer.headers)


def test_inbound_identity_headers_mean_nothing(edge: EdgeServer) -> None:
    """They are what a spoofer sends, and are not looked at."""
    token = edge.machine_token().json()["access_token"]
    spoofed = [(f"X-Auth-{name}", "root") for name in NAMES]
    target = f"{PATH}?audience={AUDIENCE}"
    assert edge.wire.request("GET", target, spoofed).status == 401
    answer = edge.wire.request("GET", target, [("Authorization", f"Bearer {token}"), *spoofed])
    assert answer.status == 200
    assert not [value for name, value in answer.headers if value == "root"]
    assert answer.values("x-auth-subject") == ["billing"]


def test_route_is_counted_under_its_name(edge: EdgeServer) -> None:
    """Metrics: closed lists of labels."""
    edge.wire.request("GET", f"{PATH}?nonsense")
    edge.wire.request("GET", PATH)
    body = edge.server.runtime.metrics.render()[0].decode()
    assert 'token_server_forward_auths_total{outcome="misconfigured"}' in body
    assert 'token_server_forward_auths_total{outcome="no_credentials"}' in body
    assert f'route="{PATH}",status="4xx"' in body
