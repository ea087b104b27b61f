"""Password hashing: what is accepted, what costs how much, and what happens under load."""

import asyncio
import os
import sys
import threading
import time
from collections.abc import AsyncIterator
from typing import Any

import argon2
import pytest

from tests.support.hashing import Gate
from token_server.crypto import passwords
from token_server.crypto.argon2id import Argon2Cost, derive
from token_server.crypto.hash_queue import Asker, HashCapacity
from token_server.crypto.passwords import HashObserver, PasswordHasher
from token_server.errors import UnavailableError
from token_server.records import Secret

CHEAP = Argon2Cost(memory_kib=64, time_cost=2, parallelism=1)
PASSWORD = Secret("correct horse battery staple")
Work = list[tuple[int, int]]


def make_hasher(cost: Argon2Cost = CHEAP, slots: int = 2, queue: int = 64) -> PasswordHasher:
    return PasswordHasher(
        cost, HashCapacity(slots, queue), token_bytes=os.urandom, monotonic=time.monotonic
    )


def stored_hash(
    password: str, *, memory: int = 64, time_cost: int = 2, **other: Any
) -> Secret[str]:
    made = argon2.PasswordHasher(time_cost, memory, 1, **other).hash(password)
    return Secret(made)


@pytest.fixture
async def hasher() -> AsyncIterator[PasswordHasher]:
    made = make_hasher()
    yield made
    await made.close()


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Work:
    """Every run of Argon2id, as (memory, passes), in order."""
    runs: Work = []

    def record(password: bytes, salt: bytes, cost: Argon2Cost, length: int) -> bytes:
        runs.append((cost.memory_kib, cost.time_cost))
        return derive(password, salt, cost, length)

    monkeypatch.setattr(passwords, "derive", record)
    return runs


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    return Gate(monkeypatch)


async def test_hash_is_argon2id_that_another_library_verifies(hasher: PasswordHasher) -> None:
    """The stored text is the PHC form with today's parameters (RFC 9106)."""
    stored = (await hasher.hash(PASSWORD)).reveal()

    assert stored.startswith("$argon2id$v=19$m=64,t=2,p=1$")
    assert argon2.PasswordHasher().verify(stored, PASSWORD.reveal())


async def test_two_hashes_of_one_password_differ(hasher: PasswordHasher) -> None:
    """The salt is new each time."""
    assert (await hasher.hash(PASSWORD)).reveal() != (await hasher.hash(PASSWORD)).reveal()


@pytest.mark.parametrize("password", ["correct horse", "пароль и ещё", " spaces ", "x" * 5_000, ""])
async def test_right_password_verifies_and_near_misses_do_not(
    hasher: PasswordHasher, password: str
) -> None:
    """The whole password counts: nothing is trimmed or cut (case F 121)."""
    stored = await hasher.hash(Secret(password))

    assert await hasher.verify(stored, Secret(password)) == passwords.Verification(ok=True)
    for wrong in (password + " ", password[:-1] if password else "x", password.upper() + "!"):
        assert await hasher.verify(stored, Secret(wrong)) == passwords.Verification(ok=False)


async def test_unknown_user_costs_one_hash_with_current_parameters(
    hasher: PasswordHasher, work: Work
) -> None:
    """No account and a wrong password are the same answer for the same work (case F 103)."""
    known = await hasher.verify(stored_hash("other"), PASSWORD)
    for_known = list(work)
    work.clear()
    unknown = await hasher.verify(None, PASSWORD)

    assert unknown == known == passwords.Verification(ok=False)
    assert work == for_known == [(64, 2)]


@pytest.mark.parametrize(("memory", "time_cost"), [(32, 1), (8, 2), (16, 3), (64, 1), (40, 3)])
async def test_cheaper_old_hash_is_padded_to_the_current_cost(
    hasher: PasswordHasher, work: Work, memory: int, time_cost: int
) -> None:
    """An account from cheaper days does not answer faster, right or wrong (case F 104)."""
    stored = stored_hash("old one", memory=memory, time_cost=time_cost)

    for password, is_right in (("old one", True), ("wrong", False)):
        work.clear()
        verification = await hasher.verify(stored, Secret(password))
        spent = sum(run_memory * passes for run_memory, passes in work)

        assert verification == passwords.Verification(ok=is_right, needs_rehash=True)
        assert 64 * 2 - 16 < spent <= 64 * 2


async def test_dearer_old_hash_verifies_and_asks_for_a_rehash(hasher: PasswordHasher) -> None:
    """After the operator lowered the cost, old passwords still work."""
    verification = await hasher.verify(
        stored_hash("old one", memory=256, time_cost=3), Secret("old one")
    )

    assert verification == passwords.Verification(ok=True, needs_rehash=True)


@pytest.mark.parametrize("other", [{"hash_len": 16}, {"salt_len": 8}])
async def test_other_salt_or_tag_length_asks_for_a_rehash(
    hasher: PasswordHasher, other: dict[str, int]
) -> None:
    """Today's parameters are also the lengths of salt and tag."""
    verification = await hasher.verify(stored_hash("old one", **other), Secret("old one"))

    assert verification == passwords.Verification(ok=True, needs_rehash=True)


SALT, TAG = "c2FsdHNhbHRzYWx0c2FsdA", "dGFndGFndGFndGFndGFndGFndGFndGFndGFndGFndGE"


@pytest.mark.parametrize(
    "stored",
    [
        "",
        "x",
        "!",
        "$2b$12$abcdefghijklmnopqrstuuIy8a0q5D8w5yRr7l3p6m1kVnqkRZ4Uu",
        f"$argon2i$v=19$m=64,t=2,p=1${SALT}${TAG}",
        f"$argon2d$v=19$m=64,t=2,p=1${SALT}${TAG}",
        f"$argon2id$v=16$m=64,t=2,p=1${SALT}${TAG}",
        f"$argon2id$m=64,t=2,p=1${SALT}${TAG}",
        f"$argon2id$v=19$m=4194304,t=2,p=1${SALT}${TAG}",  # 4 GiB
        f"$argon2id$v=19$m=64,t=1000000,p=1${SALT}${TAG}",
        f"$argon2id$v=19$m=65536,t=1,p=4096${SALT}${TAG}",
        f"$argon2id$v=19$m=7,t=1,p=1${SALT}${TAG}",
        f"$argon2id$v=19$m=0,t=0,p=0${SALT}${TAG}",
        f"$argon2id$v=19$m=-64,t=2,p=1${SALT}${TAG}",
        f"$argon2id$v=19$m={'9' * 5000},t=2,p=1${SALT}${TAG}",
        f"$argon2id$v=19$m=٦٤,t=2,p=1${SALT}${TAG}",
        f"$argon2id$v=19$m=64,t=2,p=1${SALT}${TAG[:10]}",  # a tag short enough to guess
        f"$argon2id$v=19$m=64,t=2,p=1${SALT}${TAG}aa",
        f"$argon2id$v=19$m=64,t=2,p=1$${TAG}",
        f"$argon2id$v=19$m=64,t=2,p=1${SALT}$",
        f"$argon2id$v=19$m=64,t=2,p=1${SALT}",
        f"$argon2id$v=19$m=64,t=2,p=1${SALT}${TAG}\n",
        f" $argon2id$v=19$m=64,t=2,p=1${SALT}${TAG}",
        f"$argon2id$v=19$m=64,t=2,p=1${SALT}${TAG}=",
    ],
)
async def test_damaged_or_absurd_stored_hash_fails_closed_at_the_usual_cost(
    hasher: PasswordHasher, work: Work, stored: str
) -> None:
    """Unknown schemes and parameters beyond the ceiling do no other work (case F 128)."""
    verification = await hasher.verify(Secret(stored), PASSWORD)

    assert verification == passwords.Verification(ok=False, unusable=True)
    assert work == [(64, 2)]


async def test_a_flipped_character_of_the_stored_tag_is_a_wrong_password(
    hasher: PasswordHasher,
) -> None:
    """Damage that still reads as a hash never lets anyone in."""
    stored = (await hasher.hash(PASSWORD)).reveal()
    changed = stored[:-3] + ("A" if stored[-3] != "A" else "B") + stored[-2:]

    assert (await hasher.verify(Secret(changed), PASSWORD)).ok is False


async def test_lone_surrogates_at_a_login_are_a_wrong_password(hasher: PasswordHasher) -> None:
    """Junk that cannot be encoded is a no, not an error."""
    stored = await hasher.hash(PASSWORD)

    assert (await hasher.verify(stored, Secret("\ud800"))).ok is False


async def test_flood_is_bounded_in_threads_and_queue(gate: Gate) -> None:
    """500 logins at once: two run, four wait, the rest is told when to come back (F 126)."""
    hasher = make_hasher(slots=2, queue=4)
    logins = [asyncio.create_task(hasher.verify(None, PASSWORD)) for _ in range(500)]
    await gate.until(lambda: gate.entered == 2 and hasher.queue_depth == 4)
    gate.open.set()
    answers = await asyncio.gather(*logins, return_exceptions=True)
    await hasher.close()

    refused = [answer for answer in answers if isinstance(answer, UnavailableError)]
    assert len(refused) == 494
    assert {answer.reason for answer in refused} == {"hash_queue_full"}
    assert all(1 <= answer.retry_after_s <= 30 for answer in refused)
    assert sum(answer == passwords.Verification(ok=False) for answer in answers) == 6
    assert gate.entered == 6


async def test_waiters_are_served_in_the_order_they_came(gate: Gate) -> None:
    """Nobody is overtaken under load."""
    hasher = make_hasher(slots=1, queue=8)
    ended: list[int] = []

    async def login(number: int) -> None:
        await hasher.verify(None, PASSWORD)
        ended.append(number)

    logins = [asyncio.create_task(login(number)) for number in range(8)]
    await gate.until(lambda: hasher.queue_depth == 7)
    gate.open.set()
    await asyncio.gather(*logins)
    await hasher.close()

    assert ended == list(range(8))


async def test_cancelled_waiter_frees_its_place(gate: Gate) -> None:
    """A client that hung up takes no place in the queue and no slot."""
    hasher = make_hasher(slots=1, queue=1)
    running = asyncio.create_task(hasher.verify(None, PASSWORD))
    waiting = asyncio.create_task(hasher.verify(None, PASSWORD))
    await gate.until(lambda: gate.entered == 1 and hasher.queue_depth == 1)
    waiting.cancel()
    await asyncio.wait([waiting])
    next_one = asyncio.create_task(hasher.verify(None, PASSWORD))
    await gate.until(lambda: hasher.queue_depth == 1)
    gate.open.set()

    assert waiting.cancelled()
    assert await running == await next_one == passwords.Verification(ok=False)
    assert gate.entered == 2
    await hasher.close()


async def test_cancelled_running_job_keeps_its_slot_until_it_ends(gate: Gate) -> None:
    """Hanging up early does not raise the number of hashes that run at once."""
    hasher = make_hasher(slots=1, queue=4)
    running = asyncio.create_task(hasher.verify(None, PASSWORD))
    await gate.until(lambda: gate.entered == 1)
    running.cancel()
    await asyncio.wait([running])
    second = asyncio.create_task(hasher.verify(None, PASSWORD))
    await gate.until(lambda: hasher.queue_depth == 1)
    assert gate.entered == 1
    gate.open.set()

    assert await second == passwords.Verification(ok=False)
    await hasher.close()


async def test_slot_given_to_a_login_cancelled_in_that_moment_is_passed_on(gate: Gate) -> None:
    """The narrowest race: the turn was granted, and its owner goes before taking it."""
    waiting: list[asyncio.Task[passwords.Verification]] = []

    def cancel_waiting(_seconds: float) -> None:  # called as the slot is passed on
        waiting[0].cancel()

    hasher = PasswordHasher(
        CHEAP,
        HashCapacity(slots=1, queue=4),
        token_bytes=os.urandom,
        monotonic=time.monotonic,
        observer=HashObserver(duration=cancel_waiting),
    )
    running = asyncio.create_task(hasher.verify(None, PASSWORD))
    await gate.until(lambda: gate.entered == 1)
    waiting.append(asyncio.create_task(hasher.verify(None, PASSWORD)))
    await gate.until(lambda: hasher.queue_depth == 1)
    gate.open.set()
    await running
    await asyncio.wait(waiting)

    assert waiting[0].cancelled()
    assert gate.entered == 1
    async with asyncio.timeout(10):
        assert await hasher.verify(None, PASSWORD) == passwords.Verification(ok=False)
    await hasher.close()


async def test_any_order_of_cancellation_leaves_all_slots_free(gate: Gate) -> None:
    """After a storm of cancelled logins the pool still runs as wide as before."""
    hasher = make_hasher(slots=2, queue=40)
    logins = [asyncio.create_task(hasher.verify(None, PASSWORD)) for _ in range(40)]
    await gate.until(lambda: gate.entered == 2)
    gate.open.set()
    for number, login in enumerate(logins):
        if number % 3 == 0:
            login.cancel()
        if number % 5 == 0:
            await asyncio.sleep(0.001)
    await asyncio.wait(logins)
    # A cancelled login's job may not even have begun: its slot is not free before it has ended.
    await gate.until(lambda: hasher.queue_depth == hasher._queue._taken == 0)

    gate.open.clear()
    entered = gate.entered
    again = [asyncio.create_task(hasher.verify(None, PASSWORD)) for _ in range(3)]
    await gate.until(lambda: gate.entered == entered + 2 and hasher.queue_depth == 1)
    gate.open.set()
    await asyncio.gather(*again)
    await hasher.close()


async def test_close_fails_waiters_and_lets_running_jobs_finish(gate: Gate) -> None:
    """SIGTERM while jobs queue: queued ones get 503, running ones their answer (case O 242)."""
    hasher = make_hasher(slots=1, queue=4)
    running = asyncio.create_task(hasher.verify(None, PASSWORD))
    waiting = [asyncio.create_task(hasher.verify(None, PASSWORD)) for _ in range(3)]
    await gate.until(lambda: gate.entered == 1 and hasher.queue_depth == 3)
    closing = asyncio.create_task(hasher.close())
    failed = await asyncio.gather(*waiting, return_exceptions=True)
    assert not closing.done()
    gate.open.set()
    await closing

    assert [str(answer) for answer in failed] == ["hash_shutting_down"] * 3
    assert await running == passwords.Verification(ok=False)
    with pytest.raises(UnavailableError, match="hash_shutting_down"):
        await hasher.verify(None, PASSWORD)
    assert gate.entered == 1


async def test_retry_after_follows_the_measured_time() -> None:
    """A queue of slow hashes names a later return than one second, from what was measured."""
    instants = iter(range(0, 1000, 6))
    hasher = PasswordHasher(
        CHEAP,
        HashCapacity(slots=1, queue=0),
        token_bytes=os.urandom,
        monotonic=lambda: float(next(instants)),  # each job seems to take 6 s
    )
    await hasher.verify(None, PASSWORD)
    first = asyncio.create_task(hasher.verify(None, PASSWORD))
    await asyncio.sleep(0)

    with pytest.raises(UnavailableError) as refused:
        await hasher.verify(None, PASSWORD)
    assert refused.value.retry_after_s == 6
    await first
    await hasher.close()


async def test_durations_and_waits_are_reported_to_the_observer(gate: Gate) -> None:
    """Metrics see one duration and one wait a job, whether it hashed or verified."""
    durations: list[float] = []
    waits: list[float] = []
    hasher = PasswordHasher(
        CHEAP,
        HashCapacity(slots=1, queue=1),
        token_bytes=os.urandom,
        monotonic=time.monotonic,
        observer=HashObserver(duration=durations.append, wait=waits.append),
    )
    first = asyncio.create_task(hasher.hash(PASSWORD))
    second = asyncio.create_task(hasher.verify(None, PASSWORD))
    await gate.until(lambda: hasher.queue_depth == 1)
    gate.open.set()
    await asyncio.gather(first, second)
    await hasher.close()

    assert len(durations) == len(waits) == 2
    assert all(duration > 0 for duration in durations)
    assert waits[0] < waits[1]


async def test_refusals_are_reported_by_their_reason(gate: Gate) -> None:
    """An operator sees whether the queue is too short, one network too greedy, or clients gone."""
    reasons: list[str] = []
    hasher = PasswordHasher(
        CHEAP,
        HashCapacity(slots=1, queue=3),
        token_bytes=os.urandom,
        monotonic=time.monotonic,
        observer=HashObserver(refused=reasons.append),
    )
    gone = asyncio.Event()

    async def login(network: str) -> passwords.Verification:
        with hasher.place(Asker(network, gone.wait)) as place:
            return await hasher.verify(None, PASSWORD, place)

    networks = ("one", "one", "one", "two", "two", "three")
    logins = [asyncio.create_task(login(network)) for network in networks]
    await gate.until(lambda: gate.entered == 1 and hasher.queue_depth == 3)
    assert reasons == ["share_taken", "queue_full"]
    gone.set()
    await gate.until(lambda: hasher.queue_depth == 0)
    gate.open.set()
    await asyncio.gather(*logins, return_exceptions=True)
    await hasher.close()
    with pytest.raises(UnavailableError):
        await hasher.hash(PASSWORD)

    assert reasons[2:] == ["client_gone"] * 3 + ["shutting_down"]


async def test_client_that_went_away_while_waiting_is_not_hashed_for(gate: Gate) -> None:
    """Its place is free at once, and the slot goes to the next one who is still there."""
    hasher = make_hasher(slots=1, queue=2)
    gone = asyncio.Event()

    async def login(asker: Asker) -> passwords.Verification:
        with hasher.place(asker) as place:
            return await hasher.verify(None, PASSWORD, place)

    running = asyncio.create_task(login(Asker(None, gone.wait)))
    await gate.until(lambda: gate.entered == 1)
    leaving = asyncio.create_task(login(Asker(None, gone.wait)))
    staying = asyncio.create_task(login(Asker(None, asyncio.Event().wait)))
    await gate.until(lambda: hasher.queue_depth == 2)
    gone.set()
    with pytest.raises(UnavailableError, match="hash_client_gone"):
        await leaving
    assert hasher.queue_depth == 1
    gate.open.set()

    assert await running == await staying == passwords.Verification(ok=False)
    assert gate.entered == 2
    await hasher.close()


async def test_connection_that_breaks_counts_as_a_departure(gate: Gate) -> None:
    """Whatever ends the watch, an error included, nobody is there to read the answer."""
    hasher = make_hasher(slots=1, queue=1)
    running = asyncio.create_task(hasher.verify(None, PASSWORD))
    await gate.until(lambda: gate.entered == 1)

    async def broken() -> None:
        raise ConnectionResetError("gone")

    with (
        hasher.place(Asker(None, broken)) as place,
        pytest.raises(UnavailableError, match="hash_client_gone"),
    ):
        await hasher.verify(None, PASSWORD, place)
    gate.open.set()
    await running
    await hasher.close()


async def test_one_network_gets_half_of_the_places(gate: Gate) -> None:
    """One source cannot keep all others out, and has its share again when it has waited."""
    hasher = make_hasher(slots=2, queue=6)

    async def login(network: str) -> str:
        try:
            with hasher.place(Asker(network)) as place:
                await hasher.verify(None, PASSWORD, place)
        except UnavailableError as error:
            return error.reason
        return "looked at"

    greedy = [asyncio.create_task(login("greedy")) for _ in range(100)]
    others = [asyncio.create_task(login(f"other {number}")) for number in range(4)]
    await gate.until(lambda: gate.entered == 2 and hasher.queue_depth == 6)
    gate.open.set()
    answers = await asyncio.gather(*greedy)

    assert (answers.count("looked at"), answers.count("hash_share_taken")) == (4, 96)
    assert await asyncio.gather(*others) == ["looked at"] * 4
    assert await login("greedy") == "looked at"
    await hasher.close()


async def test_place_is_given_back_however_its_use_ends(gate: Gate) -> None:
    """A throttled guess, a failing database, a cancelled request: the place is free again."""
    hasher = make_hasher(slots=1, queue=0)
    for error in (UnavailableError("guess_budget_spent"), RuntimeError("boom")):
        with pytest.raises(type(error)), hasher.place(Asker("here")):
            raise error
    gate.open.set()

    assert (await hasher.verify(None, PASSWORD)).ok is False
    await hasher.close()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has a priority for each thread")
async def test_hashing_threads_give_way_to_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """They run at a lower priority than the thread that answers everybody else."""
    seen: list[int] = []

    def look(password: bytes, salt: bytes, cost: Argon2Cost, length: int) -> bytes:
        seen.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
        return derive(password, salt, cost, length)

    monkeypatch.setattr(passwords, "derive", look)
    hasher = make_hasher()
    await hasher.verify(None, PASSWORD)
    await hasher.close()

    own = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    assert seen[0] > own or own == 19
