"""A TokenSource at the real server: machines, users' sessions, and a server that goes away."""

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.request import urlopen

import pytest

from tests.client.conftest import StoppedClock, land
from tests.support.process import Installation, ServerProcess, start_server
from token_server.client import (
    SessionEndedError,
    TokenRefusedError,
    TokenSource,
    TokenUnavailableError,
)
from token_server.services.demo import AUDIENCES
from token_server.verify import Verifier
from token_server.verify.testing import RunningTokenServer

[ORDERS] = AUDIENCES


def machine(server: RunningTokenServer, **settings: object) -> TokenSource:
    values: dict[str, object] = {
        "issuer": server.issuer,
        "client_id": server.client_id,
        "client_secret": server.client_secret,
        "resource": ORDERS,
    }
    return TokenSource(**{**values, **settings})  # type: ignore[arg-type]  # as a test has them


def issued(server: RunningTokenServer, outcome: str = "issued") -> int:
    """How many machine tokens the server says it has given (or refused)."""
    label = f'token_requests_total{{grant="client_credentials",outcome="{outcome}"}}'
    with urlopen(f"{server.management_url}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    return sum(int(float(line.split()[-1])) for line in lines if label in line)


def test_machine_token_is_good_at_a_service(token_server: RunningTokenServer) -> None:
    """Found by discovery, for the audience and scope that were asked for."""
    token = machine(token_server, scope="orders:read").get_token()
    claims = Verifier(issuer=token_server.issuer, audience=ORDERS).verify_sync(token)
    assert (claims.subject, claims.scopes) == (token_server.client_id, ("orders:read",))


def test_cold_source_with_many_callers_makes_one_request(token_server: RunningTokenServer) -> None:
    """200 tasks and 20 threads at once, counted by the server."""
    before = issued(token_server)
    source = machine(token_server)

    async def ask() -> list[str]:
        return await asyncio.gather(*(source.aget_token() for _ in range(200)))

    with ThreadPoolExecutor(20) as pool:
        threads = [pool.submit(source.get_token) for _ in range(20)]
        tokens = set(asyncio.run(ask())) | {each.result() for each in threads}
    assert len(tokens) == 1
    assert issued(token_server) - before == 1


def test_wrong_secret_is_said_and_not_tried_again(token_server: RunningTokenServer) -> None:
    """One request for a hundred calls."""
    before = issued(token_server, "invalid_client")
    source = machine(token_server, client_secret="ts_wrong")
    for _ in range(100):
        with pytest.raises(TokenRefusedError, match="wrong client_secret") as caught:
            source.get_token()
        assert (caught.value.status, caught.value.error) == (401, "invalid_client")
        assert "ts_wrong" not in str(caught.value)
    assert issued(token_server, "invalid_client") - before == 1


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"scope": "orders:delete"}, "invalid_scope"),
        ({"resource": "https://another.example"}, "invalid_target"),
    ],
)
def test_refusal_says_what_to_change(
    token_server: RunningTokenServer, settings: dict[str, object], error: str
) -> None:
    """The registered code, and our words for it."""
    with pytest.raises(TokenRefusedError) as caught:
        machine(token_server, **settings).get_token()
    assert caught.value.error == error


def test_client_whose_id_and_secret_need_encoding(token_server: RunningTokenServer) -> None:
    """A confidential client in the body as in the header (RFC 6749 2.3.1)."""
    made = token_server.add_client("re.port_s-1", scopes=["a"], audiences=["https://a.example"])
    for method in ("client_secret_basic", "client_secret_post"):
        source = machine(
            token_server,
            client_id=made.client_id,
            client_secret=made.client_secret,
            resource=None,
            auth_method=method,
        )
        claims = Verifier(issuer=token_server.issuer, audience="https://a.example").verify_sync(
            source.get_token()
        )
        assert claims.client_id == "re.port_s-1"


def test_session_goes_on_with_each_stored_token(token_server: RunningTokenServer) -> None:
    """Rotation, storing, a restart from the stored token, and the end by reuse of an old one."""
    stored = [token_server.log_in()["refresh_token"]]
    clock = StoppedClock()

    def session(refresh_token: str) -> TokenSource:
        return TokenSource(
            issuer=token_server.issuer,
            client_id=token_server.public_client_id,
            refresh_token=refresh_token,
            on_refresh_token=stored.append,
            clock=clock,
        )

    source = session(stored[0])
    verifier = Verifier(issuer=token_server.issuer, audience=ORDERS)
    subjects = set()
    for _ in range(3):
        subjects.add(verifier.verify_sync(source.get_token()).subject)
        clock.now += 900
    assert len(set(stored)) == 4
    restarted = session(stored[-1])
    subjects.add(verifier.verify_sync(restarted.get_token()).subject)
    assert len(subjects) == 1
    # Somebody uses a token of long ago: the server ends the session, and says so to both.
    with pytest.raises(SessionEndedError):
        session(stored[0]).get_token()
    clock.now += 900
    with pytest.raises(SessionEndedError):
        restarted.get_token()


@pytest.fixture
def mortal_server(tmp_path: Path) -> Iterator[tuple[Installation, ServerProcess]]:
    installation = Installation(tmp_path, f"sqlite:///{tmp_path}/data/token-server.db")
    server = start_server(installation, "dev")
    yield installation, server
    if server.process.poll() is None:
        server.kill()


def test_server_that_is_away_for_a_while_is_hardly_noticed(
    mortal_server: tuple[Installation, ServerProcess],
) -> None:
    """kill -9 while a token is held: it goes on being used, then there is a clear error, and
    after the restart a new token."""
    installation, server = mortal_server
    demo = installation.directory / "data" / "demo.json"
    secret = demo.read_text().split('"service_client_secret": "')[1].split('"')[0]
    clock = StoppedClock()
    source = TokenSource(
        issuer=server.base_url,
        client_id="demo-service",
        client_secret=secret,
        clock=clock,
        sleep=clock.sleep,
    )
    first = source.get_token()
    server.kill()
    clock.now += 850
    assert source.get_token() == first
    land(source)
    assert source.get_token() == first
    clock.now += 900
    with pytest.raises(TokenUnavailableError, match="Connection refused"):
        source.get_token()
    bind = server.base_url.removeprefix("http://")
    again = start_server(installation, "dev", overrides={"BIND": bind, "ISSUER": server.base_url})
    try:
        clock.now += 60
        assert source.get_token() != first
    finally:
        assert again.stop() == 0
