"""Who asks in `scripts/schemathesis`: clients, people and programs with real credentials.

A generated request rarely guesses a password. Here some of them get a credential that is good, one
that is good elsewhere, or junk; and tokens, passwords and grants that exist in place of made-up
ones. Sessions are ended by the requests themselves, so there are always new ones.
"""

import base64
import itertools
import re
from dataclasses import dataclass, field
from random import Random
from typing import Any

import httpx

from tests.support.process import PUBLIC_ISSUER, Installation

AUDIENCE = "https://orders.example"
PASSWORD = "seven quiet otters under glass"
SCOPES = ("orders:read", "orders:write")
KEPT = 40
_SESSION_ID = re.compile(rb'"(ses_[A-Za-z0-9_-]{22})"')
_KEY_ID = re.compile(rb'"(key_[A-Za-z0-9_-]{16})"')


@dataclass(slots=True)
class Person:
    email: str
    access_token: str
    refresh_token: str
    api_key: str | None


@dataclass(slots=True)
class World:
    """Clients: `billing` is a machine, `app` logs people in, `orders` serves AUDIENCE."""

    base_url: str
    secrets: dict[str, str]
    random: Random = field(default_factory=lambda: Random(7))  # noqa: S311 - generates tests
    people: list[Person] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)
    session_ids: list[str] = field(default_factory=list)
    key_ids: list[str] = field(default_factory=list)
    _numbers: Any = field(default_factory=itertools.count)
    _asked: int = 0

    @classmethod
    def make(cls, installation: Installation, base_url: str) -> "World":
        here = [f"--scope={scope}" for scope in SCOPES] + [f"--audience={AUDIENCE}"]
        secrets = {}
        for name, options in {
            "billing": ["--grant=client_credentials", "--revocable", *here],
            "app": ["--grant=password", "--grant=refresh_token", "--public", *here],
            "orders": [
                "--grant=token-exchange",
                f"--serves={AUDIENCE}",
                "--exchange-audience=https://stock.example",
                *(f"--scope={scope}" for scope in SCOPES),
            ],
        }.items():
            made = installation.run_cli("client", "add", name, *options)
            secrets[name] = str(made.get("client_secret") or "")
        return cls(base_url, secrets)

    def dress(self, case: Any, random: Random) -> dict[str, Any]:
        """What the call is sent with; changes parts of the body and the path in place."""
        self._asked += 1
        if self._asked % 60 == 1 or not self.people:
            self._join()
        person = random.choice(self.people[-3:])
        self._fill(case, person, random)
        headers = {"X-Forwarded-For": str(f"10.{random.randrange(256)}.{random.randrange(256)}.7")}
        who = random.choice(("nobody", "person", "person", "client", "key", "junk", "page"))
        if who == "person":
            headers["Authorization"] = f"Bearer {person.access_token}"
        elif who == "client":
            headers["Authorization"] = self._basic(random.choice(("billing", "orders")))
        elif who == "key" and person.api_key is not None:
            headers["X-API-Key"] = person.api_key
        elif who == "junk":
            value = random.choice(
                ("Basic !", "Bearer a.b.c", "Digest x", "Bearer", self._basic("x"))
            )
            headers["Authorization"] = value
        elif who == "page":
            headers["Origin"] = PUBLIC_ISSUER
            headers["Cookie"] = f"__Host-token_server_refresh={person.refresh_token}"
        return {"headers": headers}

    def learn(self, answer: Any) -> None:
        """Ids and tokens for later requests."""
        for pattern, known in ((_SESSION_ID, self.session_ids), (_KEY_ID, self.key_ids)):
            known.extend(found.decode() for found in pattern.findall(answer.content))
            del known[:-KEPT]
        if answer.content.startswith(b'{"access_token":'):
            self.tokens.append(answer.json()["access_token"])
            del self.tokens[:-KEPT]

    def _fill(self, case: Any, person: Person, random: Random) -> None:
        if isinstance(case.body, dict) and random.random() < 0.7:
            known = {
                "refresh_token": person.refresh_token,
                "token": random.choice((person.refresh_token, *(self.tokens or ["x"]))),
                "subject_token": random.choice(self.tokens or [person.access_token]),
                "subject_token_type": "urn:ietf:params:oauth:token-type:access_token",
                "password": PASSWORD,
                "current_password": PASSWORD,
                "new_password": PASSWORD,
                "username": person.email,
                "email": person.email,
                "client_id": random.choice(("app", "billing", "orders")),
                "resource": AUDIENCE,
                "scope": "orders:read",
            }
            for name in case.body.keys() & known.keys():
                if random.random() < 0.8:
                    case.body[name] = known[name]
            # Optional ones that a good request does not have.
            for name in ("client_secret", "actor_token", "actor_token_type", "client_assertion"):
                if random.random() < 0.8:
                    case.body.pop(name, None)
        for name, known_ids in (("session_id", self.session_ids), ("key_id", self.key_ids)):
            parameters = case.path_parameters or {}
            if name in parameters and known_ids and random.random() < 0.6:
                parameters[name] = random.choice(known_ids)

    def _join(self) -> None:
        """Somebody new, with a session and an API key."""
        email = f"person-{next(self._numbers)}@example.org"
        account = {"email": email, "password": PASSWORD, "name": "Somebody"}
        with httpx.Client(base_url=f"{self.base_url}/api/auth", timeout=30) as http:
            tokens = http.post("/register", json=account).raise_for_status().json()
            bearer = {"Authorization": f"Bearer {tokens['access_token']}"}
            made = http.post("/api-keys", json={"name": "Program"}, headers=bearer)
        key = made.json().get("api_key") if made.status_code == 201 else None
        self.people.append(Person(email, tokens["access_token"], tokens["refresh_token"], key))
        self.tokens.append(tokens["access_token"])
        del self.people[:-KEPT]

    def _basic(self, client_id: str) -> str:
        pair = f"{client_id}:{self.secrets.get(client_id, 'junk')}"
        return "Basic " + base64.b64encode(pair.encode()).decode()
