"""The least that a token endpoint over HTTP can cost: a bare ASGI handler that signs one JWT.

Runs in a process of its own under uvicorn as our server sets it up, and prints its port. No
client is authenticated, nothing is checked, stored, logged or counted: a limit, not a server.
"""

import base64
import json
import os
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import uvicorn
import uvloop
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256

Send = Callable[[dict[str, Any]], Awaitable[None]]
Receive = Callable[[], Awaitable[dict[str, Any]]]


def make_app() -> Callable[[dict[str, Any], Receive, Send], Awaitable[None]]:
    """An ASGI application whose every answer is a freshly signed token."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    scheme, digest = padding.PKCS1v15(), SHA256()
    header = _base64url(json.dumps({"alg": "RS256", "typ": "at+jwt", "kid": "k" * 43}).encode())
    claims = {
        "iss": "https://auth.example",
        "sub": "bench-service",
        "aud": "https://orders.example",
        "client_id": "bench-service",
        "scope": "orders:read",
        "iat": 1_800_000_000,
        "exp": 1_800_000_900,
    }

    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:  # noqa: ARG001
        while (await receive()).get("more_body"):
            pass
        jti = base64.urlsafe_b64encode(os.urandom(16)).decode()
        signed = header + b"." + _base64url(json.dumps({**claims, "jti": jti}).encode())
        token = signed + b"." + _base64url(key.sign(signed, scheme, digest))
        body = b'{"access_token":"%s","token_type":"Bearer","expires_in":900}' % token
        headers = [
            (b"content-type", b"application/json"),
            (b"cache-control", b"no-store"),
            (b"content-length", b"%d" % len(body)),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    return app


def _base64url(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def main() -> None:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    listener.listen(2048)
    listener.setblocking(False)
    print(listener.getsockname()[1], flush=True)
    config = uvicorn.Config(
        make_app(),
        log_config=None,
        access_log=False,
        lifespan="off",
        interface="asgi3",
        ws="none",
        proxy_headers=False,
        server_header=False,
    )
    uvloop.run(uvicorn.Server(config).serve([listener]))


if __name__ == "__main__":
    main()
