"""GET /openapi.json is valid, complete, and true of what a running server answers."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest
from litestar import Litestar

from tests.support.contract import Contract
from tests.support.server import AUDIENCE, EMAIL, ISSUER, PASSWORD, RunningServer, make_settings
from token_server.app import create_app
from token_server.core.client_policy import GRANT_TYPES
from token_server.grants.registry import GRANTS
from token_server.services.health import Readiness
from token_server.web.account import ROUTES
from token_server.web.account_call import PREFIX
from token_server.web.edge import Edge
from token_server.web.exact_paths import ExactPaths
from token_server.web.health import health_handlers
from token_server.web.openapi import openapi_document
from token_server.web.status_lists import ONE_LIST

# The official schema of the document's form, https://spec.openapis.org/oas/3.1/schema/2022-10-07.
META_SCHEMA = Path(__file__).parent / "data" / "openapi-3.1-schema.json"
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


@pytest.fixture(scope="module")
def contract() -> Contract:
    settings = make_settings("sqlite:///unused", Path("unused"))
    return Contract(json.loads(json.dumps(openapi_document(settings, GRANTS))))


def parts(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
        for part in value.values():
            yield from parts(part)
    elif isinstance(value, list):
        for part in value:
            yield from parts(part)


def routes(server: RunningServer) -> set[str]:
    """The paths of the application as it is served."""
    app = create_app(server.runtime, health_handlers(Readiness(server.runtime)))
    assert isinstance(app, Edge)
    exact = app._app
    assert isinstance(exact, ExactPaths)
    litestar = exact.rest
    assert isinstance(litestar, Litestar)
    account = {PREFIX + path for path in ROUTES}  # one session is below the list's mount
    return {route.path_format for route in litestar.routes} | exact.paths | account | {ONE_LIST}


def test_document_has_the_form_of_openapi_3_1(contract: Contract) -> None:
    """Checked against the official meta-schema, and each schema in it against JSON Schema's."""
    meta_schema = json.loads(META_SCHEMA.read_text())
    jsonschema.Draft202012Validator(meta_schema).validate(contract.document)
    for schema in contract.document["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)
    inline = [part["schema"] for part in parts(contract.document) if "schema" in part]
    assert len(inline) > 20
    for schema in inline:
        jsonschema.Draft202012Validator.check_schema(schema)


def test_references_lead_somewhere_and_nothing_is_left_over(contract: Contract) -> None:
    """Every component is used, every `$ref` finds one."""
    used = {part["$ref"] for part in parts(contract.document) if "$ref" in part}
    mapped = {
        target
        for part in parts(contract.document)
        for target in part.get("discriminator", {}).get("mapping", {}).values()
    }
    components = contract.document["components"]
    there = {
        f"#/components/{kind}/{name}"
        for kind in components.keys() - {"securitySchemes"}
        for name in components[kind]
    }
    assert used | mapped == there
    schemes = {
        name
        for _, _, operation in contract.operations()
        for choice in operation["security"]
        for name in choice
    }
    assert schemes == set(components["securitySchemes"])


def test_every_operation_has_a_name_of_its_own(contract: Contract) -> None:
    """Generated clients make functions of them; tags and path parameters are declared."""
    names = [operation["operationId"] for _, _, operation in contract.operations()]
    assert len(set(names)) == len(names)
    tags = {tag["name"] for tag in contract.document["tags"]}
    for _, path, operation in contract.operations():
        assert set(operation["tags"]) <= tags
        in_path = {part["name"] for part in operation.get("parameters", ()) if part["in"] == "path"}
        assert in_path == {part[1:-1] for part in path.split("/") if part.startswith("{")}


def test_every_example_is_one(contract: Contract) -> None:
    """What a person starts from in /docs fits the schema beside it."""
    seen = 0
    for method, path, operation in contract.operations():
        for media_type, content in operation.get("requestBody", {}).get("content", {}).items():
            examples = [each["value"] for each in content.get("examples", {}).values()]
            for example in examples or [content["example"]]:
                escaped = [part.replace("/", "~1") for part in (path, media_type)]
                where = f"/paths/{escaped[0]}/{method.lower()}/requestBody/content/{escaped[1]}"
                where = where.replace("{", "%7B").replace("}", "%7D")
                contract.validate(example, f"{where}/schema")
                seen += 1
    with_body = [1 for _, _, operation in contract.operations() if "requestBody" in operation]
    assert seen == len(with_body) - 1 + len(GRANTS)  # one for each, and one for each grant


async def test_document_names_every_route_and_nothing_else(sqlite_server: RunningServer) -> None:
    """Neither a path that is not served nor one that is not described."""
    document = (await sqlite_server.http.get("/openapi.json")).json()
    assert set(document["paths"]) == routes(sqlite_server)


async def test_document_names_every_method_and_nothing_else(sqlite_server: RunningServer) -> None:
    """Each other method is a 405 whose Allow names the documented ones (and HEAD, OPTIONS)."""
    contract = Contract((await sqlite_server.http.get("/openapi.json")).json())
    for path, item in contract.document["paths"].items():
        documented = {method.upper() for method in item}
        for method in METHODS:
            url = path.replace("{", "").replace("}", "")
            answer = await sqlite_server.http.request(method, url)
            assert (answer.status_code == 405) == (method not in documented), (method, path)
            if answer.status_code == 405:
                allowed = set(answer.headers["allow"].split(", "))
                assert allowed - {"HEAD", "OPTIONS"} == documented


async def test_document_is_served_from_memory(sqlite_server: RunningServer) -> None:
    """ETag, 304 and HEAD; URLs from the issuer; no word on which release runs (ASVS 13.4.6)."""
    got = await sqlite_server.http.get("/openapi.json", headers={"Host": "evil.example"})
    assert got.json()["servers"] == [{"url": ISSUER}]
    assert got.json()["info"]["version"] == "1"
    headed = await sqlite_server.http.head("/openapi.json")
    assert (headed.status_code, headed.headers["etag"]) == (200, got.headers["etag"])
    again = await sqlite_server.http.get(
        "/openapi.json", headers={"If-None-Match": got.headers["etag"]}
    )
    assert (again.status_code, again.content) == (304, b"")


def test_every_grant_has_its_form(contract: Contract) -> None:
    """With the grant's own parameters, all of them described."""
    schemas = contract.document["components"]["schemas"]
    operation = contract.document["paths"]["/oauth2/token"]["post"]
    schema = operation["requestBody"]["content"]["application/x-www-form-urlencoded"]["schema"]
    assert set(schema["discriminator"]["mapping"]) == set(GRANT_TYPES)
    for name, target in schema["discriminator"]["mapping"].items():
        form = schemas[target.rpartition("/")[2]]
        grant = GRANTS[name]
        assert form["required"] == ["grant_type", *grant.required]
        assert {*grant.required, *grant.optional} <= form["properties"].keys()
        for parameter, description in form["properties"].items():
            assert parameter == "grant_type" or description["description"]


async def add_everyone(server: RunningServer) -> None:
    scopes, audiences = ("orders:read",), (AUDIENCE,)
    await server.add_client(
        "billing", grant_types=("client_credentials",), scopes=scopes, audiences=audiences
    )
    await server.add_client(
        "app",
        grant_types=("password", "refresh_token"),
        scopes=scopes,
        audiences=audiences,
        is_public=True,
    )
    await server.add_user()


async def test_token_endpoint_answers_as_documented(sqlite_server: RunningServer) -> None:
    """Good and bad: each answer has the documented status, headers and body, and the document
    lists no answer that was not seen here (but 500)."""
    server = sqlite_server
    await add_everyone(server)
    contract = Contract((await server.http.get("/openapi.json")).json())
    user = {"grant_type": "password", "username": EMAIL, "password": PASSWORD}
    machine = {"grant_type": "client_credentials"}
    tokens = contract.check(await server.token("app", None, **user)).json()
    good = [
        await server.token("billing", None, **machine),
        await server.token("billing", None, scope="orders:read", **machine),
        await server.refresh(tokens["refresh_token"]),
        await server.refresh(tokens["refresh_token"]),
    ]
    assert {contract.check(answer).status_code for answer in good} == {200}
    refused = [
        ("invalid_request", await server.token("app", None)),
        ("invalid_request", await server.http.post("/oauth2/token?a=b", data=user)),
        ("invalid_client", await server.token("stranger", None, **user)),
        ("invalid_client", await server.token(None, None, **machine)),
        ("unauthorized_client", await server.token("billing", None, **user)),
        ("unsupported_grant_type", await server.token("app", None, grant_type="magic")),
        ("invalid_grant", await server.token("app", None, **user | {"password": "wrong"})),
        ("invalid_grant", await server.refresh("junk")),
        ("invalid_scope", await server.token("app", None, scope="admin", **user)),
        ("invalid_target", await server.token("app", None, resource="https://x.example", **user)),
        ("invalid_request", await server.http.post("/oauth2/token", json=user)),
        ("invalid_request", await server.http.post("/oauth2/token", content="a" * 20_000)),
        (
            "invalid_request",
            await server.http.post("/oauth2/token", content="a" * 20_000, headers=FORM),
        ),
    ]
    for error, answer in refused:
        assert contract.check(answer).json()["error"] == error
    wrong = user | {"password": "wrong"}
    guesses = [contract.check(await server.token("app", None, **wrong)) for _ in range(10)]
    assert guesses[-1].status_code == 429
    server.clock.stepped_back = True
    assert contract.check(await server.token("app", None, **user)).status_code == 503
    documented = contract.document["paths"]["/oauth2/token"]["post"]["responses"]
    seen = {str(status) for name, status in contract.seen if name == "getToken"}
    assert documented.keys() - seen == {"500"}
    assert {error for error, _ in refused} == set(
        documented["400"]["content"]["application/json"]["schema"]["properties"]["error"]["enum"]
    ) | {"invalid_client"}


async def test_documents_and_health_answer_as_documented(sqlite_server: RunningServer) -> None:
    """Every GET without parameters, fresh, unchanged, and not ready."""
    server = sqlite_server
    contract = Contract((await server.http.get("/openapi.json")).json())
    documents = [
        path
        for method, path, operation in contract.operations()
        if method == "GET" and "documents" in operation["tags"]
    ]
    assert len(documents) == 4
    for path in documents:
        etag = contract.check(await server.http.get(path)).headers["etag"]
        contract.check(await server.http.get(path, headers={"If-None-Match": etag}))
    for path in ("/livez", "/readyz"):
        contract.check(await server.http.get(path))
    server.clock.advance(2)
    server.clock.stepped_back = True
    assert contract.check(await server.http.get("/readyz")).status_code == 503
    documented = {
        (operation["operationId"], int(status))
        for _, _, operation in contract.operations()
        if {"documents", "health"} & set(operation["tags"])
        for status in operation["responses"]
        if status != "500"
    }
    assert contract.seen == documented


@pytest.mark.parametrize(
    ("body", "media_type"),
    [
        ({"access_token": "a.b.c", "token_type": "Bearer", "expires_in": 0}, "application/json"),
        ({"access_token": "a.b.c", "token_type": "mac", "expires_in": 1}, "application/json"),
        ({"access_token": "a.b.c", "token_type": "Bearer", "expires_in": 1, "x": 1}, None),
    ],
)
def test_an_answer_that_breaks_the_promise_is_noticed(
    contract: Contract, body: dict[str, Any], media_type: str | None
) -> None:
    """The judge of the other tests does refuse: wrong values, undescribed members."""
    answer = httpx.Response(
        200,
        json=body,
        headers={
            "X-Request-Id": "a" * 16,
            "Cache-Control": "no-store",
            "Pragma": "no-cache",
            "Content-Type": media_type or "application/json",
        },
        request=httpx.Request("POST", "https://auth.example/oauth2/token"),
    )
    with pytest.raises(jsonschema.ValidationError):
        contract.check(answer)
