"""Litestar. pip install token-server litestar uvicorn, then in this directory:

TOKEN_VERIFY_ISSUER=http://127.0.0.1:8080 TOKEN_VERIFY_AUDIENCE=https://orders.example \
    uvicorn orders:app --port 8001
"""

from typing import Any

from litestar import Litestar, Request, get, post
from litestar.params import FromPath

from token_server.verify import Claims, TokenError, Verifier
from token_server.verify.adapters.litestar import Protect

protect = Protect(Verifier.from_environment())


@get("/orders", guards=[protect("orders:read")])
async def list_orders(request: Request[Any, Claims, Any]) -> dict[str, str]:
    return {"client_id": request.auth.client_id}


@post("/orders", guards=[protect(any_scope=["orders:write", "orders:admin"])], status_code=200)
async def add_order() -> dict[str, str]:
    return {"added": "yes"}


@get("/greeting", guards=[protect(optional=True)])
async def greet(request: Request[Any, Claims | None, Any]) -> dict[str, str]:
    return {"hello": request.auth.subject if request.auth else "stranger"}


@get("/orders/{owner:str}", guards=[protect()])
async def read_order(owner: FromPath[str], request: Request[Any, Claims, Any]) -> dict[str, str]:
    request.auth.require_that(lambda claims: claims.subject == owner)  # else 403
    return {"owner": owner}


app = Litestar(
    [list_orders, add_order, greet, read_order],
    exception_handlers={TokenError: protect.answer},  # for `require` inside of a handler
    lifespan=[protect.lifespan],  # optional: fetches the keys before the first request
)
