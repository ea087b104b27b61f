"""Asking as a proxy does, and what it is told (docs/forward-auth.md)."""

import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import httpx

from tests.support.contract import Contract
from tests.support.server import AUDIENCE, EMAIL, make_settings
from tests.support.token_state import SCOPES, World
from token_server.grants.registry import GRANTS
from token_server.services.client_changes import ClientChanges, change_client
from token_server.services.own_api_keys import NewApiKey, create_api_key
from token_server.services.request_context import RequestContext
from token_server.services.users import show_user
from token_server.web.openapi import openapi_document

PATH = "/oauth2/forward-auth"
HERE = {"audience": AUDIENCE}
NAMES = ("subject", "client-id", "scope", "roles", "session", "actor", "api-key-id")
INVALID_TOKEN = (
    'Bearer realm="token-server", error="invalid_token", error_description="The access token is '
    'malformed, expired, revoked or not meant for this service."'
)


@cache
def _contract() -> Contract:
    settings = make_settings("sqlite:///unused", Path("unused"))
    return Contract(json.loads(json.dumps(openapi_document(settings, GRANTS))))


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


async def ask(
    world: World,
    headers: Mapping[str, str] | list[tuple[str, str]],
    query: Mapping[str, str | Sequence[str]] | None = None,
    method: str = "GET",
) -> httpx.Response:
    """The answer, which is one that the OpenAPI document names."""
    answer = await world.server.http.request(
        method, PATH, headers=headers, params=HERE if query is None else query
    )
    if method == "GET":
        _contract().check(answer)
    assert answer.headers["cache-control"] == "no-store"
    assert not [name for name in answer.headers if name.startswith("access-control-")]
    return answer


def identity(answer: httpx.Response) -> dict[str, str]:
    """The identity headers of a 200, which are always all there."""
    assert answer.status_code == 200, answer.text
    assert answer.content == b""
    return {name: answer.headers[f"x-auth-{name}"] for name in NAMES}


def assert_refused(answer: httpx.Response, status: int, error: str) -> None:
    assert (answer.status_code, answer.json()["error"]) == (status, error), answer.text
    assert answer.headers["www-authenticate"].startswith('Bearer realm="token-server"')
    assert "x-auth-subject" not in answer.headers
    assert "authorization" not in answer.headers


async def make_key(world: World, expires_in_s: int | None = None) -> tuple[str, str]:
    """Its id and its text; logins at the account API may have SCOPES."""
    runtime, now = world.server.runtime, world.server.clock.now()
    await change_client(runtime, "account", ClientChanges(scopes=SCOPES))
    expires_at = None if expires_in_s is None else now + expires_in_s
    new = NewApiKey("reports", SCOPES, expires_at)
    owner = await show_user(runtime, EMAIL)
    key, text = await create_api_key(runtime, owner, new, RequestContext(now, "test"))
    return key.key_id, text.reveal()
