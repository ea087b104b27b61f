"""Real servers whose clocks step, stand still, sleep and reach other centuries (cases 44, 68,
148, 256): nobody is logged out by a small step, nothing lives longer by a large one."""

import asyncio
import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.clocks.machine import MachineClock
from tests.faults.clocks.person import Person, claims_of, kid_of, set_up, tokens_of
from tests.support.databases import PostgresDatabases, SqliteFiles, run_apart
from tests.support.process import Installation, ServerProcess, start_server

HOUR_S, DAY_S = 3600, 86400
TTL_S = 900  # of access tokens, by default
END_OF_2038 = 2**31  # in seconds, one more than a signed 32-bit time can say
END_OF_2106 = 2**32
PAUSED = (503, "temporarily_unavailable")
SETTINGS = {"TRUSTED_PROXIES": "127.0.0.1", "PASSWORD_HASH_SLOTS": "1"}


class Machine:
    """One server, whoever talks to it, and its clocks."""

    def __init__(self, server: ServerProcess, secret: str, clock: MachineClock) -> None:
        self.clock = clock
        self.person = Person(server, secret)
        self._server = server

    def events(self, name: str) -> list[dict[str, Any]]:
        return [record for record in self._server.log_records() if record.get("event") == name]

    def wait_for_events(self, name: str, count: int) -> list[dict[str, Any]]:
        deadline = time.monotonic() + 30
        while len(self.events(name)) < count:
            assert time.monotonic() < deadline, f"{name} was not logged"
            time.sleep(0.05)
        return self.events(name)

    def checks(self) -> dict[str, Any]:
        """Not those of a second ago."""
        self.clock.pass_time(2)
        return self.person.checks()

    def is_paused(self) -> bool:
        answers = [self.person.machine_token(), self.person.log_in()]
        refused = [(answer.status_code, answer.json().get("error")) for answer in answers]
        if refused == [PAUSED] * 2:
            assert {answer.headers["retry-after"] for answer in answers} == {"30"}
            return True
        assert [answer.status_code for answer in answers] == [200, 200], refused
        return False


@contextlib.contextmanager
def machines(
    installation: Installation, clocks: dict[str, MachineClock]
) -> Iterator[list[Machine]]:
    secret = run_apart(set_up(installation))
    with contextlib.ExitStack() as stack:
        found = []
        for name, clock in clocks.items():
            server = start_server(installation, name=name, wrapper=clock.wrapper())
            stack.callback(server.stop)
            found.append(Machine(server, secret, clock))
            stack.callback(found[-1].person.http.close)
        yield found


@pytest.fixture(scope="module")
def machine(
    sqlite_files: SqliteFiles, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Machine]:
    """One server for all tests; each leaves its clock where a right one might stand."""
    directory = tmp_path_factory.mktemp("clock")
    installation = Installation(directory, sqlite_files.create(directory), SETTINGS)
    with machines(installation, {"server": MachineClock(directory / "clock")}) as [only]:
        yield only


def test_small_steps_log_nobody_out(machine: Machine) -> None:
    """Five seconds back and forth, as NTP makes them: fresh tokens are good at once, sessions go
    on, retries are replays, and a status list never looks older than the one before."""
    person = machine.person
    tokens = person.begin()
    for step_s in (-5, +5, +5, -5):
        machine.clock.step(step_s)
        assert person.is_active(tokens.access)
        before, tokens = tokens, tokens_of(person.refresh(tokens))
        assert tokens_of(person.refresh(before)).refresh == tokens.refresh
        assert person.is_active(tokens.access)
        assert not machine.is_paused()
    assert machine.checks()["clock"]["ok"]


def test_repeated_second_repeats_nothing(machine: Machine) -> None:
    """A leap second: the same second twice, and tokens that differ all the same."""
    claims = []
    machine.clock.freeze()
    for step_s in (0, 0, -1):
        machine.clock.step(step_s)
        claims.append(claims_of(machine.person.machine_token().json()["access_token"]))
    machine.clock.step(+1)
    machine.clock.thaw()
    assert [each["iat"] - claims[0]["iat"] for each in claims] == [0, 0, -1]
    assert len({each["jti"] for each in claims}) == 3


@pytest.mark.parametrize("step_s", [HOUR_S, DAY_S])
def test_large_step_back_stops_issuing_and_stretches_nothing(machine: Machine, step_s: int) -> None:
    """No token is made that would live longer than it says, those that live end when they
    should, and keys are served; readiness, log and metric say why. It is over by itself."""
    person, count = machine.person, len(machine.events("clock_stepped_back"))
    tokens = person.begin()
    machine.clock.step(-step_s)
    assert machine.is_paused()
    assert person.is_active(tokens.access)
    assert kid_of(tokens.access) in person.published()
    told = machine.wait_for_events("clock_stepped_back", count + 1)[-1]
    assert (told["level"], round(told["by_s"], -1)) == ("error", step_s)
    checks = machine.checks()
    assert (checks["status"], checks["clock"]["ok"]) == (503, False)
    assert person.metric("token_server_clock_behind_seconds") > step_s - 5
    machine.clock.pass_time(TTL_S)
    assert not person.is_active(tokens.access), "it lived longer than it says"
    machine.clock.step(step_s)
    assert not machine.is_paused()
    machine.wait_for_events("clock_caught_up", count + 1)
    assert person.refresh(tokens).status_code == 200


def test_frozen_clock_stops_issuing(machine: Machine) -> None:
    """A wall clock that stands still while time goes by."""
    person = machine.person
    tokens = person.begin()
    machine.clock.freeze()
    machine.clock.pass_time(0)
    assert not machine.is_paused()
    machine.clock.step(0, 12)
    assert machine.is_paused()
    machine.clock.step(0, TTL_S)
    assert not person.is_active(tokens.access)
    machine.clock.thaw()
    machine.clock.step(TTL_S + 12)
    assert not machine.is_paused()


async def test_step_in_the_middle_of_a_request(machine: Machine) -> None:
    """A login that is being hashed when the clock goes back an hour is answered whole, with the
    lifetime that it had at its beginning; the next one is refused."""
    person = machine.person
    at = machine.clock.wall()
    asked = asyncio.create_task(asyncio.to_thread(person.log_in))
    await asyncio.sleep(0.02)
    machine.clock.step(-HOUR_S)
    answer = await asked
    if answer.status_code == 200:
        claims = claims_of(answer.json()["access_token"])
        assert claims["iat"] >= int(at)
        assert claims["exp"] == claims["iat"] + TTL_S
    else:
        assert answer.status_code == 503
    assert machine.is_paused()
    machine.clock.step(HOUR_S)
    assert not machine.is_paused()


def test_sleeping_machine_wakes_up_at_work(machine: Machine) -> None:
    """Suspended for eight hours: its monotonic clock stood still. Sessions go on, access tokens
    are over, and nothing that is remembered for seconds is older than that."""
    person, count = machine.person, len(machine.events("clock_jumped_ahead"))
    tokens = person.begin()
    machine.clock.step(8 * HOUR_S)
    assert not person.is_active(tokens.access)
    fresh = tokens_of(person.refresh(tokens))
    assert person.is_active(fresh.access)
    assert not machine.is_paused()
    assert machine.wait_for_events("clock_jumped_ahead", count + 1)


def test_hour_ahead_ends_no_session(machine: Machine) -> None:
    """A clock that is set forward: tokens of before are over, the keys of before are published,
    and no family is taken for stolen (case 148)."""
    person = machine.person
    tokens = person.begin()
    before, tokens = tokens, tokens_of(person.refresh(tokens))
    machine.clock.step(HOUR_S)
    assert not person.is_active(tokens.access)
    assert kid_of(tokens.access) in person.published()
    after = tokens_of(person.refresh(tokens))
    assert tokens_of(person.refresh(tokens)).refresh == after.refresh
    assert person.refresh(before).status_code == 400  # an older one is theft at any clock


def test_other_centuries(sqlite_files: SqliteFiles, tmp_path: Path) -> None:
    """Past 2038, where signed 32-bit times end, and past 2106, where unsigned ones do."""
    clock = MachineClock(tmp_path / "clock").set_to(END_OF_2038 - HOUR_S)
    installation = Installation(tmp_path, sqlite_files.create(tmp_path), SETTINGS)
    with machines(installation, {"server": clock}) as [machine]:
        person = machine.person
        for end in (END_OF_2038, END_OF_2106):
            clock.set_to(end - 30)
            tokens = person.begin()
            assert claims_of(tokens.access)["iat"] < end < claims_of(tokens.access)["exp"]
            clock.pass_time(60)
            assert person.is_active(tokens.access)
            tokens = tokens_of(person.refresh(tokens))
            assert claims_of(tokens.access)["iat"] > end
            person.revoke(tokens.refresh)
            assert not person.is_active(tokens.access)


@pytest.fixture(scope="module")
def pair(
    postgres_databases: PostgresDatabases, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[list[Machine]]:
    """Two servers on one database, the second with its clock 8 s behind at its first start."""
    directory = tmp_path_factory.mktemp("pair")
    clocks = {name: MachineClock(directory / name) for name in ("one", "two")}
    clocks["two"].step(-8)
    with (
        postgres_databases.create() as url,
        machines(Installation(directory, url, SETTINGS), clocks) as both,
    ):
        yield both


def test_two_servers_within_the_skew_are_one(pair: list[Machine]) -> None:
    """CLOCK_SKEW apart on one database: each takes the other's tokens, retries go to either, and
    what one ends the other refuses."""
    one, two = pair
    tokens = one.person.begin()
    for here, there in ((one, two), (two, one)) * 2:
        assert there.person.is_active(tokens.access)
        before, tokens = tokens, tokens_of(here.person.refresh(tokens))
        assert tokens_of(there.person.refresh(before)).refresh == tokens.refresh
        assert there.person.is_active(tokens.access)
        assert here.person.published() == there.person.published()
    two.person.revoke(tokens.refresh)
    assert not one.person.is_active(tokens.access)
    assert one.person.refresh(tokens).status_code == 400
    assert two.checks()["database_clock"]["level"] == "ok"


def test_two_servers_far_apart_end_no_session_and_say_so(pair: list[Machine]) -> None:
    """An hour apart: sessions go from one to the other, nobody has to wait at the one behind for
    mistakes at the one ahead, and the wrong clock is told by its own server."""
    right, ahead = pair
    ahead.clock.step(HOUR_S)
    assert ahead.person.log_in("a wrong password").status_code == 400
    tokens = ahead.person.begin()
    for each in (right, ahead, right):
        tokens = tokens_of(each.person.refresh(tokens))
    assert right.person.log_in().status_code == 200
    assert right.checks()["database_clock"]["level"] == "ok"
    checks = ahead.checks()
    assert checks["status"] == 200
    assert checks["database_clock"]["level"] == "warn"
    assert "ahead of the database's" in checks["database_clock"]["detail"]
    ahead.clock.step(-HOUR_S)
    assert ahead.is_paused()
    ahead.clock.step(HOUR_S)
