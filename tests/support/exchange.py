"""A chain of services that call each other in a user's name, by token exchange (RFC 8693)."""

from dataclasses import dataclass
from typing import Any

import httpx

from tests.support.server import RunningServer
from tests.support.token_state import World, claims_of
from token_server.core.client_policy import TOKEN_EXCHANGE
from token_server.core.token_exchange import ACCESS_TOKEN_TYPE

GATEWAY, ORDERS, BILLING, LEDGER = (
    f"https://{name}.example" for name in ("gateway", "orders", "billing", "ledger")
)
SCOPES = ("orders:read", "orders:write", "bills:read")
REFUSED = {
    "error": "invalid_request",
    "error_description": "The subject_token or the actor_token is malformed, expired, revoked or"
    " not meant for this client.",
}


@dataclass(frozen=True, slots=True)
class Chain:
    """`app` logs users in for GATEWAY. `gateway` may call ORDERS, `orders` BILLING and LEDGER,
    `billing` LEDGER. The machines `job` and the revocable `meter` call GATEWAY, too."""

    server: RunningServer

    @classmethod
    async def make(cls, server: RunningServer) -> "Chain":
        here = {"audiences": (GATEWAY,), "scopes": SCOPES}
        await server.add_client(
            "app", grant_types=("password", "refresh_token"), is_public=True, **here
        )
        machine = ("client_credentials",)
        await server.add_client("job", grant_types=machine, **here)
        await server.add_client("meter", grant_types=machine, is_revocable=True, **here)
        for client_id, serves, calls in (
            ("gateway", GATEWAY, (ORDERS,)),
            ("orders", ORDERS, (BILLING, LEDGER)),
            ("billing", BILLING, (LEDGER,)),
        ):
            await server.add_client(
                client_id,
                grant_types=(TOKEN_EXCHANGE, "client_credentials"),
                scopes=SCOPES,
                audiences=(serves,),
                serves_audiences=(serves,),
                exchange_audiences=calls,
            )
        await server.add_client("ledger", grant_types=(), serves_audiences=(LEDGER,))
        await server.add_user()
        return cls(server)

    @property
    def world(self) -> World:
        """To introspect and revoke by."""
        return World(self.server)

    async def login(self, **form: str) -> str:
        return str((await self.server.login("app", resource=GATEWAY, **form))["access_token"])

    async def machine(self, client_id: str) -> str:
        answer = await self.server.token(client_id, grant_type="client_credentials")
        assert answer.status_code == 200, answer.text
        return str(answer.json()["access_token"])

    async def ask(self, client_id: str, subject_token: str, /, **form: str) -> httpx.Response:
        """One exchange as that client; `form` adds parameters, or replaces."""
        sound = {
            "grant_type": TOKEN_EXCHANGE,
            "subject_token": subject_token,
            "subject_token_type": ACCESS_TOKEN_TYPE,
        }
        return await self.server.token(client_id, None, **{**sound, **form})

    async def exchange(self, client_id: str, subject_token: str, **form: str) -> str:
        answer = await self.ask(client_id, subject_token, **form)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["access_token"])

    async def claims(self, client_id: str, subject_token: str, **form: str) -> dict[str, Any]:
        return claims_of(await self.exchange(client_id, subject_token, **form))

    async def through(self, subject_token: str) -> list[str]:
        """The tokens of a call from the gateway by ORDERS and BILLING to LEDGER."""
        orders = await self.exchange("gateway", subject_token)
        billing = await self.exchange("orders", orders, resource=BILLING)
        return [orders, billing, await self.exchange("billing", billing)]

    async def live(self, tokens: list[str]) -> list[bool]:
        """What each service of the chain is told of its token."""
        services = ("orders", "billing", "ledger")
        return [
            await self.world.is_active(token, service)
            for token, service in zip(tokens, services, strict=True)
        ]

    async def reasons(self) -> list[str]:
        """Why exchanges were refused, as the audit trail has it."""
        await self.server.runtime.background.close()
        async with self.server.runtime.store.read() as connection:
            found = await connection.exec_driver_sql(
                "SELECT reason FROM audit_events WHERE event = 'token_exchange.refused' ORDER BY id"
            )
            return [row[0] for row in found]
