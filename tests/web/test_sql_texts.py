"""SQL in every parameter of the interface is a text like any other (O269; ASVS 1.2.4).

The parameters are those of the served document, so that a new one is tested without anybody
having to remember.
"""

from collections.abc import Iterator
from typing import Any

from tests.support.account import post, start_session
from tests.support.contract import Contract
from tests.support.leaks.hooks import KeyDirectories
from tests.support.leaks.watch import Watch
from tests.support.server import EMAIL, PASSWORD, RunningServer, from_address
from tests.support.token_state import World

# Both engines' ways out of a text, and what would be noticed at once if one worked.
TEXTS = (
    "x' OR '1'='1' --",
    '"; DROP TABLE users; --',
    "$1 :name %s ?1 \\' E'\\x27' /**/ UNION SELECT 1",
)


def parameters(operation: dict[str, Any], document: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Where (`body`, `query`, `path`, `header`) and name of everything that may be sent."""
    for part in operation.get("parameters", ()):
        shared = document["components"].get("parameters", {})
        found = shared.get(part.get("$ref", "").rpartition("/")[2], part)
        yield found["in"], found["name"]
    for content in operation.get("requestBody", {}).get("content", {}).values():
        for name in sorted(set(members(content["schema"], document))):
            yield "body", name


def members(schema: dict[str, Any], document: dict[str, Any]) -> Iterator[str]:
    if "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    yield from schema.get("properties", ())
    for kind in ("oneOf", "anyOf", "allOf"):
        for part in schema.get(kind, ()):
            yield from members(part, document)


def sound_body(path: str, name: str) -> dict[str, str]:
    """A request that would be good, so that the one bad parameter reaches its reader."""
    if not path.startswith("/oauth2"):
        account = {"email": EMAIL, "password": PASSWORD, "name": "Ada", "label": "a"}
        # A new password may be any text, SQL too: it is not to be set here.
        change = {"current_password": PASSWORD + "?", "new_password": PASSWORD + "!"}
        return {"/api/auth/register": account, "/api/auth/change-password": change}.get(
            path, {key: account[key] for key in ("email", "password")} if "login" in path else {}
        )
    grant = {"grant_type": "password", "username": EMAIL, "password": PASSWORD}
    if name == "refresh_token":
        grant = {"grant_type": "refresh_token"}
    elif name.startswith(("subject_", "actor_", "requested_")) or name == "audience":
        grant = {"grant_type": "urn:ietf:params:oauth:grant-type:token-exchange"}
    return {"client_id": "app", **(grant if path.endswith("token") else {"token": "x"})}


async def test_sql_in_every_parameter_is_a_text(
    server: RunningServer, leak_watch: tuple[Watch, KeyDirectories]
) -> None:
    """Each parameter of each operation, three texts: an answer that the document describes, and
    nobody is logged in, added or gone."""
    await World.make(server)
    with leak_watch[0].not_learning():  # the same texts are passwords here and names elsewhere
        await ask_all(server)
    session = await start_session(server)
    assert (await session.call("GET", "/me")).json()["email"] == EMAIL


async def ask_all(server: RunningServer) -> None:
    contract = Contract((await server.http.get("/openapi.json")).json())
    session = await start_session(server)
    asked = 0
    for method, path, operation in contract.operations():
        for place, name in parameters(operation, contract.document):
            for text in TEXTS:
                asked += 1
                headers = {**session.bearer, **from_address(f"10.{asked // 250}.{asked % 250}.7")}
                if path.startswith("/oauth2") or path in ("/api/auth/login", "/api/auth/refresh"):
                    del headers["Authorization"]
                url = path.replace("{" + name + "}", "%27%20OR%201%3D1--") if "{" in path else path
                options: dict[str, Any] = {"headers": headers}
                if place == "body":
                    body = {**sound_body(path, name), name: text}
                    options["data" if path.startswith("/oauth2") else "json"] = body
                elif place == "query":
                    options["params"] = {name: text}
                elif place == "header":
                    headers[name] = text
                answer = await server.http.request(method, url, **options)
                assert answer.status_code not in (200, 201, 204) or (name, method) in HARMLESS, (
                    method,
                    path,
                    name,
                    answer.text,
                )
                server.http.cookies.clear()
                if "{" not in path:
                    contract.check(answer)
    assert asked > 150


# Free texts, and what a reader may leave unread.
HARMLESS = {
    ("label", "POST"),
    ("name", "POST"),
    ("token_type_hint", "POST"),
    ("token", "POST"),
    ("If-None-Match", "GET"),
}


async def test_sql_that_is_stored_comes_back_as_it_was(server: RunningServer) -> None:
    """A name, a label and an API key's name: stored and given back byte for byte."""
    for number, text in enumerate(TEXTS):
        account = {"email": f"p{number}@example.org", "password": PASSWORD, "name": text}
        answer = await post(server, "/register", {**account, "label": text})
        assert answer.status_code == 200, answer.text
        bearer = {"Authorization": f"Bearer {answer.json()['access_token']}"}
        assert (await server.http.get("/api/auth/me", headers=bearer)).json()["name"] == text
        listed = (await server.http.get("/api/auth/sessions", headers=bearer)).json()["sessions"]
        assert [each["label"] for each in listed] == [text]
        made = await server.http.post("/api/auth/api-keys", json={"name": text}, headers=bearer)
        assert made.json()["name"] == text, made.text
