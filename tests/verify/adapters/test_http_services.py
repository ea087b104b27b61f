"""Each HTTP example as a stranger would run it: a process of its own, a real token server."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.examples import HTTP_SERVICES, Answer, Service, running_service
from tests.support.issuer import ADMIN, LATE, OLD_TYP, READER, STRANGE, WRITER, Caller, Issuer

INVALID_TOKEN = (
    'Bearer error="invalid_token", error_description='
    '"The access token is malformed, expired, revoked or not meant for this service."'
)
INVALID_REQUEST = (
    'Bearer error="invalid_request", '
    'error_description="The Authorization header is malformed or repeated."'
)
INSUFFICIENT = (
    'Bearer error="insufficient_scope", '
    'error_description="The access token does not allow this request."'
)


@pytest.fixture(params=HTTP_SERVICES)
def service(request: pytest.FixtureRequest, service_of: Callable[[str], Service]) -> Service:
    return service_of(request.param)


def check_refusal(answer: Answer, status: int, challenge: str) -> None:
    assert answer.status == status, answer.body
    assert answer.headers.get_all("WWW-Authenticate") == [challenge]
    assert answer.headers["Cache-Control"] == "no-store"
    assert "Traceback" not in answer.body


def test_good_token_is_let_in_and_its_claims_are_at_hand(service: Service, issuer: Issuer) -> None:
    """The claims of the very token that was sent (RFC 9068 4)."""
    answer = service.request("/orders", issuer.token_of(READER))
    assert answer.status == 200, answer.body
    assert json.loads(answer.body) == {"client_id": "reader"}


def test_request_without_token_gets_a_challenge_without_error(service: Service) -> None:
    """A stranger learns the scheme and nothing else (RFC 6750 3.1)."""
    check_refusal(service.request("/orders"), 401, "Bearer")


def test_another_scheme_is_no_token(service: Service) -> None:
    """Basic credentials are not looked at (RFC 6750 2.1)."""
    check_refusal(service.send("/orders", ["Basic cmVhZGVyOng="]), 401, "Bearer")


@pytest.mark.parametrize(
    "caller", [LATE, STRANGE, OLD_TYP], ids=["expired", "wrong-audience", "wrong-typ"]
)
def test_token_of_another_time_place_or_kind_is_refused(
    service: Service, issuer: Issuer, caller: Caller
) -> None:
    """One public answer for every bad token (RFC 6750 3.1, RFC 9068 4)."""
    answer = service.request("/orders", issuer.token_of(caller))
    check_refusal(answer, 401, INVALID_TOKEN)


def test_tampered_token_is_refused(service: Service, issuer: Issuer) -> None:
    """RFC 7515 5.2."""
    check_refusal(service.request("/orders", issuer.tampered), 401, INVALID_TOKEN)


def test_good_token_without_the_scope_is_forbidden(service: Service, issuer: Issuer) -> None:
    """The challenge names the scope that would do (RFC 6750 3.1)."""
    answer = service.request("/orders", issuer.token_of(WRITER))
    check_refusal(answer, 403, f'{INSUFFICIENT}, scope="orders:read"')


@pytest.mark.parametrize("caller", [WRITER, ADMIN], ids=["writer", "admin"])
def test_one_of_several_scopes_suffices(service: Service, issuer: Issuer, caller: Caller) -> None:
    """`any_scope`; no CSRF token is asked of a bearer token."""
    answer = service.request(service.add_path, issuer.token_of(caller), method="POST")
    assert answer.status == 200, answer.body


def test_none_of_several_scopes_is_forbidden(service: Service, issuer: Issuer) -> None:
    """The challenge names all that would do."""
    answer = service.request(service.add_path, issuer.token_of(READER), method="POST")
    check_refusal(answer, 403, f'{INSUFFICIENT}, scope="orders:write orders:admin"')


def test_optional_route_serves_strangers_and_callers(service: Service, issuer: Issuer) -> None:
    """No token is fine there, and a good one is read."""
    greetings = [
        json.loads(service.request("/greeting", token).body)
        for token in (None, issuer.token_of(READER))
    ]
    assert greetings == [{"hello": "stranger"}, {"hello": "reader"}]


def test_optional_route_refuses_a_bad_token(service: Service, issuer: Issuer) -> None:
    """Whoever shows a token must show a good one: silence would hide the expiry from a client."""
    check_refusal(service.request("/greeting", issuer.token_of(LATE)), 401, INVALID_TOKEN)


def test_demand_inside_of_a_handler_is_a_refusal_too(service: Service, issuer: Issuer) -> None:
    """`claims.require_that` in the body of a handler: 403 and no server error."""
    token = issuer.token_of(READER)
    assert service.request("/orders/reader", token).status == 200
    check_refusal(service.request("/orders/writer", token), 403, INSUFFICIENT)


def test_repeated_authorization_header_is_refused(service: Service, issuer: Issuer) -> None:
    """Two headers, of which a proxy may have read the other one (RFC 6750 3.1)."""
    good = f"Bearer {issuer.token_of(READER)}"
    check_refusal(service.send("/orders", [good, good]), 400, INVALID_REQUEST)


@pytest.mark.parametrize("value", ["Bearer", "Bearer ", "Bearer a b", "bearer a,b", "Bearer é"])
def test_malformed_header_is_refused(service: Service, value: str) -> None:
    """What follows `Bearer` is one b64token (RFC 6750 2.1)."""
    check_refusal(service.send("/orders", [value]), 400, INVALID_REQUEST)


def test_no_token_reaches_answer_or_log(service: Service, issuer: Issuer) -> None:
    """Neither a good nor a refused one (RFC 6750 5.2)."""
    for token in (issuer.token_of(READER), issuer.token_of(STRANGE)):
        answer = service.request("/orders", token)
        signature = token.rpartition(".")[2]
        assert signature not in answer.body + str(answer.headers)
        assert signature not in service.log_path.read_text()


@pytest.mark.parametrize("name", HTTP_SERVICES)
def test_service_starts_while_its_issuer_is_away(name: str, issuer: Issuer, tmp_path: Path) -> None:
    """503 and not 401: the caller's token is not at fault, and is not to be thrown away."""
    with running_service(name, "http://127.0.0.1:9", tmp_path) as service:
        answer = service.request("/orders", issuer.token_of(READER))
        assert service.request("/greeting").status == 200
    check_refusal(answer, 503, "Bearer")
    assert int(answer.headers["Retry-After"]) >= 1
