"""TokenAuth in httpx, sync and async: whom the token goes to, and when it is asked for again."""

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpx
import pytest

from tests.support.token_endpoint import (
    Asked,
    Said,
    ScriptedEndpoint,
    granted,
    refused,
    said_json,
    scripted_endpoint,
)
from token_server.client import TokenSource, TokenUnavailableError
from token_server.client_httpx import OriginRefusedError, TokenAuth, is_invalid_token
from token_server.services.demo import AUDIENCES
from token_server.verify import TokenError, Verifier, read_bearer
from token_server.verify.testing import RunningTokenServer, TestIssuer

MakeSource = Callable[..., TokenSource]
[ORDERS] = AUDIENCES
INVALID = {"WWW-Authenticate": 'Bearer realm="x", error="invalid_token"'}


@pytest.fixture
def service() -> Iterator[ScriptedEndpoint]:
    """The service that is called; it takes any token but token-1."""
    with scripted_endpoint() as scripted:
        scripted.answer = lambda asked: (
            Said(401, headers=INVALID)
            if asked.authorization == "Bearer token-1"
            else said_json(200, {"path": asked.path})
        )
        yield scripted


@pytest.fixture(params=["sync", "async"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def send(kind: str, auth: TokenAuth, method: str, url: str, **more: Any) -> httpx.Response:
    """One request by either client, following redirects."""
    if kind == "sync":
        with httpx.Client(auth=auth, follow_redirects=True) as client:
            return client.request(method, url, **more)  # noqa: ASYNC212 - nothing else runs
    async with httpx.AsyncClient(auth=auth, follow_redirects=True) as client:
        return await client.request(method, url, **more)


def bearers(service: ScriptedEndpoint) -> list[str | None]:
    return [asked.authorization for asked in service.asked]


async def test_refused_token_is_replaced_once(
    kind: str, make_source: MakeSource, service: ScriptedEndpoint
) -> None:
    """RFC 6750 3.1: 401 invalid_token, a fresh token, the same request with its body."""
    auth = TokenAuth(make_source(), [service.url])
    answer = await send(kind, auth, "POST", f"{service.url}/orders", data={"id": "5"})
    assert answer.status_code == 200
    assert bearers(service) == ["Bearer token-1", "Bearer token-2"]
    assert [asked.form for asked in service.asked] == [{"id": "5"}, {"id": "5"}]


async def test_service_that_refuses_every_token_is_asked_twice(
    kind: str, make_source: MakeSource, service: ScriptedEndpoint, endpoint: ScriptedEndpoint
) -> None:
    """Its 401 is the answer; further requests are not doubled."""
    service.will_say(Said(401, headers=INVALID))
    auth = TokenAuth(make_source(), [service.url])
    for _ in range(3):
        assert (await send(kind, auth, "GET", service.url)).status_code == 401
    assert len(service.asked) == 2 + 1 + 1
    assert len(endpoint.asked) == 2


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"WWW-Authenticate": "Bearer"},
        {"WWW-Authenticate": 'Bearer error="insufficient_scope"'},
        {"WWW-Authenticate": 'Basic realm="Bearer error=invalid_token"'},
    ],
)
async def test_other_refusal_is_not_answered_with_another_token(
    make_source: MakeSource, service: ScriptedEndpoint, headers: dict[str, str]
) -> None:
    """A fresh token would not help."""
    service.will_say(Said(401, headers=headers))
    auth = TokenAuth(make_source(), [service.url])
    assert (await send("sync", auth, "GET", service.url)).status_code == 401
    assert len(service.asked) == 1


async def test_streamed_body_is_not_sent_twice(
    make_source: MakeSource, service: ScriptedEndpoint
) -> None:
    """A generator is used up: the 401 is the answer, not an exception of httpx."""

    async def body() -> AsyncIterator[bytes]:
        yield b"id=5"

    auth = TokenAuth(make_source(), [service.url])
    headers = {"Content-Length": "4"}
    answer = await send("async", auth, "POST", service.url, content=body(), headers=headers)
    assert answer.status_code == 401
    assert len(service.asked) == 1


async def test_no_fresh_token_leaves_the_refusal_as_the_answer(
    kind: str, make_source: MakeSource, service: ScriptedEndpoint, endpoint: ScriptedEndpoint
) -> None:
    """The token server is away: what the service said is what is known."""
    endpoint.will_say(granted("token-1"), refused(503, "temporarily_unavailable"))
    auth = TokenAuth(make_source(), [service.url])
    assert (await send(kind, auth, "GET", service.url)).status_code == 401


async def test_without_a_token_nothing_is_sent(
    kind: str, make_source: MakeSource, service: ScriptedEndpoint, endpoint: ScriptedEndpoint
) -> None:
    """The source's error leaves as it is."""
    endpoint.will_say(refused(503, "temporarily_unavailable"))
    with pytest.raises(TokenUnavailableError):
        await send(kind, TokenAuth(make_source(), [service.url]), "GET", service.url)
    assert service.asked == []


async def test_token_goes_to_no_other_origin(
    kind: str, make_source: MakeSource, service: ScriptedEndpoint, endpoint: ScriptedEndpoint
) -> None:
    """Another port is another origin: refused before anything is sent, the token not even got."""
    auth = TokenAuth(make_source(), [service.url])
    with scripted_endpoint() as elsewhere:
        for url in (elsewhere.url, service.url.replace("127.0.0.1", "localhost")):
            with pytest.raises(OriginRefusedError):
                await send(kind, auth, "GET", url)
        assert elsewhere.asked == []
    assert service.asked == []
    assert endpoint.asked == []


async def test_token_does_not_follow_a_redirect_to_another_origin(
    kind: str, make_source: MakeSource, service: ScriptedEndpoint
) -> None:
    """httpx follows, without the header."""
    with scripted_endpoint() as elsewhere:
        elsewhere.will_say(said_json(200, {}))
        service.will_say(Said(307, headers={"Location": f"{elsewhere.url}/stolen"}))
        auth = TokenAuth(make_source(), [service.url])
        assert (await send(kind, auth, "GET", service.url)).status_code == 200
        assert bearers(elsewhere) == [None]


async def test_token_does_not_go_to_whom_a_redirect_led_when_refused_there(
    kind: str, make_source: MakeSource, service: ScriptedEndpoint
) -> None:
    """Another origin that answers 401 invalid_token fishes for a token, and gets none."""
    with scripted_endpoint() as elsewhere:
        elsewhere.will_say(Said(401, headers=INVALID))
        service.will_say(Said(307, headers={"Location": f"{elsewhere.url}/stolen"}))
        auth = TokenAuth(make_source(), [service.url])
        assert (await send(kind, auth, "GET", service.url)).status_code == 401
        assert set(bearers(elsewhere)) == {None}


def test_origins_are_the_sources_resource_by_default(make_source: MakeSource) -> None:
    """What the token is for is where it goes (RFC 8707)."""
    auth = TokenAuth(make_source(resource="https://orders.example/api"))
    request = httpx.Request("GET", "https://orders.example:443/api/5")
    assert next(auth.sync_auth_flow(request)).headers["Authorization"] == "Bearer token-1"
    with pytest.raises(OriginRefusedError):
        next(auth.sync_auth_flow(httpx.Request("GET", "http://orders.example/api/5")))


@pytest.mark.parametrize(
    "origins",
    [
        [],
        "https://orders.example",
        ["http://orders.example"],
        ["orders.example"],
        ["urn:orders"],
        ["http://127.evil.example"],
        ["https://x:port"],
    ],
)
def test_unsafe_origins_are_refused(make_source: MakeSource, origins: Any) -> None:
    """A token needs a named place, and https unless it is this machine."""
    with pytest.raises(ValueError, match="origin"):
        TokenAuth(make_source(), origins)


@pytest.mark.parametrize(
    ("challenges", "is_invalid"),
    [
        ('Bearer error="invalid_token"', True),
        ("bearer ERROR=invalid_token", True),
        ('Bearer realm="a, b", error = "invalid_token", error_description="x"', True),
        ('Basic realm="x", Bearer realm="y", error="invalid_token"', True),
        ('Negotiate YWJj==, Bearer error="invalid_token"', True),
        ('Bearer error="invalid_token_x"', False),
        ('Bearer error_description="error=invalid_token"', False),
        ('Bearer realm="Bearer error=\\"invalid_token\\""', False),
        ('Bearer realm="x", Basic error="invalid_token"', False),
        ('error="invalid_token"', False),
        ("", False),
        ('"' * 5000, False),
        (" " * 5000 + "Bearer", False),
    ],
)
def test_challenge_is_read_by_its_grammar(challenges: str, *, is_invalid: bool) -> None:
    """RFC 9110 11.6.1: several challenges in one header, quoted strings that look like one."""
    assert is_invalid_token(challenges) is is_invalid


def verifying(verifier: Verifier) -> Callable[[Asked], Said]:
    """A service that looks at what it is sent."""

    def answer(asked: Asked) -> Said:
        try:
            claims = verifier.verify_sync(read_bearer([asked.authorization or ""]) or "")
        except TokenError as error:
            return Said(error.status, headers={"WWW-Authenticate": error.www_authenticate})
        return said_json(200, {"subject": claims.subject})

    return answer


async def test_after_a_compromise_the_next_request_heals_itself(
    kind: str, make_source: MakeSource, service: ScriptedEndpoint, endpoint: ScriptedEndpoint
) -> None:
    """The withdrawn key's token is refused by a service that verifies, a new one is fetched."""
    issuer = TestIssuer()
    service.answer = verifying(issuer.verifier())
    endpoint.answer = lambda _: granted(issuer.token())
    auth = TokenAuth(make_source(), [service.url])
    assert (await send(kind, auth, "GET", service.url)).status_code == 200
    issuer.compromised()
    assert (await send(kind, auth, "GET", service.url)).status_code == 200
    assert len(service.asked) == 3


async def test_token_of_the_real_server_opens_a_service(
    kind: str, token_server: RunningTokenServer, service: ScriptedEndpoint
) -> None:
    """From the client's secret to the subject that the service sees."""
    service.answer = verifying(Verifier(issuer=token_server.issuer, audience=ORDERS))
    source = TokenSource(
        issuer=token_server.issuer,
        client_id=token_server.client_id,
        client_secret=token_server.client_secret,
        resource=ORDERS,
    )
    answer = await send(kind, TokenAuth(source, [service.url]), "GET", service.url)
    assert answer.json() == {"subject": token_server.client_id}
