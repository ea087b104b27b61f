"""No adapter for asyncio ever blocks its event loop while keys are fetched.

The key set is held back until another coroutine of the same loop lets it go: an adapter that waits
in the loop's own thread waits for ever, and the test fails by its time limit.
"""

import asyncio
import json
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import grpc
import pytest
from fastapi import Depends, FastAPI
from litestar import Litestar, get
from litestar import Request as LitestarRequest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from tests.verify import forge
from tests.verify.adapters.asgi import ask
from token_server.verify import Claims, FetchResult, Verifier
from token_server.verify.adapters import fastapi, litestar, starlette
from token_server.verify.adapters.grpc import AsyncProtect, current_claims

JWKS_URI = "https://auth.example/jwks.json"

pytestmark = pytest.mark.timeout(20)


class HeldFetcher:
    """A JWKS endpoint that answers when it is let go."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.released = threading.Event()

    def fetch(self, url: str, etag: str | None, timeout_s: float) -> FetchResult:
        assert (url, etag) == (JWKS_URI, None)
        assert timeout_s > 0
        self.asked.set()
        self.released.wait()
        public = forge.private_key("good").public_key().public_numbers()
        jwk = {
            "kty": "RSA",
            "use": "sig",
            "alg": "RS256",
            "kid": forge.kid(),
            "n": forge.b64(public.n.to_bytes(256, "big")),
            "e": forge.b64(public.e.to_bytes(3, "big")),
        }
        return FetchResult(json.dumps({"keys": [jwk]}).encode(), max_age_s=300)

    async def release_when_asked(self) -> None:
        while not self.asked.is_set():  # noqa: ASYNC110 - another thread sets it
            await asyncio.sleep(0.005)
        self.released.set()


def cold_verifier(fetcher: HeldFetcher) -> Verifier:
    return Verifier(
        issuer=forge.ISSUER,
        audience=forge.AUDIENCE,
        jwks_uri=JWKS_URI,
        fetcher=fetcher,
        clock=lambda: forge.NOW,
    )


def fastapi_app(verifier: Verifier) -> Any:
    protect = fastapi.Protect(verifier)
    app = FastAPI()

    @app.get("/orders")
    async def list_orders(claims: Annotated[Claims, Depends(protect("orders:read"))]) -> str:
        return claims.client_id

    return app


def starlette_app(verifier: Verifier) -> Any:
    @starlette.Protect(verifier)("orders:read")
    async def list_orders(request: Request) -> JSONResponse:
        return JSONResponse(request.state.claims.client_id)

    return Starlette(routes=[Route("/orders", list_orders)])


def litestar_app(verifier: Verifier) -> Any:
    @get("/orders", guards=[litestar.Protect(verifier)("orders:read")], media_type="text/plain")
    async def list_orders(request: LitestarRequest[Any, Claims, Any]) -> str:
        return f'"{request.auth.client_id}"'

    return Litestar([list_orders], openapi_config=None)


@pytest.mark.parametrize("make", [fastapi_app, starlette_app, litestar_app])
async def test_loop_runs_on_while_keys_are_fetched(make: Any) -> None:
    """Others are served while the first request waits."""
    fetcher = HeldFetcher()
    app = make(cold_verifier(fetcher))
    answer, _ = await asyncio.gather(
        ask(app, "/orders", token=forge.token()), fetcher.release_when_asked()
    )
    assert (answer.status_code, answer.text) == (200, '"web-shop"')


async def test_loop_of_grpc_runs_on_while_keys_are_fetched() -> None:
    """As over HTTP."""
    fetcher = HeldFetcher()
    async with _grpc_service(cold_verifier(fetcher)) as call:
        answer, _ = await asyncio.gather(call(), fetcher.release_when_asked())
    assert answer == b"web-shop"


@asynccontextmanager
async def _grpc_service(verifier: Verifier) -> AsyncIterator[Any]:
    async def list_orders(_request: bytes, _context: Any) -> bytes:
        return current_claims().client_id.encode()

    server = grpc.aio.server(interceptors=[AsyncProtect(verifier, "orders:read")])
    handlers: dict[str, Any] = {"List": grpc.unary_unary_rpc_method_handler(list_orders)}
    server.add_registered_method_handlers("orders.Orders", handlers)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        method: Any = channel.unary_unary("/orders.Orders/List")
        metadata = (("authorization", f"Bearer {forge.token()}"),)

        async def call() -> bytes:
            return bytes(await method(b"", metadata=metadata))

        yield call
    await server.stop(None)
