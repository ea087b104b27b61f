"""What a client may be registered as."""

from dataclasses import replace
from typing import Any

import pytest

from token_server.core.client_policy import client_problems, client_warnings
from token_server.records import Client

CLIENT = Client(
    client_id="app",
    name="App",
    is_public=True,
    is_enabled=True,
    grant_types=frozenset({"password", "refresh_token"}),
    scopes=("orders:read", "orders:write"),
    audiences=("https://orders.example",),
    default_audience=(),
    access_token_ttl_s=None,
    access_token_typ=None,
    refresh_idle_ttl_s=None,
    refresh_absolute_ttl_s=None,
    refresh_replay_window_s=None,
    shadow_limit=None,
    created_at=1_800_000_000,
    updated_at=1_800_000_000,
)
SERVICE = replace(CLIENT, is_public=False, grant_types=frozenset({"client_credentials"}))
EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
GATEWAY = replace(
    SERVICE,
    grant_types=frozenset({EXCHANGE}),
    serves_audiences=("https://gateway.example",),
    exchange_audiences=("https://orders.example",),
)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"refresh_replay_window_s": 0},  # strict mode
        {"refresh_replay_window_s": 300},
        {"access_token_typ": "JWT"},
        {"access_token_ttl_s": 1, "refresh_idle_ttl_s": 60, "refresh_absolute_ttl_s": 60},
        {"shadow_limit": 1},
        {"audiences": (), "default_audience": ("urn:example:all",)},
        {"scopes": ()},
    ],
)
def test_sensible_registrations_have_no_problem(changes: dict[str, Any]) -> None:
    """Everything that issue and refresh design offer can be registered."""
    assert client_problems(replace(CLIENT, **changes)) == []
    assert client_problems(replace(SERVICE, **changes)) == []


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"client_id": "usr_x"}, "usr_"),
        ({"client_id": "a b"}, "client id"),
        ({"client_id": "account"}, "reserved"),
        ({"name": " "}, "name is empty"),
        ({"grant_types": frozenset[str]()}, "at least one --grant"),
        ({"grant_types": frozenset({"implicit"})}, "unknown"),
        ({"is_public": True, "grant_types": frozenset({"client_credentials"})}, "public client"),
        ({"scopes": ("a b",)}, "scope"),
        ({"scopes": tuple(f"scope-{n}" for n in range(101))}, "too many scopes"),
        ({"scopes": ("x" * 128,) * 17}, "too many scopes"),
        ({"audiences": ("orders",)}, "absolute URI"),
        ({"default_audience": ("https://o.example#f",)}, "fragment"),
        ({"access_token_ttl_s": 0}, "access token lifetime"),
        ({"access_token_ttl_s": 86401}, "access token lifetime"),
        ({"refresh_idle_ttl_s": 0}, "idle lifetime"),
        ({"refresh_absolute_ttl_s": 401 * 86400}, "absolute lifetime"),
        ({"refresh_idle_ttl_s": 61, "refresh_absolute_ttl_s": 60}, "must not exceed"),
        ({"refresh_replay_window_s": -1}, "replay window"),
        ({"refresh_replay_window_s": 301}, "replay window"),
        ({"shadow_limit": 0}, "shadow limit"),
        ({"access_token_typ": "jwt"}, "typ"),
        ({"grant_types": frozenset({EXCHANGE})}, "--exchange-audience"),
        ({"grant_types": frozenset({"token-exchange"})}, "unknown"),
        ({"exchange_audiences": ("orders",)}, "absolute URI"),
    ],
)
def test_each_impossible_registration_is_refused(changes: dict[str, Any], told: str) -> None:
    """One problem is told, and it is the one."""
    problems = client_problems(replace(SERVICE, **changes))

    assert len(problems) == 1
    assert told in problems[0]


def test_all_problems_are_told_at_once() -> None:
    """Nobody has to try again for each mistake."""
    wrong = replace(
        CLIENT, client_id="", scopes=("ä", "ö"), audiences=("x", "y"), shadow_limit=-1, name=""
    )

    assert len(client_problems(wrong)) == 5


def test_input_is_not_repeated_in_problems() -> None:
    """A secret pasted into the wrong option does not end up in a terminal log."""
    pasted = "ts_secret secret"
    wrong = replace(CLIENT, client_id=pasted, scopes=(pasted,), audiences=(pasted,))

    assert all(pasted not in problem for problem in client_problems(wrong))


@pytest.mark.parametrize(
    ("grants", "told"),
    [
        ({"client_credentials", "refresh_token"}, "refresh_token does nothing"),
        ({"password"}, "RFC 9700"),
    ],
)
def test_allowed_but_doubtful_registrations_are_warned_of(grants: set[str], told: str) -> None:
    """RFC 6749 §4.4.3 and RFC 9700 §2.4 advise against, the operator decides."""
    warnings = client_warnings(replace(SERVICE, grant_types=frozenset(grants)))

    assert any(told in warning for warning in warnings)
    assert client_warnings(SERVICE) == []


def test_account_api_is_not_warned_of_its_own_refresh_tokens() -> None:
    """Its logins come by another door than the password grant."""
    account = replace(CLIENT, client_id="account", grant_types=frozenset({"refresh_token"}))

    assert client_warnings(account) == []


def test_only_confidential_clients_exchange_tokens() -> None:
    """RFC 8693 §2.1: `act` names who acts, so the actor has to prove who it is."""
    assert client_problems(GATEWAY) == []
    public = replace(GATEWAY, is_public=True, serves_audiences=())
    assert [problem for problem in client_problems(public) if "token-exchange" in problem]


@pytest.mark.parametrize(
    ("client", "told"),
    [
        (replace(GATEWAY, serves_audiences=()), "serves no audience"),
        (replace(SERVICE, exchange_audiences=("urn:a",)), "without the grant token-exchange"),
    ],
)
def test_exchange_that_reaches_nothing_is_warned_of(client: Client, told: str) -> None:
    """Half of a policy is allowed and likely a mistake."""
    assert any(told in warning for warning in client_warnings(client))
    assert client_warnings(GATEWAY) == []
