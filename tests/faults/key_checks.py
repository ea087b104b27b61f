"""What must hold after a kill: a server starts on what is there, and is true to what was before.

It finds a whole keyring, the old one or the new one, signs with a key of its JWKS, and verifies
every token that was signed before, but for those of compromised keys.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jwt
from jwt.types import Options

from tests.faults.key_operations import Operation, server_settings, sign
from tests.faults.key_steps import Told
from tests.support.process import Installation
from tests.support.server import ManualClock
from token_server.crypto.keystore import directory_problems
from token_server.records import KeyState
from token_server.runtime import Clock, Runtime, SystemClock, open_runtime
from token_server.services.key_upkeep import KeyUpkeep

OLD, NEW, PART = "as before", "as asked", "part of the way"
# The instants are not this machine's.
_SIGNATURE_ONLY: Options = {"verify_exp": False, "verify_iat": False}


@dataclass(frozen=True, slots=True)
class Before:
    """The keyring before an operation, and a token that it signed. Generation 0: none."""

    generation: int = 0
    keys: str = ""
    token: str | None = None


@dataclass(slots=True)
class Found:
    """What a start after the kill met."""

    outcome: str = "no start"
    problems: list[str] = field(default_factory=list)


async def read_before(installation: Installation, operation: Operation) -> Before:
    """What the operation begins with."""
    if operation.is_first_start:
        return Before()
    clock = ManualClock(operation.clock_at + 1) if operation.clock_at else SystemClock()
    async with open_runtime(server_settings(installation), clock=clock) as runtime:
        token = await sign(runtime)
        return Before(runtime.keyring.generation, repr(runtime.keyring.keys), token)


async def examine(
    installation: Installation, operation: Operation, before: Before, told: Told
) -> Found:
    """Start a server on what a killed run left."""
    found = Found()
    was_made = _is_made(installation)
    if "KEY_STORE" not in installation.overrides:
        found.problems += directory_problems(installation.directory / "keys")
    tokens = told.tokens if before.token is None else [before.token, *told.tokens]
    clock: Clock = ManualClock(told.at) if told.at else SystemClock()
    async with open_runtime(server_settings(installation), clock=clock) as runtime:
        _compare(operation, before, runtime, found)
        keeper = KeyUpkeep(runtime)
        await keeper.start()
        await keeper.tick()
        found.problems += await _runtime_problems(runtime, tokens)
    if not was_made:
        found.outcome = OLD
    return found


def _compare(operation: Operation, before: Before, runtime: Runtime, found: Found) -> None:
    keyring = runtime.keyring
    moved = keyring.generation - before.generation
    found.outcome = OLD if moved == 0 else NEW if moved == 1 else PART
    is_same = repr(keyring.keys) == before.keys
    if operation.is_one_change and not operation.is_first_start and moved not in (0, 1):
        found.problems.append(f"generation {before.generation} became {keyring.generation}")
    if moved == 0 and not is_same:
        found.problems.append("the same generation with other keys")
    if moved == 1 and is_same and operation.changes_records:
        found.problems.append("the next generation with the same keys")


async def _runtime_problems(runtime: Runtime, tokens: list[str]) -> list[str]:
    problems = [] if runtime.keys.problem is None else [runtime.keys.problem]
    now = runtime.clock.now()
    states = runtime.keyring.states(now)
    if states[KeyState.ACTIVE] != 1 or not states[KeyState.NEXT]:
        problems.append(f"not one active key and a next one: {dict(states)}")
    tokens = [*tokens, await sign(runtime)]
    jwks = json.loads(runtime.keyring.jwks(now))
    bad = {key.kid for key in runtime.keyring.keys if key.compromised_at is not None}
    return problems + _token_problems(tokens, jwks, bad, now)


def _is_made(installation: Installation) -> bool:
    """False after a first start that was killed too early; keys in a database count as made."""
    path = installation.directory / "keys" / "keyring.json"
    if "KEY_STORE" in installation.overrides:
        return True
    return path.exists() and bool(json.loads(path.read_text())["keyring"]["generation"])


def _token_problems(tokens: list[str], jwks: dict[str, Any], bad: set[str], now: int) -> list[str]:
    """Tokens that live must verify against the JWKS, but for those of compromised keys."""
    problems: list[str] = []
    published = {key.key_id: key for key in jwt.PyJWKSet.from_dict(jwks).keys}
    if published.keys() & bad:
        problems.append("a compromised key is published")
    for token in tokens:
        claims = jwt.decode(token, options={"verify_signature": False})
        kid = jwt.get_unverified_header(token)["kid"]
        if kid in bad or claims["exp"] <= now or claims["iat"] > now:
            continue
        if kid not in published:
            problems.append(f"a token that lives for {claims['exp'] - now} s has no key")
            continue
        jwt.decode(token, published[kid], algorithms=["RS256"], options=_SIGNATURE_ONLY)
    return problems


def leftovers(keys_dir: Path) -> set[str]:
    """Files that no keyring needs."""
    manifest = json.loads((keys_dir / "keyring.json").read_text())
    named = {
        f"{key['kid']}.pem"
        for key in manifest["keyring"]["keys"]
        if key["master_version"] is not None
    }
    whole = {".lock", "keyring.json", "master.key", "serving.json"} | named
    return {path.name for path in keys_dir.iterdir()} - whole
