"""A server with clients of every kind, and the questions that can be asked about a token."""

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from tests.support.server import AUDIENCE, RunningServer

FOREIGN_AUDIENCE = "https://stock.example"
SCOPES = ("orders:read", "orders:write")
INACTIVE = b'{"active":false}'


@dataclass(frozen=True, slots=True)
class World:
    """Public `app` and `other` log users in; confidential `web`, too; `billing` and the revocable
    `meter` are machines; `orders` serves AUDIENCE and `stock` FOREIGN_AUDIENCE."""

    server: RunningServer

    @classmethod
    async def make(cls, server: RunningServer) -> "World":
        people = {"grant_types": ("password", "refresh_token"), "scopes": SCOPES}
        machine = {"grant_types": ("client_credentials",), "scopes": SCOPES}
        here = {"audiences": (AUDIENCE,), "default_audience": (AUDIENCE,)}
        await server.add_client("app", is_public=True, **people, **here)
        await server.add_client("other", is_public=True, **people, **here)
        await server.add_client("web", **people, **here)
        await server.add_client("billing", **machine, **here)
        await server.add_client("meter", is_revocable=True, **machine, **here)
        await server.add_client("orders", grant_types=(), serves_audiences=(AUDIENCE,))
        await server.add_client("stock", grant_types=(), serves_audiences=(FOREIGN_AUDIENCE,))
        await server.add_user()
        return cls(server)

    async def post(
        self, path: str, client_id: str | None, headers: Mapping[str, str] | None, **form: str
    ) -> httpx.Response:
        """As the client: with its secret, or with its name alone if it has none."""
        auth = None
        if client_id is not None and client_id in self.server.secrets:
            auth = httpx.BasicAuth(client_id, self.server.secrets[client_id])
        elif client_id is not None:
            form = {"client_id": client_id, **form}
        return await self.server.http.post(
            path, data=form, headers=dict(headers or {}), auth=auth or httpx.USE_CLIENT_DEFAULT
        )

    async def revoke(self, client_id: str | None, token: str, **form: str) -> httpx.Response:
        return await self.post("/oauth2/revoke", client_id, None, token=token, **form)

    async def give_back(self, client_id: str, token: str, **form: str) -> None:
        """Revoke, and be told nothing: the same answer whatever the token was."""
        answer = await self.revoke(client_id, token, **form)
        assert (answer.status_code, answer.content) == (200, b"")
        assert answer.headers["cache-control"] == "no-store"
        assert "content-type" not in answer.headers

    async def introspect(
        self, client_id: str | None, token: str, headers: Mapping[str, str] | None = None
    ) -> httpx.Response:
        return await self.post("/oauth2/introspect", client_id, headers, token=token)

    async def members(self, token: str, client_id: str = "orders") -> dict[str, Any]:
        answer = await self.introspect(client_id, token)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    async def is_active(self, token: str, client_id: str = "orders") -> bool:
        """An inactive token's answer is exact, whatever the cause (RFC 7662 §2.2)."""
        answer = await self.introspect(client_id, token)
        assert answer.status_code == 200, answer.text
        if answer.json()["active"] is False:
            assert answer.content == INACTIVE
            return False
        return True

    async def machine_token(self, client_id: str = "billing") -> str:
        answer = await self.server.token(client_id, grant_type="client_credentials")
        assert answer.status_code == 200, answer.text
        return str(answer.json()["access_token"])

    def signed(self, claims: Mapping[str, Any], typ: str = "at+jwt") -> str:
        """A token under our real key with any claims: what only we could have made."""
        payload = json.dumps(claims).encode()
        return self.server.runtime.keyring.sign_compact(typ, payload, self.server.clock.now())[0]


def claims_of(token: str) -> dict[str, Any]:
    """The payload of a JWT, not verified."""
    return dict(json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "==")))
