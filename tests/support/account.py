"""The account API as a client uses it: one session with its tokens, and the answers' shapes."""

from dataclasses import dataclass
from typing import Any

import httpx

from tests.support.server import EMAIL, PASSWORD, RunningServer, from_address

NEW_PASSWORD = "another battery staple horse"


@dataclass(slots=True)
class Session:
    """Tokens as they were given; `call` uses the access token."""

    server: RunningServer
    access_token: str
    refresh_token: str

    @property
    def bearer(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.access_token}"}

    async def call(self, method: str, path: str, **options: Any) -> httpx.Response:
        headers = {**self.bearer, **options.pop("headers", {})}
        url = f"/api/auth{path}"
        return await self.server.http.request(method, url, headers=headers, **options)

    async def refresh(self) -> httpx.Response:
        return await post(self.server, "/refresh", {"refresh_token": self.refresh_token})

    async def sid(self) -> str:
        """The id of this session, from the list."""
        answer = await self.call("GET", "/sessions")
        assert answer.status_code == 200, answer.text
        (current,) = [each["id"] for each in answer.json()["sessions"] if each["is_current"]]
        return str(current)


async def post(
    server: RunningServer, path: str, body: object, headers: dict[str, str] | None = None
) -> httpx.Response:
    return await server.http.post(f"/api/auth{path}", json=body, headers=headers or {})


async def log_in(
    server: RunningServer, email: str = EMAIL, password: str = PASSWORD, **members: str
) -> httpx.Response:
    return await post(server, "/login", {"email": email, "password": password, **members})


async def start_session(server: RunningServer, **members: str) -> Session:
    answer = await log_in(server, **members)
    assert answer.status_code == 200, answer.text
    return session_of(server, answer)


def session_of(server: RunningServer, answer: httpx.Response) -> Session:
    """The session that a token response began or went on with."""
    tokens = answer.json()
    return Session(server, tokens["access_token"], tokens["refresh_token"])


def assert_problem(answer: httpx.Response, status: int, code: str, **members: str) -> None:
    """RFC 9457 with our `code`, and nothing of the request in it."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["cache-control"] == "no-store"
    body = answer.json()
    assert body["code"] == code, body
    assert body["status"] == status
    assert members.items() <= body.items(), body
    assert body.keys() <= {"type", "title", "status", "code", "field", "detail"}
    if status == 401:
        assert answer.headers["www-authenticate"].startswith('Bearer realm="token-server"')


def another_network(number: int) -> dict[str, str]:
    return from_address(f"198.51.100.{number}")
