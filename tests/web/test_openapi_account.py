"""The account API answers as /openapi.json says, good and bad."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest

from tests.support.contract import Contract
from tests.support.leaks.hooks import KeyDirectories
from tests.support.leaks.watch import Watch
from tests.support.server import (
    EMAIL,
    ISSUER,
    PASSWORD,
    RunningServer,
    copy_keys,
    make_settings,
    running_server,
)
from token_server.core.api_key import format_api_key
from token_server.grants.registry import GRANTS
from token_server.web.account_call import PREFIX
from token_server.web.cookies import COOKIE_NAME
from token_server.web.openapi import openapi_document

ACCOUNT = {"email": EMAIL, "password": PASSWORD, "name": "Ada Lovelace"}
LOGIN = {"email": EMAIL, "password": PASSWORD}
PAGE = {"Origin": ISSUER}
ABSENT = object()
JUNK: tuple[Any, ...] = (
    *(ABSENT, None, True, 0, -1.5, [], ["a"], {}, {"a": 1}, "", " ", "a", "a@b", "x" * 5000),
    *("\0", "\ud800", "\u202e", "ﬁ", "cookie", "body", "' OR 1=1 --", "../../etc/passwd", "%00"),
)


class Caller:
    """Every answer is checked against the document."""

    def __init__(self, server: RunningServer, contract: Contract) -> None:
        self.server, self.contract = server, contract

    async def __call__(
        self, method: str, path: str, body: Any = None, token: str | None = None, **more: Any
    ) -> httpx.Response:
        headers = dict(more.pop("headers", {}))
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        if body is not None:
            more["json"] = body
        elif "content" in more:
            headers.setdefault("Content-Type", "application/json")
        url = PREFIX + path
        answer = await self.server.http.request(method, url, headers=headers, **more)
        self.server.http.cookies.clear()
        return self.contract.check(answer)

    async def code(self, *arguments: Any, **more: Any) -> tuple[int, str]:
        answer = await self(*arguments, **more)
        return answer.status_code, answer.json()["code"]


@pytest.fixture
async def call(
    request: pytest.FixtureRequest, sqlite_url: str, shared_keys: Path, tmp_path: Path
) -> AsyncIterator[Caller]:
    copy_keys(shared_keys, tmp_path)
    overrides = {"registration": "open", "browser_origins": (ISSUER,)}
    overrides |= getattr(request, "param", {})
    async with running_server(make_settings(sqlite_url, tmp_path, **overrides)) as server:
        document = (await server.http.get("/openapi.json")).json()
        yield Caller(server, Contract(document))


async def give_all_answers(call: Caller) -> None:
    """Whatever the account API may answer but 500, 503 and what needs other settings."""
    tokens = (await call("POST", "/register", ACCOUNT)).json()
    other = (await call("POST", "/login", {**LOGIN, "label": "phone"})).json()["access_token"]
    access = tokens["access_token"]
    assert (await call("GET", "/me", token=access)).json()["email"] == EMAIL
    assert await call.code("POST", "/register", ACCOUNT) == (409, "email_taken")
    junk = {"refresh_token": "junk"}
    assert await call.code("POST", "/refresh", junk) == (401, "credentials_refused")
    refreshed = await call("POST", "/refresh", {"refresh_token": tokens["refresh_token"]})
    assert refreshed.status_code == 200
    listed = (await call("GET", "/sessions", token=access)).json()["sessions"]
    assert sorted(each["label"] or "" for each in listed) == ["", "phone"]
    [phone] = [each["id"] for each in listed if each["label"]]
    assert (await call("GET", f"/sessions/{phone}", token=access)).status_code == 200
    for method in ("GET", "DELETE"):
        refusal = await call.code(method, "/sessions/ses_unknown", token=access)
        assert refusal == (404, "session_not_found")
    call.server.clock.advance(301)
    for path in ("/sessions", f"/sessions/{phone}"):
        refusal = await call.code("DELETE", path, token=access)
        assert refusal == (401, "reauthentication_required")
    proof = {"current_password": PASSWORD}
    assert (await call("DELETE", f"/sessions/{phone}", proof, access)).status_code == 204
    assert await call.code("GET", "/me", token=other) == (401, "token_refused")
    assert (await call("DELETE", "/sessions", proof, access)).json() == {"sessions_ended": 0}
    change = {"current_password": PASSWORD, "new_password": PASSWORD + "!"}
    wrong = {**change, "current_password": "not it at all"}
    refusal = await call.code("POST", "/change-password", wrong, access)
    assert refusal == (401, "credentials_refused")
    access = (await call("POST", "/change-password", change, access)).json()["access_token"]
    assert (await call("POST", "/logout", token=access)).status_code == 204
    assert await call.code("POST", "/logout", token=access) == (401, "token_refused")


async def use_the_cookie(call: Caller) -> None:
    """Cookie mode, and the refusals that only it has."""
    in_cookie = {"refresh_token_in": "cookie"}
    login = await call("POST", "/login", {**LOGIN, **in_cookie}, headers=PAGE)
    assert "refresh_token" not in login.json()
    cookie = login.headers["set-cookie"].partition(";")[0]
    assert cookie.startswith(f"{COOKIE_NAME}=rt_")
    page = {**PAGE, "Cookie": cookie}
    refreshed = await call("POST", "/refresh", in_cookie, headers=page)
    page["Cookie"] = refreshed.headers["set-cookie"].partition(";")[0]
    for path, body in {
        "/login": {**LOGIN, **in_cookie},
        "/register": {**ACCOUNT, **in_cookie},
        "/refresh": in_cookie,
        "/logout": None,
    }.items():
        elsewhere = {**page, "Origin": "https://evil.example"}
        assert await call.code("POST", path, body, headers=elsewhere) == (403, "origin_refused")
    access = refreshed.json()["access_token"]
    change = {"current_password": "a" * 15, "new_password": "b" * 15, **in_cookie}
    assert await call.code("POST", "/change-password", change, access) == (403, "origin_refused")
    cleared = await call("POST", "/logout", headers=page)
    assert cleared.headers["set-cookie"].startswith(f"{COOKIE_NAME}=;")


async def use_api_keys(call: Caller, access: str) -> None:
    """What there is to be answered about API keys, and to them."""
    other = (await call("POST", "/login", LOGIN)).json()["access_token"]
    made = (await call("POST", "/api-keys", {"name": "Nightly export"}, access)).json()
    as_key: dict[str, Any] = {"headers": {"X-API-Key": made["api_key"]}}
    one = f"/api-keys/{made['id']}"
    found = (await call("GET", "/sessions", **as_key)).json()["sessions"]
    for path in ("/me", "/api-keys", one, f"/sessions/{found[0]['id']}"):
        assert (await call("GET", path, **as_key)).status_code == 200
    for method in ("GET", "DELETE"):
        refusal = await call.code(method, "/api-keys/key_unknown", token=access)
        assert refusal == (404, "api_key_not_found")
    for _ in range(19):
        assert (await call("POST", "/api-keys", {"name": "x"}, access)).status_code == 201
    refusal = await call.code("POST", "/api-keys", {"name": "x"}, access)
    assert refusal == (409, "too_many_api_keys")
    call.server.clock.advance(302)  # a changed password begins a second later
    for method, path in (("POST", "/api-keys"), ("DELETE", one), ("DELETE", "/api-keys")):
        body = {"name": "x"} if method == "POST" else {}
        refusal = await call.code(method, path, body, access)
        assert refusal == (401, "reauthentication_required")
    proof = {"current_password": PASSWORD}
    assert (await call("DELETE", one, proof, access)).status_code == 204
    assert (await call("DELETE", "/api-keys", proof, access)).json() == {"api_keys_revoked": 19}
    for method, path, operation in call.contract.operations():
        if not path.startswith(PREFIX):
            continue
        own, is_read = path.removeprefix(PREFIX), {"apiKey": []} in operation["security"]
        expected = (401, "api_key_refused") if is_read else (403, "api_key_not_allowed")
        assert await call.code(method, own, headers={"X-API-Key": "junk"}) == expected
        refusal = await call.code(method, own, token=other, headers={"X-API-Key": "junk"})
        assert refusal == (400, "credentials_ambiguous")


async def send_bad_bodies(call: Caller) -> None:
    """Each operation that reads a body refuses what is none."""
    bodies = {"/register": "POST", "/login": "POST", "/refresh": "POST", "/sessions": "DELETE"}
    bodies |= {"/change-password": "POST", "/sessions/ses_unknown": "DELETE"}
    bodies |= {"/api-keys": "POST", "/api-keys/key_unknown": "DELETE"}
    as_json = {"Content-Type": "application/json"}
    for path, method in (*bodies.items(), ("/api-keys", "DELETE")):
        for content, headers, expected in (
            ("{", as_json, (400, "malformed_json")),
            ('{"x": 1}', as_json, (400, "invalid_field")),
            ("{}", {"Content-Type": "text/plain"}, (415, "unsupported_media_type")),
            (" " * 20_000, as_json, (413, "payload_too_large")),
        ):
            assert await call.code(method, path, content=content, headers=headers) == expected


async def ask_until_refused(call: Caller) -> None:
    """Every door that is counted answers 429 in the end."""
    tokens = (await call("POST", "/login", LOGIN)).json()
    access, proof = tokens["access_token"], {"current_password": "not it at all"}
    other = (await call("POST", "/login", LOGIN)).json()["access_token"]
    found = (await call("GET", "/sessions", token=other)).json()["sessions"]
    [own] = [each["id"] for each in found if each["is_current"]]
    key = (await call("POST", "/api-keys", {"name": "x"}, other)).json()
    forged = format_api_key(key["id"], bytes(32))
    for method, path, body in (
        ("POST", "/login", {**LOGIN, "password": "wrong"}),
        ("POST", "/register", ACCOUNT),
        ("POST", "/change-password", {**proof, "new_password": PASSWORD + "?"}),
        ("DELETE", "/sessions", proof),
        ("DELETE", f"/sessions/{own}", proof),
        ("POST", "/api-keys", {**proof, "name": "x"}),
        ("DELETE", "/api-keys", proof),
        ("DELETE", f"/api-keys/{key['id']}", proof),
        ("POST", "/refresh", {"refresh_token": tokens["refresh_token"]}),
    ):
        await ask_for_429(call, method, path, body, token=access)
    for path in ("/me", "/sessions", "/sessions/x", "/api-keys", "/api-keys/x"):
        await ask_for_429(call, "GET", path, headers={"X-API-Key": forged})


async def ask_for_429(call: Caller, method: str, path: str, body: Any = None, **more: Any) -> None:
    for _ in range(300):
        if (await call(method, path, body, **more)).status_code == 429:
            return
    raise AssertionError(f"{method} {path} is not counted")


async def test_account_api_answers_as_documented(call: Caller) -> None:
    """Each answer has the documented status, headers and body; the document lists no answer that
    was not seen here, but 500 and the 503 of the others."""
    await give_all_answers(call)
    new_password = {**LOGIN, "password": PASSWORD + "!"}
    assert (await call("POST", "/login", new_password)).status_code == 200
    access = (await call("POST", "/login", new_password)).json()["access_token"]
    change = {"current_password": PASSWORD + "!", "new_password": PASSWORD}
    changed = await call("POST", "/change-password", change, access)
    await use_api_keys(call, changed.json()["access_token"])
    await use_the_cookie(call)
    await send_bad_bodies(call)
    for method, path, operation in call.contract.operations():
        if not path.startswith(PREFIX):
            continue
        own = path.removeprefix(PREFIX)
        assert await call.code(method, f"{own}?a=b") == (400, "query_refused")
        if {"accessToken": []} in operation["security"]:
            content = operation.get("requestBody", {}).get("content", {})
            body = content["application/json"]["example"] if content else None
            assert await call.code(method, own, body) == (401, "token_missing")
    await ask_until_refused(call)
    call.server.clock.stepped_back = True
    assert await call.code("POST", "/login", LOGIN) == (503, "temporarily_unavailable")
    documented = {
        (operation["operationId"], int(status))
        for _, path, operation in call.contract.operations()
        if path.startswith(PREFIX)
        for status in operation["responses"]
        if status not in {"500", "503"}
    }
    assert documented - call.contract.seen == set()


async def test_any_broken_member_gets_a_documented_answer(
    call: Caller, leak_watch: tuple[Watch, KeyDirectories]
) -> None:
    """Each member of each body in turn absent, of each other type, empty, huge, not text."""
    with leak_watch[0].not_learning():  # the same junk is a password here and a name elsewhere
        await _break_each_member(call)


async def _break_each_member(call: Caller) -> None:
    access = (await call("POST", "/register", ACCOUNT)).json()["access_token"]
    schemas = call.contract.document["components"]["schemas"]
    for method, path, operation in call.contract.operations():
        if not path.startswith(PREFIX) or "requestBody" not in operation:
            continue
        content = operation["requestBody"]["content"]["application/json"]
        name = content["schema"]["$ref"].rpartition("/")[2]
        for member in schemas[name]["properties"]:
            for value in JUNK:
                body = {**content["example"], member: value}
                if value is ABSENT:
                    del body[member]
                raw = json.dumps(body)
                answer = await call(method, path.removeprefix(PREFIX), content=raw, token=access)
                is_refused = answer.status_code >= 400
                assert is_refused or _is_sound(call, name, body), (path, member)


def _is_sound(call: Caller, schema: str, body: Any) -> bool:
    """What was accepted is what the document allows."""
    call.contract.validate(body, f"/components/schemas/{schema}")
    return True


@pytest.mark.parametrize("call", [{"registration": "closed"}], indirect=True)
async def test_closed_registration_answers_as_documented(call: Caller) -> None:
    """One refusal, whoever asks."""
    assert await call.code("POST", "/register", ACCOUNT) == (403, "registration_closed")


@pytest.mark.parametrize("call", [{"registration_silent": "yes"}], indirect=True)
async def test_silent_registration_answers_as_documented(call: Caller) -> None:
    """The document follows the setting: no tokens and no 409 any more, but a 202 for everybody."""
    operation = call.contract.document["paths"][f"{PREFIX}/register"]["post"]
    assert {"200", "409"} & operation["responses"].keys() == set()
    answers = [await call("POST", "/register", ACCOUNT) for _ in range(2)]
    assert [(answer.status_code, answer.json()) for answer in answers] == [
        (202, {"status": "received"})
    ] * 2


@pytest.mark.parametrize(("low", "high"), [(8, 100), (15, 256)])
def test_bounds_of_a_password_are_those_of_the_settings(low: int, high: int) -> None:
    """A generated client refuses what the server would refuse."""
    settings = make_settings(
        "sqlite:///unused", Path("unused"), password_min_length=low, password_max_length=high
    )
    contract = Contract(openapi_document(settings, GRANTS))
    body = "/components/schemas/RegisterBody"
    for length in (low, high):
        contract.validate({**ACCOUNT, "password": "ä" * length}, body)
    for length in (low - 1, high + 1):
        with pytest.raises(jsonschema.ValidationError):
            contract.validate({**ACCOUNT, "password": "ä" * length}, body)
