"""Every door at which something can be guessed, read from the description of the interface.

The OpenAPI document names what each operation takes, and a test compares it with the routes that
are served. So a new operation that takes a password, a client secret or an API key is attacked
here without anybody thinking of it, and a new *kind* of secret is refused until somebody says
how it is counted (`UnknownSecretError`).
"""

import base64
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import quote_plus, urlencode

import httpx

from tests.support.api_keys import add_owner
from tests.support.exchange import ORDERS
from tests.support.load import raw_request
from tests.support.server import EMAIL, PASSWORD
from token_server.core.api_key import format_api_key
from token_server.core.client_policy import TOKEN_EXCHANGE
from token_server.core.token_exchange import API_KEY_TYPE
from token_server.runtime import Runtime
from token_server.services.clients import NewClient, add_client

Kind = Literal["password", "client secret", "api key"]
Json = dict[str, Any]

# One account, however it is written (case F106).
SPELLINGS = (EMAIL, " Ada@Example.ORG ", "\uff41da@example.org", "ADA@EXAMPLE.ORG")
APP, SERVICE = "guessed-app", "guessed-service"

# What a member or a scheme of the document is to a guesser. None: nothing to guess at, since what
# is no token of ours is told from its MAC or signature, without a query (tests in web/).
_MEMBERS: Mapping[str, Kind | None] = {
    "password": "password",
    "current_password": "password",
    "new_password": None,
    "client_secret": "client secret",
    "subject_token": "api key",
    "subject_token_type": None,
    "actor_token": None,
    "actor_token_type": None,
    "requested_token_type": None,
    "token_type_hint": None,
    "token": None,
    "token_audience": None,
    "refresh_token": None,
    "refresh_token_in": None,
}
_SCHEMES: Mapping[str, Kind | None] = {
    "clientBasic": "client secret",
    "forwardAuthClient": "client secret",
    "apiKey": "api key",
    "anyApiKey": "api key",
    "accessToken": None,
    "anyAccessToken": None,
    "refreshCookie": None,
}
_LOOKS_SECRET = re.compile(r"(?i)pass|secret|token|code|otp|pin\b|key|assertion|credential")


class UnknownSecretError(Exception):
    """The interface takes a secret of which nobody has said how guesses at it are counted."""


@dataclass(frozen=True, slots=True)
class Targets:
    """One user with a live session and a second one, one API key, one client of each kind."""

    access_token: str = field(repr=False)
    session_id: str  # of the other session
    key_id: str
    service_secret: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Request:
    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes = field(repr=False, default=b"")

    def raw(self, address: str) -> bytes:
        headers = {**self.headers, "X-Forwarded-For": address}
        return raw_request(self.method, self.path, headers, self.body)

    async def send(self, http: httpx.AsyncClient, address: str) -> httpx.Response:
        headers = {**self.headers, "X-Forwarded-For": address}
        return await http.request(self.method, self.path, headers=headers, content=self.body)


@dataclass(frozen=True, slots=True)
class Attack:
    """One way to guess; every guess of a kind goes at one and the same account."""

    name: str
    kind: Kind
    method: str
    path: str
    where: str  # the member of the body (behind the grant) or the security scheme
    operation: Json = field(repr=False)
    targets: Targets = field(repr=False)

    @property
    def is_registration(self) -> bool:
        """Its guess is at an e-mail, not at a password."""
        return bool(self.operation["operationId"] == "register")

    def guess(self, number: int) -> Request:
        """The request with a wrong secret, another one for each number."""
        content = self.operation.get("requestBody", {}).get("content", {})
        headers = self._headers(number)
        body = b""
        if "application/json" in content:
            headers["Content-Type"] = "application/json"
            body = self._json(number, dict(content["application/json"]["example"]))
        elif content:
            headers["Content-Type"] = "application/x-www-form-urlencoded"
            body = urlencode(self._form(number)).encode()
        ids = {"session_id": self.targets.session_id, "key_id": self.targets.key_id}
        path = self.path.format(**ids)
        if self.where == "forwardAuthClient":
            path += "?" + urlencode({"token_audience": ORDERS})
        return Request(self.method, path, headers, body)

    def _headers(self, number: int) -> dict[str, str]:
        wrong, bearer = f"guess {number}", f"Bearer {self.targets.access_token}"
        match self.where:
            case "clientBasic":
                return {"Authorization": _basic(SERVICE, wrong)}
            case "forwardAuthClient":
                proxy = _basic(SERVICE, wrong)
                return {"X-Forward-Auth-Client": proxy, "Authorization": bearer}
            case "apiKey" | "anyApiKey":
                return {"X-API-Key": _wrong_key(self.targets.key_id, number)}
            case _ if self.where.endswith("subject_token"):
                return {"Authorization": _basic(SERVICE, self.targets.service_secret)}
            case "current_password":
                return {"Authorization": bearer}
            case _:
                return {}

    def _json(self, number: int, body: Json) -> bytes:
        if "email" in body:
            body["email"] = SPELLINGS[number % len(SPELLINGS)]
        body[self.where] = f"wrong battery staple horse {number}"
        return json.dumps(body).encode()

    def _form(self, number: int) -> dict[str, str]:
        grant, _, member = self.where.rpartition(":")
        form = {"grant_type": grant or "client_credentials", "token": "e30.e30.e30"}
        match member:
            case "client_secret":
                form |= {"client_id": SERVICE, "client_secret": f"guess {number}"}
            case "password":
                email = SPELLINGS[number % len(SPELLINGS)]
                form |= {"client_id": APP, "username": email, "password": f"guess {number}"}
            case "subject_token":
                key = _wrong_key(self.targets.key_id, number)
                form |= {"subject_token": key, "subject_token_type": API_KEY_TYPE}
        return form


async def prepare(runtime: Runtime) -> str:
    """The user and the clients that are guessed at; the secret of the confidential one."""
    await add_owner(runtime, EMAIL)
    people = NewClient(APP, ("password", "refresh_token"), is_public=True)
    service = NewClient(
        SERVICE, (TOKEN_EXCHANGE, "client_credentials"), exchange_audiences=(ORDERS,)
    )
    await add_client(runtime, people)
    _, secret = await add_client(runtime, service)
    assert secret is not None
    return secret.reveal()


async def find_targets(http: httpx.AsyncClient, address: str, service_secret: str) -> Targets:
    """Log in twice and make a key, from a network of one's own."""
    origin = {"X-Forwarded-For": address}
    body = {"email": EMAIL, "password": PASSWORD}
    first, _ = [
        (await http.post("/api/auth/login", json=body, headers=origin)).json()["access_token"]
        for _ in range(2)
    ]
    bearer = {"Authorization": f"Bearer {first}", **origin}
    sessions = (await http.get("/api/auth/sessions", headers=bearer)).json()["sessions"]
    [other] = [session["id"] for session in sessions if not session["is_current"]]
    key = await http.post("/api/auth/api-keys", json={"name": "Guessed"}, headers=bearer)
    return Targets(first, other, key.json()["id"], service_secret)


def find_attacks(document: Json, targets: Targets) -> list[Attack]:
    """Every operation with every kind of secret that it takes; UnknownSecretError for a new one."""
    found: dict[str, Attack] = {}
    for method, path, operation in _operations(document):
        for kind, where in _secrets(document, operation):
            name = f"{method} {path} {where}"
            found[name] = Attack(name, kind, method, path, where, operation, targets)
    return list(found.values())


def _operations(document: Json) -> Iterator[tuple[str, str, Json]]:
    for path, item in document["paths"].items():
        for method, operation in item.items():
            yield method.upper(), path, operation


def _secrets(document: Json, operation: Json) -> Iterator[tuple[Kind, str]]:
    for scheme in sorted({name for way in operation.get("security", ()) for name in way}):
        if scheme not in _SCHEMES:
            raise UnknownSecretError(scheme)
        kind = _SCHEMES[scheme]
        if kind is not None:
            yield kind, scheme
    for form, member in _members(document, operation):
        if member not in _MEMBERS:
            if _LOOKS_SECRET.search(member):
                raise UnknownSecretError(member)
            continue
        kind = _MEMBERS[member]
        if kind is not None:
            yield kind, f"{form}:{member}" if form else member


def _members(document: Json, operation: Json) -> Iterator[tuple[str, str]]:
    """The members of the body; at the token endpoint with the grant that they are of."""
    for content in operation.get("requestBody", {}).get("content", {}).values():
        schema = content["schema"]
        for part in schema.get("oneOf", [schema]):
            properties = _resolve(document, part)["properties"]
            grant = properties.get("grant_type", {}).get("const", "")
            for name in properties:
                yield grant, name
    for parameter in operation.get("parameters", ()):
        if parameter["in"] != "path":  # which session or key it is, is no secret
            yield "", parameter["name"]


def _resolve(document: Json, schema: Json) -> Json:
    reference = schema.get("$ref")
    if reference is None:
        return schema
    return dict(document["components"]["schemas"][reference.rpartition("/")[2]])


def _wrong_key(key_id: str, number: int) -> str:
    return format_api_key(key_id, number.to_bytes(32, "big"))


def _basic(client_id: str, secret: str) -> str:
    pair = f"{quote_plus(client_id)}:{quote_plus(secret)}"
    return "Basic " + base64.b64encode(pair.encode()).decode()
