"""FastAPI. pip install token-server fastapi uvicorn, then in this directory:

TOKEN_VERIFY_ISSUER=http://127.0.0.1:8080 TOKEN_VERIFY_AUDIENCE=https://orders.example \
    uvicorn orders:app --port 8001
"""

from typing import Annotated

from fastapi import Depends, FastAPI

from token_server.verify import Claims, TokenError, Verifier
from token_server.verify.adapters.fastapi import Protect

protect = Protect(Verifier.from_environment())
app = FastAPI(
    lifespan=protect.lifespan,  # optional: fetches the keys before the first request
    exception_handlers={TokenError: protect.answer},  # for `require` inside of a route
)


@app.get("/orders")
async def list_orders(claims: Annotated[Claims, Depends(protect("orders:read"))]) -> dict[str, str]:
    return {"client_id": claims.client_id}


@app.post("/orders", dependencies=[Depends(protect(any_scope=["orders:write", "orders:admin"]))])
def add_order() -> dict[str, str]:
    return {"added": "yes"}


@app.get("/greeting")
async def greet(
    claims: Annotated[Claims | None, Depends(protect(optional=True))],
) -> dict[str, str]:
    return {"hello": claims.subject if claims else "stranger"}


@app.get("/orders/{owner}")
async def read_order(owner: str, claims: Annotated[Claims, Depends(protect())]) -> dict[str, str]:
    claims.require_that(lambda claims: claims.subject == owner)  # else 403
    return {"owner": owner}
