"""Forward authentication through real nginx, Caddy and Traefik, from the files in docs/deploy."""

import asyncio
import base64
import contextlib
import json
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
import pytest_asyncio

from tests.support.databases import SqliteFiles
from tests.support.proxies import MISSING, NAME, PROXIES, find_proxy, running_proxy
from tests.support.server import (
    AUDIENCE,
    EMAIL,
    ISSUER,
    RunningServer,
    copy_keys,
    make_settings,
    running_server,
)
from tests.support.token_state import claims_of
from token_server.core.client_policy import ACCOUNT_CLIENT_ID, TOKEN_EXCHANGE
from token_server.records import User
from token_server.services.client_changes import ClientChanges, change_client
from token_server.services.clients import disable_client, enable_client
from token_server.services.own_api_keys import NewApiKey, create_api_key, revoke_api_key
from token_server.services.request_context import RequestContext
from token_server.services.sessions import revoke_session
from token_server.services.user_profile import set_roles
from token_server.verify import StaticKeySet, Verifier

BILLING = "https://billing.example"
GATEWAY = "shop-gateway"
SCOPES = ("orders:read", "orders:write")
pytestmark = pytest.mark.asyncio(loop_scope="module")

IDENTITY = ("subject", "client-id", "scope", "roles", "session", "actor", "api-key-id")
Headers = list[tuple[str, str]]


class Upstream:
    """The services behind: they tell which headers have reached them, and keep count."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.requests = 0


@dataclass(frozen=True, slots=True)
class Shop:
    """A proxy in front of one upstream; the server's own client is `server.http`."""

    kind: str
    server: RunningServer
    user: User
    upstream: Upstream
    http: httpx.AsyncClient

    async def get(self, path: str, headers: Headers | None = None) -> httpx.Response:
        return await self.http.get(path, headers=headers)

    async def reached(self, path: str, headers: Headers) -> dict[str, list[str]]:
        """The headers that reached the service, by name in lower case with `-` for `_`, which is
        how CGI, WSGI and PHP read them."""
        answer = await self.get(path, headers)
        assert answer.status_code == 200, (answer.status_code, answer.text)
        found: dict[str, list[str]] = {}
        for name, value in answer.json()["headers"]:
            found.setdefault(name.lower().replace("_", "-"), []).append(value)
        return found

    async def assert_stopped(
        self, status: int, path: str, headers: Headers | None = None
    ) -> httpx.Response:
        before = self.upstream.requests
        answer = await self.get(path, headers)
        assert answer.status_code == status, (answer.status_code, answer.text)
        assert self.upstream.requests == before
        return answer


@contextlib.contextmanager
def running_upstream() -> Iterator[Upstream]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            upstream.requests += 1
            sent = self._body()
            body = {"headers": self.headers.items(), "path": self.path, "body": sent.decode()}
            encoded = json.dumps(body).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(encoded)))
            self.end_headers()
            self.wfile.write(encoded)

        do_POST = do_GET  # noqa: N815 - the standard library's names

        def _body(self) -> bytes:
            if "Transfer-Encoding" not in self.headers:
                return self.rfile.read(int(self.headers.get("Content-Length", "0")))
            chunks = []
            while size := int(self.rfile.readline(), 16):
                chunks.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(chunks)

        def log_message(self, *_: object) -> None:
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.daemon_threads = True  # proxies keep their connections open
    upstream = Upstream(f"127.0.0.1:{httpd.server_address[1]}")
    thread = threading.Thread(target=httpd.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield upstream
    finally:
        httpd.shutdown()
        httpd.server_close()
        thread.join()


@pytest.fixture(scope="module", params=PROXIES)
def proxy(request: pytest.FixtureRequest) -> tuple[str, str]:
    """Its name and its program; a visible skip where it is not installed."""
    kind = str(request.param)
    program = find_proxy(kind)
    if program is None:
        pytest.skip(MISSING[kind])
    return kind, program


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shop(
    proxy: tuple[str, str],
    sqlite_files: SqliteFiles,
    shared_keys: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Shop]:
    """One for all tests of a proxy: three programs are slow to start."""
    directory = tmp_path_factory.mktemp(f"shop-{proxy[0]}")
    copy_keys(shared_keys, directory)
    settings = make_settings(sqlite_files.create(directory), directory, default_audience=AUDIENCE)
    async with running_server(settings) as server:
        user = await register(server)
        credentials = f"{GATEWAY}:{server.secrets[GATEWAY]}"
        address = urlsplit(server.base_url).netloc
        with running_upstream() as upstream:
            async with running_front(proxy, directory, address, upstream, credentials) as http:
                yield Shop(proxy[0], server, user, upstream, http)


@contextlib.asynccontextmanager
async def running_front(
    proxy: tuple[str, str],
    directory: Path,
    token_server: str,
    upstream: Upstream,
    credentials: str = "x:y",
) -> AsyncIterator[httpx.AsyncClient]:
    """The proxy between these addresses; a client that speaks to it."""
    kind, program = proxy
    names = {
        "token-server:8080": token_server,
        "orders:8001": upstream.address,
        "billing:8002": upstream.address,
    }
    client = base64.b64encode(credentials.encode()).decode()
    host = {} if kind == "caddy" else {"Host": NAME}
    with running_proxy(kind, program, directory, names, client) as url:
        async with httpx.AsyncClient(base_url=url, headers=host, timeout=30) as http:
            for _ in range(200):
                if (await http.get("/orders/1")).text != "404 page not found\n":
                    break
                await asyncio.sleep(0.05)  # Traefik listens before it has read its routes
            yield http


async def register(server: RunningServer) -> User:
    here = {"audiences": (AUDIENCE,), "default_audience": (AUDIENCE,), "scopes": SCOPES}
    await server.add_client(
        "app", is_public=True, grant_types=("password", "refresh_token"), **here
    )
    await server.add_client("billing", grant_types=("client_credentials",), **here)
    await server.add_client(
        GATEWAY,
        grant_types=(TOKEN_EXCHANGE,),
        scopes=SCOPES,
        serves_audiences=(AUDIENCE,),
        exchange_audiences=(BILLING,),
    )
    await change_client(server.runtime, ACCOUNT_CLIENT_ID, ClientChanges(scopes=SCOPES))
    user = await server.add_user()
    await set_roles(server.runtime, EMAIL, ["clerk"])
    return user


def bearer(token: str) -> Headers:
    return [("Authorization", f"Bearer {token}")]


async def login(shop: Shop, **form: str) -> str:
    return str((await shop.server.login("app", **form))["access_token"])


async def machine_token(shop: Shop) -> str:
    answer = await shop.server.token("billing", grant_type="client_credentials")
    return str(answer.json()["access_token"])


async def api_key(shop: Shop) -> tuple[str, str]:
    """Its id and its text."""
    context = RequestContext(shop.server.clock.now(), "test")
    new = NewApiKey("reports", ("orders:read",), None)
    key, text = await create_api_key(shop.server.runtime, shop.user, new, context)
    return key.key_id, text.reveal()


def told(headers: Mapping[str, list[str]]) -> dict[str, str]:
    """The identity as the service sees it, each header at most once; absent and empty are one."""
    assert all(len(values) == 1 for values in headers.values()), headers
    return {name: headers.get(f"x-auth-{name}", [""])[0] for name in IDENTITY}


async def test_without_a_good_token_nothing_reaches_the_service(shop: Shop) -> None:
    """401 with the challenge of RFC 6750 §3, 403 for a missing scope; whatever the query says."""
    none = await shop.assert_stopped(401, "/orders/1")
    assert none.headers["www-authenticate"] == 'Bearer realm="token-server"'
    for headers in (
        bearer("junk"),
        [*bearer(await login(shop)), ("X-API-Key", "tsk_x")],
        [("X-API-Key", await login(shop))],
        [("Cookie", "access_token=x")],
    ):
        await shop.assert_stopped(401, "/orders/1", headers)
    bad = await shop.assert_stopped(401, "/orders/1?audience=x&scope=", bearer("a.b.c"))
    assert 'error="invalid_token"' in bad.headers["www-authenticate"]
    narrow = bearer(await login(shop, scope="orders:write"))
    missing = await shop.assert_stopped(403, "/orders/1?scope=orders:write", narrow)
    assert len(missing.headers.get_list("www-authenticate")) == 1
    assert 'error="insufficient_scope"' in missing.headers["www-authenticate"]
    assert missing.headers["www-authenticate"].endswith('scope="orders:read"')


async def test_identity_reaches_the_service_and_the_token_does_not(shop: Shop) -> None:
    """Whatever else the request's own query asks for."""
    token = await login(shop)
    headers = await shop.reached("/orders/1?audience=x&role=boss", bearer(token))
    claims = claims_of(token)
    assert told(headers) == {
        "subject": claims["sub"],
        "client-id": "app",
        "scope": "orders:read orders:write",
        "roles": "clerk",
        "session": claims["sid"],
        "actor": "",
        "api-key-id": "",
    }
    assert headers.get("authorization", [""]) == [""]


async def test_request_keeps_its_method_query_and_body(shop: Shop) -> None:
    """The question has no body, whether the request's has a length or comes in chunks; a length
    without a body would leave the server waiting, and take the next request for it."""

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(5):
            yield b"x" * 1000

    token = await login(shop)
    for content in (b"x" * 5000, chunks(), b""):
        path = "/orders/new?a=b&audience=c"
        posted = await shop.http.post(path, content=content, headers=bearer(token))
        assert posted.status_code == 200, posted.text
        assert posted.json()["body"] == ("" if content == b"" else "x" * 5000)
        assert posted.json()["path"] == path
        await shop.reached("/orders/1", bearer(token))


@pytest.mark.parametrize("path", ["/orders/1", "/billing/1"])
async def test_spoofed_identity_never_reaches_the_service(shop: Shop, path: str) -> None:
    """In whatever spelling a server might take for ours; also where we say nothing of our own."""
    token = await machine_token(shop)
    spellings = ("X-Auth-{}", "x-auth-{}", "X_Auth_{}", "X-Auth_{}", "x_AUTH-{}")
    names = ("Subject", "Client-Id", "Scope", "Roles", "Session", "Actor", "Api-Key-Id")
    spoofed = [
        (spelling.format(variant), "root")
        for spelling in spellings
        for name in names
        for variant in {name, name.replace("-", "_")}
    ]
    client = [("X-Forward-Auth-Client", "Basic cm9vdDpyb290")]
    headers = await shop.reached(path, [*bearer(token), *spoofed, *client])
    assert not [name for name, values in headers.items() if "root" in ",".join(values)]
    assert told(headers)["subject"] == "billing"
    assert (told(headers)["session"], told(headers)["roles"]) == ("", "")
    assert not headers.get("x-forward-auth-client", [""])[0]
    await shop.assert_stopped(401, path, [*spoofed, *client])


async def test_headers_named_as_hop_by_hop_make_nobody_of_somebody(shop: Shop) -> None:
    """`Connection: X-Auth-Subject` (RFC 9110 §7.6.1): a proxy may drop the header then, never pass
    on another one; without credentials it stays a 401."""
    for name in ("X-Auth-Subject", "X-Auth-Roles", "X-Forward-Auth-Client"):
        hop = [("Connection", f"close, {name}"), (name, "root")]
        headers = await shop.reached("/orders/1", [*bearer(await login(shop)), *hop])
        assert "root" not in told(headers).values()
    hop = [("Connection", "close, Authorization")]
    answer = await shop.get("/orders/1", [*bearer("junk"), *hop])
    assert answer.status_code == 401


async def test_ended_session_is_refused_at_once(shop: Shop) -> None:
    """The next request after the revocation."""
    token = await login(shop)
    for path in ("/orders/1", "/billing/1"):
        await shop.reached(path, bearer(token))
    await revoke_session(shop.server.runtime, claims_of(token)["sid"])
    for path in ("/orders/1", "/billing/1"):
        await shop.assert_stopped(401, path, bearer(token))


async def test_api_key_passes_until_it_is_revoked(shop: Shop) -> None:
    """Its owner, its scopes, its id; the key itself stays at the proxy."""
    key_id, text = await api_key(shop)
    headers = await shop.reached("/orders/1", [("X-API-Key", text)])
    assert told(headers) == {
        "subject": shop.user.user_id,
        "client-id": "",
        "scope": "orders:read",
        "roles": "",
        "session": "",
        "actor": "",
        "api-key-id": key_id,
    }
    assert not headers.get("x-api-key", [""])[0]
    fresh = await shop.reached("/billing/1", [("X-API-Key", text)])
    assert fresh["authorization"][0].startswith("Bearer ey")
    context = RequestContext(shop.server.clock.now(), "test")
    await revoke_api_key(shop.server.runtime, shop.user, key_id, context)
    for path in ("/orders/1", "/billing/1"):
        await shop.assert_stopped(401, path, [("X-API-Key", text)])


async def test_fresh_token_is_good_at_the_service(shop: Shop) -> None:
    """For its audience alone, for the same user and session, with the proxy's client acting."""
    token = await login(shop)
    headers = await shop.reached("/billing/1", bearer(token))
    scheme, _, fresh = headers["authorization"][0].partition(" ")
    jwks = (await shop.server.http.get("/.well-known/jwks.json")).content
    verifier = Verifier(
        issuer=ISSUER,
        audience=BILLING,
        keys=StaticKeySet.from_jwks(jwks),
        clock=shop.server.clock.now,
    )
    claims = verifier.verify_sync(fresh)
    assert (scheme, fresh == token) == ("Bearer", False)
    assert claims.audience == (BILLING,)
    assert claims.subject == shop.user.user_id
    assert claims.session_id == claims_of(token)["sid"]
    assert (claims.client_id, claims.actors) == (GATEWAY, (GATEWAY,))
    assert told(headers)["subject"] == shop.user.user_id


async def test_proxy_that_may_not_have_a_token_stops_everything(shop: Shop) -> None:
    """Its client was disabled: no request passes, and none is told that its token is bad."""
    token = await login(shop)
    await shop.reached("/billing/1", bearer(token))
    await disable_client(shop.server.runtime, GATEWAY)
    shop.server.clock.advance(10)  # longer than clients are cached
    await shop.assert_stopped(500 if shop.kind == "nginx" else 400, "/billing/1", bearer(token))
    await shop.reached("/orders/1", bearer(token))
    await enable_client(shop.server.runtime, GATEWAY)


async def test_too_many_wrong_keys_are_a_429(shop: Shop) -> None:
    """With Retry-After, also through nginx, which makes a 500 of it by itself; a good key goes on
    working."""
    (_, good), (key_id, revoked) = await api_key(shop), await api_key(shop)
    context = RequestContext(shop.server.clock.now(), "test")
    await revoke_api_key(shop.server.runtime, shop.user, key_id, context)
    answers: list[httpx.Response] = []
    while not answers or (answers[-1].status_code == 401 and len(answers) < 200):
        answers.append(await shop.get("/orders/1", [("X-API-Key", revoked)]))
    assert answers[-1].status_code == 429
    assert int(answers[-1].headers["retry-after"]) > 0
    await shop.reached("/orders/1", [("X-API-Key", good)])


@pytest.mark.parametrize("status", [302, 400, 404, 500, 503, None])
async def test_whatever_else_the_server_says_lets_nobody_pass(
    proxy: tuple[str, str], tmp_path: Path, status: int | None
) -> None:
    """Fails closed; None: nothing listens there. nginx keeps the 503 with its Retry-After."""
    with running_upstream() as upstream, answering(status) as address:
        async with running_front(proxy, tmp_path, address, upstream) as http:
            for path in ("/orders/1", "/billing/1"):
                answer = await http.get(path, headers=bearer("any"))
                assert answer.status_code >= 300, answer.text
                if status == 503:
                    assert (answer.status_code, answer.headers["retry-after"]) == (503, "7")
                if proxy[0] == "nginx":
                    assert answer.status_code == (503 if status == 503 else 500)
        assert upstream.requests == 0


async def test_answer_without_identity_does_not_let_a_spoofed_one_through(
    proxy: tuple[str, str], tmp_path: Path
) -> None:
    """As if the server were an older one that does not know a header yet."""
    with running_upstream() as upstream, answering(200) as address:
        async with running_front(proxy, tmp_path, address, upstream) as http:
            spoofed = [(f"X-Auth-{name}", "root") for name in IDENTITY]
            answer = await http.get("/orders/1", headers=[*bearer("any"), *spoofed])
    assert answer.status_code == 200
    assert "root" not in answer.text
    assert "any" not in answer.text


@contextlib.contextmanager
def answering(status: int | None) -> Iterator[str]:
    """The address of something that says nothing but this, and Retry-After."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status or 500)
            self.send_header("Retry-After", "7")
            self.send_header("Location", "/orders/1")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        address = f"127.0.0.1:{httpd.server_address[1]}"
        if status is None:
            httpd.server_close()
            yield address
            return
        thread = threading.Thread(target=httpd.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield address
        finally:
            httpd.shutdown()
            thread.join()
