"""A verifying process: `python -m tests.faults.revocation.verifier KIND`.

Reads one JSON line with its configuration and tokens, then verifies all of them again and again,
and writes a JSON line whenever a token's fate changes. `draft` is a verifier by the text of
draft-ietf-oauth-status-list-21 §8.3 alone: PyJWT, and lists that a thread fetches every `ttl`.
`ours` is token_server.verify as a service would use it.
"""

import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jwt
import requests

from tests.support.status_lists import ReadList, read_list
from token_server.verify import StatusChecking, Verifier

PAUSE_S = 0.01
FETCH_TIMEOUT_S = 2

Verify = Callable[[str], None]  # raises when the token is refused


@dataclass(frozen=True, slots=True)
class Place:
    """A resource service's configuration; without a list it accepts for `fail_open_for_s` more."""

    issuer: str
    audience: str
    ttl_s: int
    fail_open_for_s: int


class RefusedError(Exception):
    """Revoked, or not known well enough."""


@dataclass(slots=True)
class ListReader:
    """Follows every list that a token has named; the fetching thread alone speaks to the server."""

    place: Place
    jwks: dict[str, Any]
    lists: dict[str, ReadList] = field(default_factory=dict)
    fetched_at: dict[str, float] = field(default_factory=dict)  # monotonic

    def run(self) -> None:
        while True:
            for uri in tuple(self.lists):
                with contextlib.suppress(requests.RequestException):
                    self.fetch(uri)
            time.sleep(self.place.ttl_s)

    def fetch(self, uri: str) -> None:
        answer = requests.get(uri, timeout=FETCH_TIMEOUT_S)
        answer.raise_for_status()
        found = read_list(answer.text, self.jwks, int(time.time()))
        assert (found.header["typ"], found.claims["sub"]) == ("statuslist+jwt", uri)
        known = self.lists.get(uri)
        if known is not None and found.claims["iat"] < known.claims["iat"]:
            raise SystemExit("a list went back in time")
        self.lists[uri] = found
        self.fetched_at[uri] = time.monotonic()

    def check(self, status: dict[str, Any]) -> None:
        uri, index = status["status_list"]["uri"], status["status_list"]["idx"]
        if uri not in self.lists:
            self.fetch(uri)
        age_s = time.monotonic() - self.fetched_at[uri]
        if age_s > self.place.ttl_s + self.place.fail_open_for_s:
            raise RefusedError("list too old")
        if self.lists[uri].statuses[index]:
            raise RefusedError("revoked")


def draft_verifier(place: Place) -> Verify:
    jwks = requests.get(f"{place.issuer}/.well-known/jwks.json", timeout=FETCH_TIMEOUT_S).json()
    keys, reader = jwt.PyJWKSet.from_dict(jwks), ListReader(place, jwks)
    threading.Thread(target=reader.run, daemon=True).start()

    def verify(token: str) -> None:
        key = keys[jwt.get_unverified_header(token)["kid"]]
        claims = jwt.decode(
            token, key, ["RS256"], audience=place.audience, issuer=place.issuer, leeway=5
        )
        reader.check(claims["status"])

    return verify


def our_verifier(place: Place) -> Verify:
    checking = StatusChecking(require_status=True, fail_open_for_s=place.fail_open_for_s)
    verifier = Verifier(issuer=place.issuer, audience=place.audience, status=checking)
    verifier.start_sync()

    def verify(token: str) -> None:
        verifier.verify_sync(token)

    return verify


KINDS: dict[str, Callable[[Place], Verify]] = {"draft": draft_verifier, "ours": our_verifier}


def main() -> None:
    configuration = json.loads(sys.stdin.readline())
    verify = KINDS[sys.argv[1]](Place(**configuration["place"]))
    tokens: dict[str, str] = configuration["tokens"]
    threading.Thread(target=_end_with_input, daemon=True).start()
    fates: dict[str, str | None] = {}
    verified = 0
    while True:
        for name, token in tokens.items():
            fate = None
            try:
                verify(token)
            except Exception as error:  # noqa: BLE001 - whatever the library raises is a refusal
                fate = f"{type(error).__name__}: {error}"
            verified += 1
            if name not in fates or (fates[name] is None) != (fate is None):
                fates[name] = fate
                _say(token=name, at=time.time(), refused=fate, verified=verified)
        time.sleep(PAUSE_S)


def _say(**line: object) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def _end_with_input() -> None:
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    main()
