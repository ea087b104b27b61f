"""What FastAPI, Starlette and Litestar offer beyond a protected route."""

from typing import Annotated, Any

import pytest
from fastapi import APIRouter, Depends, FastAPI, WebSocket
from litestar import Litestar, get
from starlette.applications import Starlette
from starlette.endpoints import HTTPEndpoint
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Route, WebSocketRoute

from tests.verify import forge
from tests.verify.adapters.asgi import ask, handshake
from token_server.verify import Claims, TokenError
from token_server.verify.adapters import fastapi, litestar, starlette

GOOD = forge.token()


def fastapi_app() -> FastAPI:
    protect = fastapi.Protect(forge.verifier(), realm="orders")
    router = APIRouter(dependencies=[Depends(protect("orders:read"))])
    app = FastAPI(exception_handlers={TokenError: protect.answer})

    @router.get("/inside")
    def inside() -> str:
        return "in"

    @app.get("/admin")
    async def admin(claims: Annotated[Claims, Depends(protect())]) -> None:
        claims.require("orders:admin")

    @app.websocket("/feed")
    async def feed(
        websocket: WebSocket, claims: Annotated[Claims, Depends(protect("orders:read"))]
    ) -> None:
        await websocket.accept()
        await websocket.send_text(claims.client_id)
        await websocket.close()

    app.include_router(router)
    return app


def test_fastapi_documents_the_scheme_of_protected_routes() -> None:
    """`/docs` offers a field for the token (OpenAPI 3.1 `securitySchemes`)."""
    document = fastapi_app().openapi()
    (scheme,) = document["components"]["securitySchemes"].values()
    assert (scheme["type"], scheme["scheme"], scheme["bearerFormat"]) == ("http", "bearer", "JWT")
    assert document["paths"]["/inside"]["get"]["security"] == [{"AccessToken": []}]


async def test_fastapi_router_is_protected_as_a_whole() -> None:
    """No route of it can be forgotten."""
    app = fastapi_app()
    assert (await ask(app, "/inside", token=GOOD)).status_code == 200
    refused = await ask(app, "/inside")
    assert refused.headers["WWW-Authenticate"] == 'Bearer realm="orders"'


async def test_fastapi_answers_a_demand_in_a_route_as_it_answers_its_own() -> None:
    """`exception_handlers={TokenError: protect.answer}`: the same shape, with the challenge."""
    answer = await ask(fastapi_app(), "/admin", token=GOOD)
    assert answer.status_code == 403
    assert answer.json() == {"detail": "The access token does not allow this request."}
    assert answer.headers["WWW-Authenticate"].endswith('scope="orders:admin"')
    assert answer.headers["Cache-Control"] == "no-store"


def starlette_app() -> Starlette:
    protect = starlette.Protect(forge.verifier())

    class Orders(HTTPEndpoint):
        @protect("orders:read")
        async def get(self, request: Request) -> JSONResponse:
            return JSONResponse(request.state.claims.client_id)

        @protect("orders:admin")
        def post(self, request: Request) -> JSONResponse:
            return JSONResponse(request.state.claims.client_id)

    @protect("orders:read")
    async def feed(websocket: Any) -> None:
        await websocket.accept()
        await websocket.send_text(websocket.state.claims.client_id)
        await websocket.close()

    async def reword(_request: Request, error: Any) -> PlainTextResponse:
        return PlainTextResponse("go away", error.status_code, error.headers)

    return Starlette(
        routes=[Route("/orders", Orders), WebSocketRoute("/feed", feed)],
        exception_handlers={401: reword},
    )


async def test_starlette_methods_of_an_endpoint_class_are_protected_one_by_one() -> None:
    """Each with its own demand, coroutine or not."""
    app = starlette_app()
    assert (await ask(app, "/orders", token=GOOD)).json() == "web-shop"
    assert (await ask(app, "/orders", method="POST", token=GOOD)).status_code == 403


async def test_starlette_application_may_reword_a_refusal() -> None:
    """Its exception handlers see an HTTPException with the challenge."""
    answer = await ask(starlette_app(), "/orders")
    assert (answer.status_code, answer.text) == (401, "go away")
    assert answer.headers["WWW-Authenticate"] == "Bearer"


def test_starlette_decorator_on_something_else_fails_loudly() -> None:
    """Without a request there is no token to read, and nothing may pass."""

    @starlette.Protect(forge.verifier())()
    def helper(_number: int) -> int:
        return 1

    with pytest.raises(TypeError, match="endpoint"):
        helper(1)


@pytest.mark.parametrize("make", [fastapi_app, starlette_app])
async def test_websocket_is_let_in_or_denied_before_it_opens(make: Any) -> None:
    """The handshake is an HTTP request, and its denial an HTTP answer (RFC 6455 4.2.2)."""
    opened = await handshake(make(), "/feed", token=GOOD)
    assert [message["type"] for message in opened] == [
        "websocket.accept",
        "websocket.send",
        "websocket.close",
    ]
    assert opened[1]["text"] == "web-shop"
    denied = await handshake(make(), "/feed")
    assert denied[0]["type"] == "websocket.http.response.start"
    assert denied[0]["status"] == 401
    assert b"www-authenticate" in dict(denied[0]["headers"])


async def test_litestar_guard_of_the_application_protects_every_route() -> None:
    """Also a route that does not ask for the claims, and one with a demand of its own."""
    protect = litestar.Protect(forge.verifier())

    @get("/plain")
    async def plain() -> str:
        return "in"

    @get("/admin", guards=[protect("orders:admin")])
    async def admin() -> str:
        return "in"

    app = Litestar([plain, admin], guards=[protect()], openapi_config=None)
    assert (await ask(app, "/plain")).status_code == 401
    assert (await ask(app, "/plain", token=GOOD)).status_code == 200
    assert (await ask(app, "/admin", token=GOOD)).status_code == 403
