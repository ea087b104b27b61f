"""The race: one refresh token used by many at once, over HTTP, against real server processes.

Every use must be answered with the one successor, the generation must have gone up by exactly
one, and the successor must still refresh (refresh.md; RFC 9700 §4.14.2). In strict mode exactly
one use wins, every other one gets `invalid_grant`, and the family is dead.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from tests.support.load import (
    Address,
    Connection,
    Reply,
    open_connections,
    token_request,
)
from tests.support.process import Installation
from tests.support.refresh_tokens import family_of, generation_of
from token_server.records import Secret
from token_server.runtime import Runtime
from token_server.services.clients import NewClient, add_client
from token_server.services.users import NewUser, add_user
from token_server.storage.families import find_family

T = TypeVar("T")
EMAIL = "racer@example.org"
PASSWORD = "correct horse battery staple"
LOGINS_AT_ONCE = 4


@dataclass(frozen=True, slots=True)
class Race:
    families: int
    uses: int  # of each family's token, at the same instant
    together: int = 4  # families that race at the same time
    is_strict: bool = False

    @property
    def client_id(self) -> str:
        return "racer-strict" if self.is_strict else "racer"


@dataclass(slots=True)
class RaceReport:
    """`problems` is empty when everything held; the rest is for people."""

    statuses: Counter[int] = field(default_factory=Counter)
    families: int = 0
    duration_s: float = 0.0
    problems: list[str] = field(default_factory=list)

    def summary(self) -> str:
        counts = ", ".join(f"{count} x {status}" for status, count in sorted(self.statuses.items()))
        return (
            f"{self.families} families in {self.duration_s:.1f} s; answers of the race: {counts}; "
            f"{len(self.problems)} problems"
        )


async def run_race(
    installation: Installation, addresses: Sequence[Address], race: Race
) -> RaceReport:
    """Register, log in, race, and check what is stored; the servers are running already."""
    report = RaceReport()
    async with installation.runtime() as runtime:
        await _register(runtime, race)
        tokens = await _log_in(addresses, race)
        started = time.monotonic()
        async with open_connections(addresses, race.uses * race.together) as connections:
            shares = list(_groups(connections, race.uses))
            for group in _groups(tokens, race.together):
                await asyncio.gather(
                    *(
                        _race_family(race, token, share, report)
                        for token, share in zip(group, shares, strict=False)
                    )
                )
        report.duration_s = time.monotonic() - started
        for token in tokens:
            await _check_stored(runtime, race, token, report)
    return report


async def _register(runtime: Runtime, race: Race) -> None:
    window_s = 0 if race.is_strict else None
    new = NewClient(
        race.client_id,
        ("password", "refresh_token"),
        is_public=True,
        refresh_replay_window_s=window_s,
    )
    await add_client(runtime, new)
    await add_user(runtime, NewUser(EMAIL, "Race Driver", Secret(PASSWORD)))


async def _log_in(addresses: Sequence[Address], race: Race) -> list[str]:
    form = {"grant_type": "password", "username": EMAIL, "password": PASSWORD}
    request = token_request({**form, "client_id": race.client_id})
    tokens: list[str] = []  # of each family the first

    async def log_in(connection: Connection) -> None:
        while len(tokens) < race.families:
            reply = await connection.request(request)
            assert reply.status == 200, reply.body
            tokens.append(str(reply.json()["refresh_token"]))

    async with open_connections(addresses, LOGINS_AT_ONCE) as connections:
        await asyncio.gather(*map(log_in, connections))
    return tokens[: race.families]


async def _race_family(
    race: Race, token: str, connections: Sequence[Connection], report: RaceReport
) -> None:
    request = _refresh_request(race, token)
    # All requests are written before the loop reads any answer.
    replies = await asyncio.gather(*(connection.send(request) for connection in connections))
    report.families += 1
    report.statuses.update(reply.status for reply in replies)
    judge = _judge_strict if race.is_strict else _judge_replayed
    successor = judge(replies, token, report)
    if successor is not None:
        after = await connections[0].request(_refresh_request(race, successor))
        _judge_after(race, after, successor, report)


def _judge_replayed(replies: Sequence[Reply], token: str, report: RaceReport) -> str | None:
    if any(reply.status != 200 for reply in replies):
        statuses = Counter(reply.status for reply in replies)
        report.problems.append(f"{_name(token)}: not every use was answered 200: {statuses}")
        return None
    bodies = [reply.json() for reply in replies]
    successors = {str(body["refresh_token"]) for body in bodies}
    if len(successors) != 1:
        report.problems.append(f"{_name(token)}: {len(successors)} different successors")
        return None
    if len({body["access_token"] for body in bodies}) != len(bodies):
        report.problems.append(f"{_name(token)}: an access token was handed out twice")
    (successor,) = successors
    if generation_of(successor) != generation_of(token) + 1:
        report.problems.append(f"{_name(token)}: the successor is not one generation later")
    return successor


def _judge_strict(replies: Sequence[Reply], token: str, report: RaceReport) -> str | None:
    winners = [reply for reply in replies if reply.status == 200]
    losers = [reply for reply in replies if reply.status != 200]
    if len(winners) != 1:
        report.problems.append(f"{_name(token)}: {len(winners)} uses won")
    if any(loser.status != 400 or loser.json()["error"] != "invalid_grant" for loser in losers):
        statuses = Counter(reply.status for reply in losers)
        report.problems.append(f"{_name(token)}: a loser got no invalid_grant: {statuses}")
    return str(winners[0].json()["refresh_token"]) if winners else None


def _judge_after(race: Race, after: Reply, successor: str, report: RaceReport) -> None:
    """The successor goes on where the family lives, and is worth nothing where it died."""
    if race.is_strict:
        if after.status != 400 or after.json()["error"] != "invalid_grant":
            report.problems.append(f"the successor in a dead family was answered {after.status}")
    elif after.status != 200:
        report.problems.append(f"the successor was answered {after.status}")
    elif generation_of(str(after.json()["refresh_token"])) != generation_of(successor) + 1:
        report.problems.append("the successor's successor is not one generation later")


async def _check_stored(runtime: Runtime, race: Race, token: str, report: RaceReport) -> None:
    async with runtime.store.read() as connection:
        stored = await find_family(connection, family_of(token))
    assert stored is not None
    steps = 1 if race.is_strict else 2  # the race, and the successor's own refresh
    if stored.generation != steps:
        report.problems.append(f"{_name(token)}: generation {stored.generation}, not {steps}")
    reason = "refresh_token_reused" if race.is_strict else None
    if stored.revoked_reason != reason:
        report.problems.append(f"{_name(token)}: revoked: {stored.revoked_reason}")


def _refresh_request(race: Race, refresh_token: str) -> bytes:
    form = {"grant_type": "refresh_token", "refresh_token": refresh_token}
    return token_request({**form, "client_id": race.client_id})


def _groups(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _name(refresh_token: str) -> str:
    return f"family {family_of(refresh_token).hex()[:8]}"
