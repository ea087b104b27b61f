"""Flask. pip install token-server flask, then in this directory:

TOKEN_VERIFY_ISSUER=http://127.0.0.1:8080 TOKEN_VERIFY_AUDIENCE=https://orders.example \
    flask --app orders run --port 8001
"""

from flask import Flask, g

from token_server.verify import Verifier
from token_server.verify.adapters.flask import Protect

app = Flask(__name__)
protect = Protect(Verifier.from_environment())


@app.get("/orders")
@protect("orders:read")
def list_orders() -> dict[str, str]:
    return {"client_id": g.claims.client_id}


@app.post("/orders")
@protect(any_scope=["orders:write", "orders:admin"])
def add_order() -> dict[str, str]:
    return {"added": "yes"}


@app.get("/greeting")
@protect(optional=True)
def greet() -> dict[str, str]:
    return {"hello": g.claims.subject if g.claims else "stranger"}


@app.get("/orders/<owner>")
@protect()
def read_order(owner: str) -> dict[str, str]:
    g.claims.require_that(lambda claims: claims.subject == owner)  # else 403
    return {"owner": owner}
