"""Servers whose keys rotate within seconds, and what they sign and publish meanwhile."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import httpx
import jwt

from tests.support.plain_http import NO_TLS
from tests.support.process import Installation, ServerProcess

# Verifiers may cache for a second, so that a whole rotation takes seconds.
QUICK = {
    "JWKS_MAX_AGE": "1s",
    "KEY_RELOAD_INTERVAL": "1s",
    "CLOCK_SKEW": "0s",
    "ACCESS_TOKEN_TTL": "60s",
}
MASTER_KEY = "1:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8\n"
CLIENT_ID = "machine"
WAIT_S = 60.0
POLL_S = 0.1


def installation_of(
    directory: Path, database_url: str, key_store: str, **more: str
) -> Installation:
    """An installation with quick keys in `key_store`, and one client for tokens."""
    overrides = {**QUICK, **more, "KEY_STORE": key_store}
    if key_store == "database":
        path = directory / "master.key"
        path.write_text(MASTER_KEY)
        path.chmod(0o600)
        overrides["MASTER_KEY_FILE"] = str(path)
    return Installation(directory, database_url, overrides)


def add_client(installation: Installation) -> str:
    """Register the client; its secret."""
    arguments = ("client", "add", CLIENT_ID, "--grant", "client_credentials")
    return str(installation.run_cli(*arguments)["client_secret"])


@dataclass(frozen=True, slots=True)
class Seen:
    """One answer of the token endpoint with the JWKS that the same server gave right before."""

    at: float
    status: int
    kid: str | None
    issued_at: int
    published: frozenset[str]
    is_ready: bool


@dataclass(slots=True)
class Watcher:
    """Asks one server, again and again."""

    server: ServerProcess
    secret: str
    http: httpx.Client = field(default_factory=lambda: httpx.Client(timeout=10, verify=NO_TLS))
    seen: list[Seen] = field(default_factory=list)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.http.close()

    def look(self) -> Seen:
        jwks = self.http.get(f"{self.server.base_url}/.well-known/jwks.json")
        assert jwks.status_code == 200
        answer = self.http.post(
            f"{self.server.base_url}/oauth2/token",
            data={"grant_type": "client_credentials"},
            auth=(CLIENT_ID, self.secret),
        )
        ready = self.http.get(f"{self.server.management_url}/readyz")
        kid, issued_at = None, 0
        if answer.status_code == 200:
            token = answer.json()["access_token"]
            kid = jwt.get_unverified_header(token)["kid"]
            issued_at = jwt.decode(token, options={"verify_signature": False})["iat"]
        published = frozenset(key["kid"] for key in jwks.json()["keys"])
        self.seen.append(
            Seen(time.time(), answer.status_code, kid, issued_at, published, ready.is_success)
        )
        return self.seen[-1]

    def until(self, reached: Callable[[Seen], bool], what: str) -> Seen:
        deadline = time.monotonic() + WAIT_S
        while not reached(seen := self.look()):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{what}: {seen}")
            time.sleep(POLL_S)
        return seen


def dated_key(report: dict[str, Any]) -> tuple[str, int]:
    """The kid that a rotation dated, and when it signs."""
    (step,) = [step for step in report["steps"] if step["kind"] == "scheduled"]
    return str(step["kid"]), int(step["at"])


def stored_keys(installation: Installation) -> list[dict[str, Any]]:
    return list(installation.run_cli("keys", "list")["keys"])


def log_events(server: ServerProcess, name: str) -> list[str]:
    return [json.dumps(record) for record in server.log_records() if record["event"] == name]
