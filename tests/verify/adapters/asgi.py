"""One request to an ASGI application in this process, HTTP or WebSocket, without a network."""

from typing import Any

import httpx

from tests.support.plain_http import NO_TLS


async def ask(
    app: Any, path: str, *, method: str = "GET", token: str | None = None
) -> httpx.Response:
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(
        transport=transport, base_url="http://orders", verify=NO_TLS
    ) as client:
        return await client.request(method, path, headers=headers)


async def handshake(app: Any, path: str, *, token: str | None = None) -> list[dict[str, Any]]:
    """All that the application says to a WebSocket client that connects and then listens."""
    said: list[dict[str, Any]] = []
    heard = [{"type": "websocket.connect"}]

    async def receive() -> dict[str, Any]:
        return heard.pop() if heard else {"type": "websocket.disconnect", "code": 1000}

    async def send(message: dict[str, Any]) -> None:
        said.append(message)

    scope = {
        "type": "websocket",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "scheme": "ws",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [] if token is None else [(b"authorization", f"Bearer {token}".encode())],
        "client": ("127.0.0.1", 50000),
        "server": ("127.0.0.1", 80),
        "subprotocols": [],
        "extensions": {"websocket.http.response": {}},
    }
    await app(scope, receive, send)
    return said
