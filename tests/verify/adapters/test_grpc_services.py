"""Both gRPC examples, in processes of their own, with a real token server."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.support.examples import GRPC_SERVICES, Service, running_service
from tests.support.issuer import ADMIN, LATE, OLD_TYP, READER, STRANGE, WRITER, Caller, Issuer

INVALID_TOKEN = (
    'Bearer error="invalid_token", error_description='
    '"The access token is malformed, expired, revoked or not meant for this service."'
)


class Orders:
    """A client of one service: each call gives `(status, answer or challenge)`."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._channel = channel

    def list_orders(self, token: str | None = None) -> tuple[grpc.StatusCode, str]:
        return self.send([] if token is None else [f"Bearer {token}"])

    def send(self, authorization: Sequence[str]) -> tuple[grpc.StatusCode, str]:
        """A streaming call with exactly these values of `authorization`."""
        method: Any = self._channel.unary_stream("/orders.Orders/List")
        metadata = [("authorization", value) for value in authorization]
        return _outcome(lambda: b",".join(method(b"", metadata=metadata, timeout=30)))

    def call(
        self, name: str, token: str | None = None, request: bytes = b""
    ) -> tuple[grpc.StatusCode, str]:
        method: Any = self._channel.unary_unary(f"/orders.Orders/{name}")
        metadata = [] if token is None else [("authorization", f"Bearer {token}")]
        return _outcome(lambda: method(request, metadata=metadata, timeout=30))


def _outcome(call: Callable[[], bytes]) -> tuple[grpc.StatusCode, str]:
    try:
        return grpc.StatusCode.OK, call().decode()
    except grpc.RpcError as error:
        trailing: Any = error.trailing_metadata()
        challenges = [value for name, value in trailing if name == "www-authenticate"]
        return error.code(), "|".join(challenges)


@pytest.fixture(params=GRPC_SERVICES)
def orders(
    request: pytest.FixtureRequest, service_of: Callable[[str], Service]
) -> Iterator[Orders]:
    service = service_of(request.param)
    with grpc.insecure_channel(f"127.0.0.1:{service.port}") as channel:
        yield Orders(channel)


def test_good_token_is_let_in_and_its_claims_are_at_hand(orders: Orders, issuer: Issuer) -> None:
    """In a streaming method, too."""
    assert orders.list_orders(issuer.token_of(READER)) == (grpc.StatusCode.OK, "reader")


def test_call_without_token_gets_a_challenge_without_error(orders: Orders) -> None:
    """RFC 6750 3.1 in gRPC's words."""
    assert orders.list_orders() == (grpc.StatusCode.UNAUTHENTICATED, "Bearer")


@pytest.mark.parametrize(
    "caller", [LATE, STRANGE, OLD_TYP], ids=["expired", "wrong-audience", "wrong-typ"]
)
def test_token_of_another_time_place_or_kind_is_refused(
    orders: Orders, issuer: Issuer, caller: Caller
) -> None:
    """One public answer for every bad token."""
    outcome = orders.list_orders(issuer.token_of(caller))
    assert outcome == (grpc.StatusCode.UNAUTHENTICATED, INVALID_TOKEN)


def test_tampered_token_is_refused(orders: Orders, issuer: Issuer) -> None:
    """RFC 7515 5.2."""
    outcome = orders.call("Add", issuer.tampered)
    assert outcome == (grpc.StatusCode.UNAUTHENTICATED, INVALID_TOKEN)


def test_good_token_without_the_scope_is_denied(orders: Orders, issuer: Issuer) -> None:
    """The challenge names the scopes of this very method."""
    status, challenge = orders.list_orders(issuer.token_of(WRITER))
    assert status == grpc.StatusCode.PERMISSION_DENIED
    assert challenge.endswith(', scope="orders:read"')
    status, challenge = orders.call("Add", issuer.token_of(READER))
    assert status == grpc.StatusCode.PERMISSION_DENIED
    assert challenge.endswith(', scope="orders:write orders:admin"')


@pytest.mark.parametrize("caller", [WRITER, ADMIN], ids=["writer", "admin"])
def test_one_of_several_scopes_suffices(orders: Orders, issuer: Issuer, caller: Caller) -> None:
    """A method's own requirement takes the place of the default."""
    assert orders.call("Add", issuer.token_of(caller)) == (grpc.StatusCode.OK, "yes")


def test_optional_method_serves_strangers_and_callers(orders: Orders, issuer: Issuer) -> None:
    """In this order: the stranger must not meet the claims of the caller before."""
    greetings = [
        orders.call("Greet", token)[1]
        for token in (None, issuer.token_of(READER), None, issuer.token_of(WRITER), None)
    ]
    assert greetings == ["stranger", "reader", "stranger", "writer", "stranger"]


def test_optional_method_refuses_a_bad_token(orders: Orders, issuer: Issuer) -> None:
    """As over HTTP."""
    outcome = orders.call("Greet", issuer.token_of(LATE))
    assert outcome == (grpc.StatusCode.UNAUTHENTICATED, INVALID_TOKEN)


def test_demand_inside_of_a_method_is_a_refusal_too(orders: Orders, issuer: Issuer) -> None:
    """`claims.require_that` in the body of a method."""
    token = issuer.token_of(READER)
    assert orders.call("Read", token, b"reader") == (grpc.StatusCode.OK, "reader")
    assert orders.call("Read", token, b"writer")[0] == grpc.StatusCode.PERMISSION_DENIED


@pytest.mark.parametrize("malformed", ["Bearer", "Bearer a b"])
def test_malformed_metadata_is_refused(orders: Orders, malformed: str) -> None:
    """RFC 6750 2.1."""
    status, challenge = orders.send([malformed])
    assert status == grpc.StatusCode.UNAUTHENTICATED
    assert challenge.startswith('Bearer error="invalid_request"')


def test_repeated_metadata_is_refused(orders: Orders, issuer: Issuer) -> None:
    """Two values are two tokens, of which a proxy may have read the other one."""
    good = f"Bearer {issuer.token_of(READER)}"
    status, challenge = orders.send([good, good])
    assert status == grpc.StatusCode.UNAUTHENTICATED
    assert challenge.startswith('Bearer error="invalid_request"')


def test_unknown_method_stays_unimplemented(orders: Orders) -> None:
    """The interceptor has nothing to say where there is no method."""
    assert orders.call("Nothing")[0] == grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("name", GRPC_SERVICES)
def test_issuer_that_is_away_is_unavailable(name: str, issuer: Issuer, tmp_path: Path) -> None:
    """Clients retry UNAVAILABLE; they would throw the token away on UNAUTHENTICATED."""
    with (
        running_service(name, "http://127.0.0.1:9", tmp_path) as service,
        grpc.insecure_channel(f"127.0.0.1:{service.port}") as channel,
    ):
        outcome = Orders(channel).list_orders(issuer.token_of(READER))
        stranger = Orders(channel).call("Greet")
    assert outcome == (grpc.StatusCode.UNAVAILABLE, "Bearer")
    assert stranger == (grpc.StatusCode.OK, "stranger")
