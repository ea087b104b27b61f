"""Recording histories: many actors use the tokens of a few families at once, over HTTP, at real
server processes; history.py looks for an order. Some answers are never read: their connection is
cut when the request is out.

The replay window is 300 s or none, and a round takes a second: no clock decides anything here.
"""

import asyncio
import math
import random
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tests.model.history import (
    ACTIVE,
    DONE,
    INACTIVE,
    REFUSED,
    Operation,
    Result,
    Verb,
    describe,
    find_order,
    shortest_violation,
)
from tests.support.load import Address, Connection, Reply, form_request, token_request
from tests.support.process import Installation
from tests.support.refresh_tokens import generation_of
from token_server.records import Secret
from token_server.runtime import Runtime
from token_server.services.clients import NewClient, add_client
from token_server.services.users import NewUser, add_user

EMAIL, PASSWORD = "witness@example.org", "correct horse battery staple"
AUDIENCE = "https://orders.example"
WINDOW_S = 300


@dataclass(frozen=True, slots=True)
class Plan:
    """How much to record: `operations` of each actor in each of the rounds, every one of them with
    fresh families. Below the replay budget of 200 for each family."""

    rounds: int
    actors: int = 6
    families: int = 3
    operations: int = 24
    is_strict: bool = False
    lost_share: float = 0.05
    seed: int = 1

    @property
    def verbs(self) -> tuple[Verb, ...]:
        """A family dies soon enough, and in strict mode sooner."""
        shares: dict[Verb, int] = {
            "refresh": 12 if self.is_strict else 35,
            "introspect": 14,
            "introspect_access": 10,
            "revoke": 1,
        }
        return tuple(verb for verb, share in shares.items() for _ in range(share))


@dataclass(slots=True)
class Report:
    """`problems` is empty when every history has an order."""

    histories: int = 0
    seen: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)

    @property
    def operations(self) -> int:
        return sum(self.seen.values())

    def summary(self) -> str:
        counts = ", ".join(f"{name} {count}" for name, count in sorted(self.seen.items()))
        return (
            f"{self.histories} histories of {self.operations} operations, "
            f"{len(self.problems)} without an order ({counts})"
        )


@dataclass(slots=True)
class Watched:
    """One family, as the actors know it together; `texts` by generation."""

    texts: dict[int, str]
    access: str
    history: list[Operation] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def newest(self) -> int:
        return max(self.texts)

    def learn(self, text: str) -> int:
        """The generation of a successor; one generation has one text."""
        generation = generation_of(text)
        if self.texts.setdefault(generation, text) != text:
            self.problems.append(f"generation {generation} has two texts")
        return generation


class Recorder:
    """Actors, each with a connection to every server."""

    def __init__(self, addresses: Sequence[Address], client: Mapping[str, str], plan: Plan) -> None:
        self.plan = plan
        self.report = Report()
        self._addresses = addresses
        self._client = client
        self._chance = random.Random(plan.seed)  # noqa: S311 - what to do, no secret

    async def round(self) -> None:
        """Fresh families, all actors at once, and a verdict on each family's history."""
        families = [await self._log_in() for _ in range(self.plan.families)]
        seeds = [self._chance.random() for _ in range(self.plan.actors)]
        await asyncio.gather(
            *(
                self._act(actor, families, random.Random(at))  # noqa: S311
                for actor, at in enumerate(seeds)
            )
        )
        for family in families:
            self._judge(family)

    def _judge(self, family: Watched) -> None:
        report, is_strict = self.report, self.plan.is_strict
        report.histories += 1
        for each in family.history:
            is_int = isinstance(each.result, int)
            result = "lost" if each.is_lost else "rotated or replayed" if is_int else each.result
            report.seen[f"{each.verb} {result}"] += 1
        report.problems += family.problems
        if find_order(family.history, is_strict=is_strict) is None:
            shortest = shortest_violation(family.history, is_strict=is_strict)
            report.problems.append(describe(shortest, is_strict=is_strict))

    async def _log_in(self) -> Watched:
        form = {"grant_type": "password", "username": EMAIL, "password": PASSWORD}
        request = token_request({**form, **self._client})
        connection = await Connection.open(self._chance.choice(self._addresses))
        reply = await connection.request(request)
        connection.close()
        assert reply.status == 200, reply.body
        tokens = reply.json()
        return Watched({0: tokens["refresh_token"]}, tokens["access_token"])

    async def _act(self, actor: int, families: list[Watched], chance: random.Random) -> None:
        connections = [await Connection.open(address) for address in self._addresses]
        for _ in range(self.plan.operations):
            family, which = chance.choice(families), chance.randrange(len(connections))
            verb = chance.choice(self.plan.verbs)
            # What is two steps behind ends the family, and then there is little left to see.
            (back,) = chance.choices((0, 1, 2), (75, 23, 2))
            generation = max(0, family.newest - back)
            while generation not in family.texts:
                generation -= 1  # its text went to somebody who did not read it
            request = self._request(verb, family, generation)
            begun_at = time.monotonic()
            if chance.random() < self.plan.lost_share:
                connections[which].send(request).cancel()
                await asyncio.sleep(0)
                connections[which].close()
                connections[which] = await Connection.open(self._addresses[which])
                family.history.append(Operation(actor, verb, generation, begun_at, math.inf, None))
                continue
            reply = await connections[which].request(request)
            ended_at = time.monotonic()
            result = self._result(verb, family, reply)
            family.history.append(Operation(actor, verb, generation, begun_at, ended_at, result))
            if chance.random() < 0.3:
                await asyncio.sleep(chance.uniform(0, 0.004))
        for connection in connections:
            connection.close()

    def _request(self, verb: Verb, family: Watched, generation: int) -> bytes:
        text = family.texts[generation]
        if verb == "refresh":
            form = {"grant_type": "refresh_token", "refresh_token": text}
            return token_request({**form, **self._client})
        token = family.access if verb == "introspect_access" else text
        path = "/oauth2/revoke" if verb == "revoke" else "/oauth2/introspect"
        return form_request(path, {**self._client, "token": token})

    def _result(self, verb: Verb, family: Watched, reply: Reply) -> Result:
        """What the specification speaks of; anything else is a result that it never gives."""
        if verb == "revoke" and reply.status == 200:
            return DONE
        if verb == "refresh" and reply.status == 400:
            return REFUSED if reply.json()["error"] == "invalid_grant" else str(reply)
        if verb == "refresh" and reply.status == 200:
            return family.learn(str(reply.json()["refresh_token"]))
        if verb.startswith("introspect") and reply.status == 200:
            return ACTIVE if reply.json()["active"] else INACTIVE
        return f"{reply.status} {reply.body.decode(errors='replace')[:100]}"


async def register(runtime: Runtime) -> dict[str, str]:
    """The user and the clients of all families; the clients' secrets."""
    await add_user(runtime, NewUser(EMAIL, "Wit Ness", Secret(PASSWORD)))
    secrets = {}
    for is_strict in (False, True):
        new = NewClient(
            client_of(is_strict=is_strict),
            ("password", "refresh_token"),
            ("orders:read",),
            (AUDIENCE,),
            (AUDIENCE,),
            refresh_replay_window_s=0 if is_strict else WINDOW_S,
        )
        _, secret = await add_client(runtime, new)
        assert secret is not None
        secrets[new.client_id] = secret.reveal()
    return secrets


def client_of(*, is_strict: bool) -> str:
    return "strict-witness" if is_strict else "witness"


async def record(
    installation: Installation, addresses: Sequence[Address], plans: Sequence[Plan]
) -> list[Report]:
    """Record and judge, one plan after the other; the servers are running already."""
    async with installation.runtime() as runtime:
        secrets = await register(runtime)
    reports = []
    for plan in plans:
        client_id = client_of(is_strict=plan.is_strict)
        recorder = Recorder(
            addresses, {"client_id": client_id, "client_secret": secrets[client_id]}, plan
        )
        for _ in range(plan.rounds):
            await recorder.round()
        reports.append(recorder.report)
    return reports
