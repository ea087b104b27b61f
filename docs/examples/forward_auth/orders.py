"""Answers a proxy that asks whether a request may pass: nginx `auth_request`, Traefik ForwardAuth,
Caddy `forward_auth`, Envoy `ext_authz`. pip install token-server starlette uvicorn, then here:

TOKEN_VERIFY_ISSUER=http://127.0.0.1:8080 TOKEN_VERIFY_AUDIENCE=https://orders.example \
    uvicorn orders:app --port 8002
"""

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from token_server.verify import Verifier
from token_server.verify.adapters.starlette import Protect

protect = Protect(Verifier.from_environment())


@protect()
async def check(request: Request) -> Response:
    claims = request.state.claims
    wanted = request.query_params.getlist("scope")  # /check?scope=orders:read
    if wanted:
        claims.require(*wanted)
    return Response(
        status_code=204,
        headers={
            "X-Token-Subject": claims.subject,
            "X-Token-Client": claims.client_id,
            "X-Token-Scope": " ".join(claims.scopes),
        },
    )


async def as_401(_request: Request, error: HTTPException) -> Response:
    # nginx makes a 500 of everything but 2xx, 401 and 403.
    return PlainTextResponse(error.detail, 401, error.headers)


app = Starlette(
    routes=[Route("/check", check, methods=["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"])],
    exception_handlers={400: as_401},
    lifespan=protect.lifespan,
)
