"""What a client may be registered as (RFC 6749 §2, RFC 7591 §2, RFC 8707 §2).

Lists every problem of a registration at once, each with its remedy, and what is allowed but
hardly meant. Whether the id is taken is not decided here.
"""

from collections.abc import Iterable

from token_server.core.identifiers import (
    audience_problem,
    client_id_problem,
    name_problem,
    scope_token_problem,
)
from token_server.records import Client

CLIENT_CREDENTIALS = "client_credentials"
PASSWORD = "password"
REFRESH_TOKEN = "refresh_token"
TOKEN_EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"  # RFC 8693 §2.1
GRANT_TYPES = (CLIENT_CREDENTIALS, PASSWORD, REFRESH_TOKEN, TOKEN_EXCHANGE)
# What people may type instead; stored, shown and sent is always the name of the RFC.
SHORT_GRANT_TYPES = {"token-exchange": TOKEN_EXCHANGE}
TYPED_GRANT_TYPES = (CLIENT_CREDENTIALS, PASSWORD, REFRESH_TOKEN, *SHORT_GRANT_TYPES)
# `account` stands for the tokens of /api/auth/*, which no operator's client may imitate.
ACCOUNT_CLIENT_ID = "account"
RESERVED_CLIENT_IDS = frozenset({ACCOUNT_CLIENT_ID})
ACCESS_TOKEN_TYPS = ("at+jwt", "JWT")

_DAY_S = 86400
_MAX_WORDS = 100
_MAX_LIST_LENGTH = 2048  # what a request may name (core/scope.py)


def client_problems(client: Client, *, is_new: bool = True) -> list[str]:
    """Everything that keeps this client from being registered; empty when nothing does. One that
    is there already may have a reserved id."""
    problems = [client_id_problem(client.client_id), name_problem(client.name)]
    if is_new and client.client_id in RESERVED_CLIENT_IDS:
        problems.append(f'the client id "{client.client_id}" is reserved: choose another')
    problems += _grant_problems(client)
    problems += _list_problems("scopes", client.scopes)
    problems += (scope_token_problem(scope) for scope in client.scopes)
    for audiences in (
        client.audiences,
        client.default_audience,
        client.serves_audiences,
        client.exchange_audiences,
    ):
        problems += _list_problems("audiences", audiences)
        problems += (audience_problem(audience) for audience in audiences)
    problems += _limit_problems(client)
    return list(dict.fromkeys(problem for problem in problems if problem is not None))


def client_warnings(client: Client) -> list[str]:
    """What is allowed, but likely a mistake."""
    warnings = []
    # Logins at the account API have a door of their own.
    has_logins = PASSWORD in client.grant_types or client.client_id == ACCOUNT_CLIENT_ID
    if REFRESH_TOKEN in client.grant_types and not has_logins:
        warnings.append(
            "refresh_token does nothing here: only a user's login (password) gives refresh tokens"
        )
    if PASSWORD in client.grant_types:
        warnings.append(
            "the password grant shows the user's password to the client;"
            " RFC 9700 §2.4 says not to use it: for own first-party clients only"
        )
    if client.is_revocable and CLIENT_CREDENTIALS not in client.grant_types:
        warnings.append("revocable does nothing here: it is for tokens of client_credentials")
    if client.exchange_audiences and TOKEN_EXCHANGE not in client.grant_types:
        warnings.append("exchange audiences do nothing here without the grant token-exchange")
    if TOKEN_EXCHANGE in client.grant_types and not client.serves_audiences:
        warnings.append(
            "the client serves no audience (--serves): it can exchange tokens of its own and API"
            " keys, not those that its callers send"
        )
    if not client.scopes and client.grant_types:
        warnings.append("the client has no scope, and its tokens will carry none")
    return warnings


def _grant_problems(client: Client) -> Iterable[str]:
    known = ", ".join(TYPED_GRANT_TYPES)
    if not client.grant_types and not client.serves_audiences:
        yield f"the client needs at least one --grant ({known}) or --serves"
    if client.grant_types - set(GRANT_TYPES):
        yield f"a grant is unknown: the known ones are {known}"
    if client.is_public and client.serves_audiences:
        yield "a public client cannot introspect tokens: register a confidential one"
    if client.is_public and CLIENT_CREDENTIALS in client.grant_types:
        yield (
            "a public client has no secret and cannot use client_credentials"
            " (RFC 6749 §4.4): drop the grant, or register it as confidential"
        )
    if client.is_public and TOKEN_EXCHANGE in client.grant_types:
        yield (
            "a public client cannot prove that it is the one who acts, and cannot use"
            " token-exchange: drop the grant, or register it as confidential"
        )
    if TOKEN_EXCHANGE in client.grant_types and not client.exchange_audiences:
        yield "token-exchange needs at least one --exchange-audience: for whom it may get tokens"


def _list_problems(what: str, words: tuple[str, ...]) -> Iterable[str]:
    if len(words) > _MAX_WORDS or len(" ".join(words)) > _MAX_LIST_LENGTH:
        yield f"too many {what}: at most {_MAX_WORDS}, and {_MAX_LIST_LENGTH} characters in all"


def _limit_problems(client: Client) -> Iterable[str]:
    limits = (
        ("access token lifetime", client.access_token_ttl_s, 1, _DAY_S, "24h"),
        ("idle lifetime of refresh tokens", client.refresh_idle_ttl_s, 1, 400 * _DAY_S, "400d"),
        ("absolute lifetime of sessions", client.refresh_absolute_ttl_s, 1, 400 * _DAY_S, "400d"),
        ("replay window", client.refresh_replay_window_s, 0, 300, "300s"),
        ("shadow limit", client.shadow_limit, 1, 1000, "1000"),
    )
    for name, value, low, high, shown in limits:
        if value is not None and not low <= value <= high:
            yield f"the {name} must be between {low} and {shown}"
    idle_s, absolute_s = client.refresh_idle_ttl_s, client.refresh_absolute_ttl_s
    if idle_s is not None and absolute_s is not None and idle_s > absolute_s:
        yield "the idle lifetime of refresh tokens must not exceed the absolute lifetime"
    if client.access_token_typ not in (None, *ACCESS_TOKEN_TYPS):
        yield f"the access token typ must be {' or '.join(ACCESS_TOKEN_TYPS)}"
