"""A foreign verifier as a process: `python -m tests.faults.rotation.verifier pyjwt`.

Reads JSON lines: first where the key sets are, then batches of tokens; answers each batch with
what it refused. The libraries are used as a service would use them: PyJWT with its PyJWKClient,
and joserfc, which fetches nothing itself, over a copy of the key set that is kept for max-age.
"""

import json
import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jwt
import requests
from joserfc import jwt as joserfc_jwt
from joserfc.jwk import KeySet

ALGORITHMS = ["RS256"]
FETCH_TIMEOUT_S = 10

Verify = Callable[[str], None]  # raises what the library raises


@dataclass(frozen=True, slots=True)
class Place:
    """An issuer as the configuration of a resource service knows it."""

    issuer: str
    audience: str
    jwks_uri: str
    cooldown_s: float


def pyjwt_verifier(place: Place) -> Verify:
    """PyJWT as its documentation shows it; by default a set is used for 300 s, and an unknown
    `kid` fetches it again at most once in 30 s."""
    client = jwt.PyJWKClient(place.jwks_uri, cooldown_duration=place.cooldown_s)

    def verify(token: str) -> None:
        key = client.get_signing_key_from_jwt(token)
        jwt.decode(token, key, ALGORITHMS, audience=place.audience, issuer=place.issuer)

    return verify


def joserfc_verifier(place: Place) -> Verify:
    """joserfc over a copy that is fetched again when it is older than Cache-Control says, and at
    no other time: an unknown `kid` is simply refused, as by Envoy and Istio."""
    keys, fresh_until = KeySet([]), 0.0
    rules = joserfc_jwt.JWTClaimsRegistry(
        iss={"essential": True, "value": place.issuer},
        aud={"essential": True, "value": place.audience},
        exp={"essential": True},
    )

    def verify(token: str) -> None:
        nonlocal keys, fresh_until
        if time.monotonic() >= fresh_until:
            answer = requests.get(place.jwks_uri, timeout=FETCH_TIMEOUT_S)
            answer.raise_for_status()
            keys = KeySet.import_key_set(answer.json())
            fresh_until = time.monotonic() + _max_age_s(answer.headers["Cache-Control"])
        rules.validate(joserfc_jwt.decode(token, keys, ALGORITHMS).claims)

    return verify


VERIFIERS: dict[str, Callable[[Place], Verify]] = {
    "pyjwt": pyjwt_verifier,
    "joserfc": joserfc_verifier,
}


def main() -> None:
    make = VERIFIERS[sys.argv[1]]
    places = json.loads(sys.stdin.readline())
    verifiers = {name: make(Place(**place)) for name, place in places.items()}
    for line in sys.stdin:
        sys.stdout.write(json.dumps(_answer(verifiers, json.loads(line))) + "\n")
        sys.stdout.flush()


def _answer(verifiers: dict[str, Verify], batch: list[tuple[str, str]]) -> dict[str, Any]:
    refused: dict[int, str] = {}
    for number, (name, token) in enumerate(batch):
        try:
            verifiers[name](token)
        except Exception as error:  # noqa: BLE001 - whatever a library raises is a refusal
            refused[number] = f"{type(error).__name__}: {error}"[:200]
    return {"checked": len(batch), "refused": refused}


def _max_age_s(cache_control: str) -> float:
    found = re.search(r"max-age=(\d+)", cache_control)
    return float(found[1]) if found else 0.0


if __name__ == "__main__":
    main()
