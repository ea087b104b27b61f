"""One connection of the soak: a mixture of requests, drawn by lot, about sessions of its own.

Its access tokens come from its own refreshes, so none is ever older than a few seconds.
"""

import random
from collections import Counter
from collections.abc import Callable

from scripts._bench_load import Repeat
from scripts._bench_world import APP, GATEWAY, SERVICE, World, login_form
from tests.support.load import form_request, get_request, token_request
from token_server.services.metadata import INTROSPECTION_PATH, JWKS_PATH, REVOCATION_PATH

# Per mille of all requests. Logins are few: their hashes would be all that the run measures.
MIX = {
    "client_credentials": 400,
    "refresh": 240,
    "introspect": 100,
    "jwks": 80,
    "jwks-304": 50,
    "me": 50,
    "account refresh": 35,
    "status-list": 35,
    "revoke": 8,
    "password": 2,
}
_EXPECTED = {
    "client_credentials": (b"200", b'"access_token":"ey'),
    "password": (b"200", b'"refresh_token":"'),
    "introspect": (b"200", b'"active":true'),
    "me": (b"200", b'"email":"bench-'),
    "status-list": (b"200", b"ey"),
    "jwks": (b"200", b'"keys":[{'),
    "jwks-304": (b"304", b""),
}


class Visitor:
    """A talk (_bench_load.py); `counts` are the answers by kind, of all visitors together."""

    def __init__(self, world: World, number: int, counts: Counter[str]) -> None:
        self._world = world
        self._chain = world.chains[number]
        self._account = world.account_chains[number]
        self._counts = counts
        self._dice = random.Random(number)  # noqa: S311 - the same mixture in each run
        self._kind = "refresh"
        machine = {"grant_type": "client_credentials", "client_id": SERVICE}
        request = token_request(machine, secret=world.secrets[SERVICE])
        self._requests: dict[str, Callable[[], bytes | None]] = {
            "client_credentials": lambda: request,
            "refresh": self._chain.ask,
            "account refresh": self._account.ask,
            "introspect": self._introspect,
            "revoke": self._revoke,
            "me": self._me,
            "password": lambda: token_request(login_form(self._dice.choice(world.emails))),
            "jwks": lambda: get_request(JWKS_PATH),
            "jwks-304": lambda: get_request(JWKS_PATH, {"If-None-Match": "*"}),
            "status-list": lambda: get_request(world.status_path),
        }

    @property
    def can_go_on(self) -> bool:
        """False after a refresh without an answer: its token must not be used again."""
        return not (self._chain.is_open or self._account.is_open)

    def ask(self) -> bytes | None:
        (self._kind,) = self._dice.choices(list(MIX), list(MIX.values()))
        return self._requests[self._kind]()

    def hear(self, status: bytes, body: bytes, *, is_sample: bool) -> str | None:
        self._counts[self._kind] += 1
        if self._kind == "refresh":
            problem = self._chain.hear(status, body, is_sample=True)
        elif self._kind == "account refresh":
            problem = self._account.hear(status, body, is_sample=True)
        else:
            expected = _EXPECTED.get(self._kind, (b"200", b""))
            problem = Repeat((), *expected).hear(status, body, is_sample=is_sample)
        return None if problem is None else f"{self._kind}: {problem}"

    def _introspect(self) -> bytes:
        secret = {"client_id": GATEWAY, "client_secret": self._world.secrets[GATEWAY]}
        form = {"token": self._chain.access_token, **secret}
        return form_request(INTROSPECTION_PATH, form)

    def _revoke(self) -> bytes:
        form = {"token": self._world.unused.pop(), "client_id": APP}
        return form_request(REVOCATION_PATH, form)

    def _me(self) -> bytes:
        bearer = {"Authorization": f"Bearer {self._account.access_token}"}
        return get_request("/api/auth/me", bearer)
