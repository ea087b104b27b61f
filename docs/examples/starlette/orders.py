"""Starlette. pip install token-server starlette uvicorn, then in this directory:

TOKEN_VERIFY_ISSUER=http://127.0.0.1:8080 TOKEN_VERIFY_AUDIENCE=https://orders.example \
    uvicorn orders:app --port 8001
"""

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from token_server.verify import Verifier
from token_server.verify.adapters.starlette import Protect

protect = Protect(Verifier.from_environment())


@protect("orders:read")
async def list_orders(request: Request) -> JSONResponse:
    return JSONResponse({"client_id": request.state.claims.client_id})


@protect(any_scope=["orders:write", "orders:admin"])
def add_order(_request: Request) -> JSONResponse:
    return JSONResponse({"added": "yes"})


@protect(optional=True)
async def greet(request: Request) -> JSONResponse:
    claims = request.state.claims
    return JSONResponse({"hello": claims.subject if claims else "stranger"})


@protect()
async def read_order(request: Request) -> JSONResponse:
    owner = request.path_params["owner"]
    request.state.claims.require_that(lambda claims: claims.subject == owner)  # else 403
    return JSONResponse({"owner": owner})


app = Starlette(
    routes=[
        Route("/orders", list_orders),
        Route("/orders", add_order, methods=["POST"]),
        Route("/orders/{owner}", read_order),
        Route("/greeting", greet),
    ],
    lifespan=protect.lifespan,  # optional: fetches the keys before the first request
)
