"""What a user, an app and a service see of one server, request by request."""

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from tests.support.plain_http import NO_TLS
from tests.support.process import Installation, ServerProcess
from tests.support.server import AUDIENCE, EMAIL, PASSWORD
from token_server.records import Secret
from token_server.services.clients import NewClient, add_client
from token_server.services.users import NewUser, add_user

APP, SERVICE = "app", "service"


@dataclass(frozen=True, slots=True)
class Tokens:
    access: str
    refresh: str


async def set_up(installation: Installation) -> str:
    """A user, an app for people and a service with a secret, which is returned."""
    async with installation.runtime() as runtime:
        grants = ("password", "refresh_token")
        await add_client(
            runtime,
            NewClient(APP, grant_types=grants, is_public=True, default_audience=(AUDIENCE,)),
        )
        _, secret = await add_client(
            runtime,
            NewClient(SERVICE, grant_types=("client_credentials",), serves_audiences=(AUDIENCE,)),
        )
        await add_user(runtime, NewUser(EMAIL, "Ada Lovelace", Secret(PASSWORD)))
    assert secret is not None
    return secret.reveal()


class Person:
    """One client of one server."""

    def __init__(self, server: ServerProcess, secret: str) -> None:
        self.server = server
        self._secret = secret
        self.http = httpx.Client(base_url=server.base_url, timeout=30, verify=NO_TLS)

    def log_in(self, password: str = PASSWORD) -> httpx.Response:
        form = {"grant_type": "password", "client_id": APP, "username": EMAIL, "password": password}
        return self.http.post("/oauth2/token", data=form)

    def begin(self) -> Tokens:
        return tokens_of(self.log_in())

    def refresh(self, tokens: Tokens) -> httpx.Response:
        form = {"grant_type": "refresh_token", "client_id": APP, "refresh_token": tokens.refresh}
        return self.http.post("/oauth2/token", data=form)

    def machine_token(self) -> httpx.Response:
        form = {"grant_type": "client_credentials"}
        return self.http.post("/oauth2/token", data=form, auth=(SERVICE, self._secret))

    def is_active(self, token: str) -> bool:
        """By introspection: good and alive at this server's clock."""
        answer = self.http.post(
            "/oauth2/introspect", data={"token": token}, auth=(SERVICE, self._secret)
        )
        assert answer.status_code == 200, answer.text
        return bool(answer.json()["active"])

    def revoke(self, token: str) -> None:
        form = {"token": token, "client_id": APP}
        assert self.http.post("/oauth2/revoke", data=form).status_code == 200

    def published(self) -> set[str]:
        answer = self.http.get("/.well-known/jwks.json")
        assert answer.status_code == 200, answer.text
        return {key["kid"] for key in answer.json()["keys"]}

    def checks(self) -> dict[str, Any]:
        """The verbose readiness: each check by its name, and the status of all."""
        answer = self.http.get(f"{self.server.management_url}/readyz?verbose")
        by_name = {check["name"]: check for check in answer.json()["checks"]}
        return {"status": answer.status_code, **by_name}

    def metric(self, name: str) -> float:
        text = self.http.get(f"{self.server.management_url}/metrics").text
        (line,) = [line for line in text.splitlines() if line.startswith(name + " ")]
        return float(line.split()[1])


def tokens_of(answer: httpx.Response) -> Tokens:
    assert answer.status_code == 200, answer.text
    return Tokens(answer.json()["access_token"], answer.json()["refresh_token"])


def claims_of(token: str) -> Mapping[str, Any]:
    return _part(token, 1)


def kid_of(token: str) -> str:
    return str(_part(token, 0)["kid"])


def _part(token: str, index: int) -> dict[str, Any]:
    text = token.split(".")[index]
    value = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    assert isinstance(value, dict)
    return value
