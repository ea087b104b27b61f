"""`/oauth2/status-lists` over sockets (draft-ietf-oauth-status-list-21 §8, §9)."""

import re
from pathlib import Path

import jwt
import pytest

from tests.support.contract import Contract
from tests.support.server import (
    ISSUER,
    RunningServer,
    copy_keys,
    make_settings,
    running_server,
    serving,
)
from tests.support.status_lists import ReadList, read_list
from tests.web.conftest import EdgeServer
from token_server.core.status_list import ListName, Position
from token_server.runtime import open_runtime
from token_server.services.maintenance import mark_restored
from token_server.services.sessions import revoke_session
from token_server.storage import status

PATH = "/oauth2/status-lists"
S0 = PATH + "/s0"
APP = {"grant_types": ("password", "refresh_token"), "is_public": True}
CACHED = "public, max-age=10, no-transform"


async def fetch(server: RunningServer, path: str = S0) -> ReadList:
    jwks = (await server.http.get("/.well-known/jwks.json")).json()
    answer = await server.http.get(path)
    assert answer.status_code == 200, answer.text
    return read_list(answer.text, jwks, server.clock.now())


def claims_of(token: str) -> dict[str, object]:
    return jwt.decode(token, options={"verify_signature": False})


def entry_of(token: str) -> tuple[str, int]:
    """Path and index that the token's `status` claim names."""
    named = claims_of(token)["status"]
    assert isinstance(named, dict)
    assert named.keys() == {"status_list"}
    assert named["status_list"].keys() == {"idx", "uri"}
    uri = named["status_list"]["uri"]
    assert uri.startswith(ISSUER + "/")
    return uri.removeprefix(ISSUER), named["status_list"]["idx"]


async def test_ended_session_is_a_set_bit_for_all_its_tokens(server: RunningServer) -> None:
    """Every access token of a session stands at the same entry; another session's does not."""
    await server.add_client("app", **APP)
    await server.add_user()
    tokens, others = await server.login(), await server.login()
    refreshed = (await server.refresh(tokens["refresh_token"])).json()
    path, index = entry_of(tokens["access_token"])
    assert entry_of(refreshed["access_token"]) == (path, index)
    assert (await fetch(server, path)).revoked == set()
    await revoke_session(server.runtime, str(claims_of(tokens["access_token"])["sid"]))
    server.clock.advance(1)
    assert (await fetch(server, path)).revoked == {index}
    assert entry_of(others["access_token"])[1] != index


async def test_machine_token_has_an_entry_when_its_client_is_revocable(
    server: RunningServer,
) -> None:
    """One entry for each token; without the switch no claim, and no list of machine tokens."""
    await server.add_client("batch", grant_types=("client_credentials",))
    plain = (await server.token("batch", grant_type="client_credentials")).json()
    assert "status" not in claims_of(plain["access_token"])
    assert (await server.http.get(PATH)).json()["status_lists"] == [ISSUER + S0]

    await server.add_client("bank", grant_types=("client_credentials",), is_revocable=True)
    tokens = [
        (await server.token("bank", grant_type="client_credentials")).json()["access_token"]
        for _ in range(3)
    ]
    entries = [entry_of(token) for token in tokens]
    assert len(set(entries)) == 3
    path, index = entries[1]
    server.clock.advance(1)
    assert (await server.http.get(PATH)).json()["status_lists"] == [ISSUER + path, ISSUER + S0]
    assert (await fetch(server, path)).revoked == set()
    number = server.runtime.status.number_at(Position(ListName("m", 0), index))
    async with server.runtime.store.write() as connection:
        await status.revoke_machine_token(connection, number, server.clock.now())
    server.clock.advance(1)
    assert (await fetch(server, path)).revoked == {index}


async def test_two_processes_serve_the_same_lists(
    database_url: str, shared_keys: Path, tmp_path: Path
) -> None:
    """What one revokes, the other says within a second; a list that one of them has begun is
    there at the other at once."""
    copy_keys(shared_keys, tmp_path)
    settings = make_settings(database_url, tmp_path)
    async with (
        running_server(settings) as server,
        open_runtime(settings, clock=server.clock) as other,
        serving(other) as base_url,
    ):
        await server.add_client("app", **APP)
        await server.add_user()
        token = (await server.login())["access_token"]
        path, index = entry_of(token)
        jwks = (await server.http.get("/.well-known/jwks.json")).json()
        first = await server.http.get(base_url + path)
        assert read_list(first.text, jwks, server.clock.now()).revoked == set()
        await revoke_session(server.runtime, str(claims_of(token)["sid"]))
        server.clock.advance(1)
        for url in (base_url + path, path):
            answer = await server.http.get(url)
            assert read_list(answer.text, jwks, server.clock.now()).revoked == {index}


async def test_restored_backup_revokes_all_older_tokens(server: RunningServer) -> None:
    """Also a running server says so; a session that begins afterwards is good (refresh.md 11)."""
    await server.add_client("app", **APP)
    await server.add_user()
    path, _ = entry_of((await server.login())["access_token"])
    assert (await fetch(server, path)).revoked == set()
    await mark_restored(server.runtime)
    server.clock.advance(1)
    assert len((await fetch(server, path)).revoked) == 131_072
    newer, newer_index = entry_of((await server.login())["access_token"])
    assert newer != path
    assert newer_index not in (await fetch(server, newer)).revoked
    assert (await server.http.get(PATH)).json()["status_lists"] == [ISSUER + newer]


def test_list_headers_are_exact(edge: EdgeServer) -> None:
    """Cacheable for one `ttl` and not a second longer, readable by every origin (§8.1)."""
    answer = edge.wire.request("GET", S0)
    assert answer.status == 200
    assert answer.values("content-type") == ["application/statuslist+jwt"]
    assert answer.values("cache-control") == [CACHED]
    assert answer.values("access-control-allow-origin") == ["*"]
    assert answer.values("access-control-allow-credentials") == []
    assert answer.values("set-cookie") == []
    assert answer.values("content-length") == [str(len(answer.body))]
    assert re.fullmatch(r'"[0-9a-f]{32}"', answer.values("etag")[0])
    assert len(answer.body) < 1200, "an empty list is small"


def test_aggregation_names_every_list(edge: EdgeServer) -> None:
    """§9.3: one member, an array of URIs; under the name that the metadata gives."""
    answer = edge.wire.request("GET", PATH)
    assert answer.json() == {"status_lists": [ISSUER + S0]}
    assert answer.values("content-type") == ["application/json"]
    assert answer.values("cache-control") == [CACHED]
    assert answer.values("access-control-allow-origin") == ["*"]
    metadata = edge.wire.request("GET", "/.well-known/oauth-authorization-server").json()
    assert metadata["status_list_aggregation_endpoint"] == ISSUER + PATH


@pytest.mark.parametrize("path", [PATH, S0])
def test_unchanged_list_is_304_and_head_has_no_body(edge: EdgeServer, path: str) -> None:
    """RFC 9110 §13.1.2, §9.3.2: nothing is sent twice."""
    got = edge.wire.request("GET", path)
    etag = got.values("etag")[0]
    again = edge.wire.request("GET", path, [("If-None-Match", etag)])
    assert (again.status, again.body, again.values("etag")) == (304, b"", [etag])
    headed = edge.wire.request("HEAD", path)
    assert (headed.status, headed.body, headed.values("etag")) == (200, b"", [etag])
    assert headed.values("content-length") == [str(len(got.body))]


@pytest.mark.parametrize(
    "name",
    ["s2", "m1", "s00", "x0", "s-1", "S0", "s0/s0", "s0%2Fs0", "%73", "s" + "9" * 40, "..s"],
)
def test_list_that_never_was_is_404(edge: EdgeServer, name: str) -> None:
    """In the shape of /oauth2, not to be cached, and without a look at anything slow."""
    answer = edge.wire.request("GET", f"{PATH}/{name}")
    assert answer.status == 404
    assert answer.json()["error"] == "invalid_request"
    assert answer.values("cache-control") == ["no-store"]


@pytest.mark.parametrize("path", [PATH, S0])
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_lists_are_only_read(edge: EdgeServer, method: str, path: str) -> None:
    """RFC 9110 §15.5.6."""
    answer = edge.wire.request(method, path)
    assert answer.status == 405
    assert answer.values("allow") == ["GET, HEAD, OPTIONS"]


def test_other_origins_may_ask_first(edge: EdgeServer) -> None:
    """A preflight, for verifiers in browsers."""
    origin = [("Origin", "https://app.example"), ("Access-Control-Request-Method", "GET")]
    answer = edge.wire.request("OPTIONS", S0, origin)
    assert (answer.status, answer.values("access-control-allow-origin")) == (204, ["*"])


async def test_lists_answer_as_documented(sqlite_server: RunningServer) -> None:
    """Each documented answer is seen, and no other (OpenAPI)."""
    server = sqlite_server
    contract = Contract((await server.http.get("/openapi.json")).json())
    for path in (PATH, S0):
        etag = contract.check(await server.http.get(path)).headers["etag"]
        contract.check(await server.http.get(path, headers={"If-None-Match": etag}))
    contract.check(await server.http.get(PATH + "/s9"))
    server.clock.advance(101)
    await server.runtime.store.close()
    for path in (PATH, S0):
        assert contract.check(await server.http.get(path)).headers["retry-after"] == "1"
    documented = {
        (operation["operationId"], int(status))
        for _, _, operation in contract.operations()
        if "status lists" in operation["tags"]
        for status in operation["responses"]
        if status != "500"
    }
    assert contract.seen == documented
