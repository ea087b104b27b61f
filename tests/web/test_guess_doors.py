"""Every door of the interface has its budget, and doors to one thing share it (case F109).

The doors are read from the OpenAPI document (tests/support/guess_doors.py), so that a route which
takes a secret and counts nothing fails here.
"""

from collections import Counter
from collections.abc import AsyncIterator
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.guess_doors import (
    Attack,
    Targets,
    UnknownSecretError,
    find_attacks,
    find_targets,
    prepare,
)
from tests.support.server import RunningServer, copy_keys, make_settings, running_server
from token_server.core.guess_budget import (
    API_KEY_BUDGETS,
    CLIENT_SECRET_BUDGETS,
    PASSWORD_BUDGETS,
)
from token_server.services.guessing import Door

LIMITS = {
    "password": PASSWORD_BUDGETS[0].burst,
    "client secret": CLIENT_SECRET_BUDGETS[0].burst,
    "api key": API_KEY_BUDGETS[0].burst,
}
TARGETS = Targets("e30", "ses_" + "A" * 22, "key_" + "A" * 16, "secret")


@dataclass(frozen=True, slots=True)
class Doors:
    server: RunningServer
    document: dict[str, Any]
    attacks: list[Attack]

    async def guess(self, attack: Attack, number: int, network: int) -> int:
        """The status of one wrong guess from that network."""
        address = f"10.{network // 256}.{network % 256}.1"
        return (await attack.guess(number).send(self.server.http, address)).status_code

    def counts(self) -> Counter[tuple[str, str]]:
        """The metric of guesses, by door and outcome."""
        found: Counter[tuple[str, str]] = Counter()
        for line in self.server.runtime.metrics.render()[0].decode().splitlines():
            if line.startswith("token_server_guesses_total{"):
                labels, value = line.split(" ")
                _, door, _, outcome, _ = labels.split('"')
                found[door, outcome] = int(float(value))
        return found


@pytest.fixture
async def doors(sqlite_url: str, shared_keys: Path, tmp_path: Path) -> AsyncIterator[Doors]:
    copy_keys(shared_keys, tmp_path)
    settings = make_settings(sqlite_url, tmp_path, log_level="error")
    async with running_server(settings) as server:
        secret = await prepare(server.runtime)
        targets = await find_targets(server.http, "198.51.100.1", secret)
        document = (await server.http.get("/openapi.json")).json()
        yield Doors(server, document, find_attacks(document, targets))


async def test_every_door_counts_each_guess_once_and_stops_at_its_budget(doors: Doors) -> None:
    """F108, F109, E96: as many are looked at as the budget has, and each is counted at one door."""
    seen: set[str] = set()
    for network, attack in enumerate(doors.attacks, start=1):
        limit, before = LIMITS[attack.kind], doors.counts()
        statuses = [await doors.guess(attack, number, network) for number in range(limit + 2)]
        assert statuses[limit:] == [429, 429], (attack.name, statuses)
        assert set(statuses[:limit]) <= {400, 401, 409}, (attack.name, statuses)
        risen = doors.counts() - before
        [door] = {door for door, _ in risen}
        assert risen == {
            (door, "admitted"): limit,
            (door, "failed"): limit,
            (door, "throttled"): 2,
        }, attack.name
        seen.add(door)
    assert seen == set(Door)
    assert len(doors.attacks) >= 25


async def test_doors_to_one_thing_share_its_budget(doors: Doors) -> None:
    """F109: what was spent at one is spent at every other (CVE-2026-9798), whichever it was."""
    network = 1000
    for kind, limit in LIMITS.items():
        attacks = [attack for attack in doors.attacks if attack.kind == kind]
        assert len(attacks) >= 5, kind
        for spender in attacks[:: 1 if kind == "password" else 3]:
            network += 1
            for number in range(limit):
                assert await doors.guess(spender, number, network) != 429, spender.name
            for other in attacks:
                assert await doors.guess(other, limit, network) == 429, (spender.name, other.name)


async def test_new_kind_of_secret_must_be_classified(doors: Doors) -> None:
    """A door that nobody has thought of fails the tests above, whatever it is called."""

    def with_member(name: str) -> dict[str, Any]:
        document = deepcopy(doors.document)
        body = document["components"]["schemas"]["LoginBody"]
        body["properties"][name] = {"type": "string"}
        return document

    for name in ("otp", "recovery_code", "pin", "client_assertion", "magic_token", "passphrase"):
        with pytest.raises(UnknownSecretError, match=name):
            find_attacks(with_member(name), TARGETS)
    assert len(find_attacks(with_member("nickname"), TARGETS)) == len(doors.attacks)
    document = deepcopy(doors.document)
    document["paths"]["/api/auth/me"]["get"]["security"].append({"mutualTls": []})
    with pytest.raises(UnknownSecretError, match="mutualTls"):
        find_attacks(document, TARGETS)
