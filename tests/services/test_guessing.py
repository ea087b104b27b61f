"""The guessing budget at the one place that checks passwords, on both engines."""

import asyncio
import os
import time
from dataclasses import replace

import msgspec
import pytest

from tests.support.guessing import ELSEWHERE, HERE, buckets, context
from tests.support.people import StandingClock
from token_server.core.guess_budget import NETWORK_BUDGETS, PASSWORD_BUDGETS
from token_server.crypto.argon2id import Argon2Cost
from token_server.crypto.hash_queue import Asker, HashCapacity
from token_server.crypto.passwords import PasswordHasher
from token_server.errors import UnavailableError
from token_server.records import AuditEventType, Secret
from token_server.runtime import Runtime, open_runtime
from token_server.services.guessing import Door, Guess, admit_guess
from token_server.services.users import NewUser, add_user, authenticate_user
from token_server.storage import audit

VICTIM, OWN = "victim@example.org", "attacker@example.org"
PASSWORD, WRONG = Secret("correct horse battery staple"), Secret("wrong")
HASHES = "token_server_password_hash_duration_seconds_count"
BURST = PASSWORD_BUDGETS[0].burst


@pytest.fixture
def clock(standing_clock: StandingClock) -> StandingClock:
    return standing_clock


@pytest.fixture
async def runtime(keyed_runtime: Runtime) -> Runtime:
    for email in (VICTIM, OWN):
        await add_user(keyed_runtime, NewUser(email, "Somebody", PASSWORD))
    return keyed_runtime


async def log_in(
    runtime: Runtime,
    email: str = VICTIM,
    password: Secret[str] = WRONG,
    ip_address: str | None = HERE,
) -> str:
    """`ok`, `refused`, or for how long to wait."""
    try:
        user = await authenticate_user(
            runtime, Guess(Door.LOGIN, email), password, context(runtime, ip_address)
        )
    except UnavailableError as error:
        if not error.is_throttled:
            raise
        return f"wait {error.retry_after_s}"
    return "refused" if user is None else "ok"


async def spend(runtime: Runtime, email: str = VICTIM, ip_address: str | None = HERE) -> None:
    for _ in range(BURST):
        assert await log_in(runtime, email, ip_address=ip_address) == "refused"


def hashes(runtime: Runtime) -> str:
    """The line of the metrics that counts password hashes."""
    lines = runtime.metrics.render()[0].decode().splitlines()
    [line] = [line for line in lines if line.startswith(HASHES)]
    return line


async def test_beyond_the_budget_even_the_right_password_waits(
    runtime: Runtime, clock: StandingClock
) -> None:
    """F108: it is not looked at; after the time that was told it is."""
    await spend(runtime)
    assert await log_in(runtime, password=PASSWORD) == "wait 10"
    clock.at += 9
    assert await log_in(runtime, password=PASSWORD) == "wait 1"
    clock.at += 1
    assert await log_in(runtime, password=PASSWORD) == "ok"


async def test_twenty_guesses_at_once_verify_five(runtime: Runtime) -> None:
    """F108: counted before hashing, atomically (Keycloak CVE-2024-4629)."""
    answers = await asyncio.gather(*(log_in(runtime) for _ in range(20)))
    assert answers.count("refused") == BURST
    assert answers.count("wait 10") == 20 - BURST


async def test_delay_grows_and_never_becomes_a_lock(runtime: Runtime, clock: StandingClock) -> None:
    """F110: who always comes back in time waits 10 s, then 2 minutes, then a quarter of an hour."""
    waits: list[int] = []
    for _ in range(90):
        answer = await log_in(runtime)
        if answer != "refused":
            waits.append(int(answer.removeprefix("wait ")))
            clock.at += waits[-1]
            assert await log_in(runtime) == "refused"
    assert waits[0] == 10
    assert set(waits[-10:]) == {900}
    assert max(waits) == 900
    assert waits == sorted(waits, key=lambda wait: (wait > 10, wait > 120))


async def test_being_refused_costs_nothing(runtime: Runtime, clock: StandingClock) -> None:
    """Knocking on a closed door does not keep it closed, and writes no row."""
    await spend(runtime)
    before = await buckets(runtime)
    for _ in range(50):
        assert await log_in(runtime) == "wait 10"
    assert await buckets(runtime) == before
    clock.at += 10
    assert await log_in(runtime, password=PASSWORD) == "ok"


async def test_another_network_is_not_touched(runtime: Runtime) -> None:
    """F110: nobody can lock an owner out from afar."""
    await spend(runtime)
    assert await log_in(runtime, password=PASSWORD) == "wait 10"
    assert await log_in(runtime, password=PASSWORD, ip_address=ELSEWHERE) == "ok"
    assert await log_in(runtime, password=PASSWORD) == "wait 10", "one network's success forgives"


async def test_success_forgives_the_account_and_its_own_step(runtime: Runtime) -> None:
    """A person who remembers after four tries starts anew; a hundred logins cost nothing."""
    for _ in range(3):
        for _ in range(BURST - 1):
            assert await log_in(runtime) == "refused"
        assert await log_in(runtime, password=PASSWORD) == "ok"
    for _ in range(100):
        assert await log_in(runtime, password=PASSWORD) == "ok"


async def test_success_of_another_account_buys_nothing(runtime: Runtime) -> None:
    """An attacker's own login refills neither the victim's budget nor the network's."""
    await spend(runtime)
    for number in range(NETWORK_BUDGETS[0].burst - BURST - 1):
        assert await log_in(runtime, f"u{number}@example.org") == "refused"
    for _ in range(10):
        assert await log_in(runtime, OWN, PASSWORD) == "ok"
    assert await log_in(runtime, password=PASSWORD) == "wait 10"
    assert await log_in(runtime, "one@example.org") == "refused"
    assert await log_in(runtime, "two@example.org") == "wait 1"


async def test_stuffing_from_one_network_is_bounded(runtime: Runtime, clock: StandingClock) -> None:
    """F111: ever other accounts, one guess each, for ten minutes: 300 and one in ten seconds."""
    answers: list[str] = []
    for start in range(0, 720, 12):
        clock.at += 10
        emails = [f"u{number}@example.org" for number in range(start, start + 12)]
        answers += await asyncio.gather(*(log_in(runtime, email) for email in emails))
    slow = NETWORK_BUDGETS[1]
    assert slow.burst < answers.count("refused") <= slow.burst + 600 / slow.interval_s
    assert await log_in(runtime, password=PASSWORD, ip_address=ELSEWHERE) == "ok"


@pytest.mark.parametrize(
    "spelling",
    [
        "VICTIM@EXAMPLE.ORG",
        " victim@example.org ",
        "\uff56\uff49ctim@example.org",  # full-width
        "vi\u1d9ctim@example.org",  # modifier letter c
        "vict\u2170m@example.org",  # small Roman numeral one
    ],
)
async def test_spellings_of_one_account_share_its_budget(runtime: Runtime, spelling: str) -> None:
    """F106: two buckets for one user would double the guesses (Authelia CVE-2025-24806)."""
    await spend(runtime, spelling)
    assert await log_in(runtime, password=PASSWORD) == "wait 10"


@pytest.mark.parametrize("email", ["nobody@example.org", "no address", "", "\u202e@\0", "\ud800"])
async def test_unknown_accounts_are_counted_like_known_ones(runtime: Runtime, email: str) -> None:
    """F102: whether there is such an account shows neither before nor beyond the budget."""
    await spend(runtime, email)
    assert await log_in(runtime, email) == "wait 10"
    assert await log_in(runtime, email, PASSWORD) == "wait 10"


async def test_walking_an_ipv6_network_is_one_guesser(runtime: Runtime) -> None:
    """F113: 2^64 addresses share one budget; the next /64 has its own."""
    for number in range(BURST):
        assert await log_in(runtime, ip_address=f"2001:db8:1:2::{number:x}") == "refused"
    assert await log_in(runtime, ip_address="2001:db8:1:2:ffff:ffff:ffff:ffff") == "wait 10"
    assert await log_in(runtime, password=PASSWORD, ip_address="2001:db8:1:3::1") == "ok"


async def test_walking_a_whole_site_has_a_bound_of_its_own(runtime: Runtime) -> None:
    """65,536 networks of a /48 are not 65,536 budgets for one who was given them."""

    async def guess(number: int) -> str:
        return await log_in(
            runtime, f"u{number}@example.org", ip_address=f"2001:db8:1:{number:x}::1"
        )

    answers: list[str] = []
    for start in range(0, 700, 50):  # below what the hash queue holds
        answers += await asyncio.gather(*(guess(start + n) for n in range(50)))
    assert answers.count("refused") == 600
    assert await log_in(runtime, password=PASSWORD, ip_address="2001:db8:2::1") == "ok"


async def test_peers_without_an_address_are_one_network(runtime: Runtime) -> None:
    """What cannot be told apart is counted together, not let through."""
    await spend(runtime, ip_address=None)
    assert await log_in(runtime, ip_address=None) == "wait 10"


async def test_budget_is_shared_by_processes_and_outlives_them(
    runtime: Runtime, clock: StandingClock
) -> None:
    """F114, 268: what one process counted, another one knows, and so does a later one."""
    await spend(runtime)
    async with open_runtime(runtime.settings, clock=clock) as other:
        assert await log_in(other, password=PASSWORD) == "wait 10"
        clock.at += 10
        assert await log_in(other) == "refused"
    assert await log_in(runtime, password=PASSWORD) == "wait 10"


@pytest.mark.parametrize(
    ("step_s", "expected"),
    [(-50, "wait 60"), (-3600, "ok"), (-86_400, "ok"), (5, "wait 5"), (86_400, "ok")],
)
async def test_clock_steps_neither_open_nor_lock(
    runtime: Runtime, clock: StandingClock, step_s: int, expected: str
) -> None:
    """Set back by up to a minute it adds itself to the wait; by more, the budget starts anew."""
    await spend(runtime)
    clock.at += step_s
    if expected.startswith("wait"):
        assert await log_in(runtime, password=PASSWORD) == expected
    else:
        await spend(runtime)
        assert await log_in(runtime, password=PASSWORD) == "wait 10"


async def test_guess_that_finds_no_place_is_not_counted(runtime: Runtime) -> None:
    """A full hash queue answers 503 as often as it must, and uses up nobody's budget."""
    narrow = PasswordHasher(
        Argon2Cost(8, 1, 1),
        HashCapacity(slots=1, queue=0),
        token_bytes=os.urandom,
        monotonic=time.monotonic,
    )
    busy = replace(runtime, hasher=narrow)
    with narrow.place(Asker()):
        for _ in range(3 * BURST):
            with pytest.raises(UnavailableError, match="hash_queue_full"):
                await log_in(busy)
    assert await buckets(runtime) == []
    await spend(busy)
    await narrow.close()


async def test_guess_that_nobody_looked_at_is_returned(runtime: Runtime) -> None:
    """Whoever hangs up while waiting for a slot has not guessed, and is not hashed for."""
    narrow = PasswordHasher(
        Argon2Cost(8, 1, 1),
        HashCapacity(slots=1, queue=9),
        token_bytes=os.urandom,
        monotonic=time.monotonic,
    )
    busy = replace(runtime, hasher=narrow)
    gone = asyncio.Event()
    leaving = msgspec.structs.replace(context(runtime), departure=gone.wait)
    with narrow.place(Asker()) as place:
        await narrow._queue.take_slot(place)
        for _ in range(3 * BURST):
            guess = asyncio.create_task(
                authenticate_user(busy, Guess(Door.LOGIN, VICTIM), WRONG, leaving)
            )
            async with asyncio.timeout(30):
                while narrow.queue_depth == 0:  # noqa: ASYNC110 - the hasher sets no event
                    await asyncio.sleep(0.001)
            gone.set()
            with pytest.raises(UnavailableError, match="hash_client_gone"):
                await guess
            gone.clear()
        narrow._queue.release_slot()
    await spend(busy)
    await narrow.close()


async def test_what_cannot_be_counted_is_not_let_through(runtime: Runtime) -> None:
    """Without its database the server hashes nothing and answers 503."""
    hashed = hashes(runtime)
    await runtime.store.close()
    with pytest.raises(UnavailableError, match="storage_closed") as refused:
        await log_in(runtime, password=PASSWORD)
    assert refused.value.is_throttled is False
    assert hashes(runtime) == hashed


async def test_table_and_trail_do_not_tell_who_was_guessed_at(runtime: Runtime) -> None:
    """Buckets are keyed digests; the audit event has the address and no account."""
    await spend(runtime)
    await log_in(runtime)
    await runtime.background.close()
    stored = await buckets(runtime)
    async with runtime.store.read() as connection:
        events = [found.event for found in await audit.list_events(connection, 0, 100)]

    assert len(stored) == len(PASSWORD_BUDGETS) + len(NETWORK_BUDGETS)
    assert not any("victim" in name or "203" in name for name, _ in stored)
    throttled = [event for event in events if event.event is AuditEventType.LOGIN_THROTTLED]
    assert [(e.subject, e.reason, e.ip_address, e.request_id, e.details) for e in throttled] == [
        (
            None,
            "account_budget_spent",
            HERE,
            "req-1",
            {"door": "login", "retry_after_s": 10},
        )
    ]
    failed = [event for event in events if event.event is AuditEventType.LOGIN_FAILED]
    assert len(failed) == BURST


async def test_guesses_are_counted_by_door_and_outcome(runtime: Runtime) -> None:
    """An operator sees an attack, and at which door."""
    await spend(runtime)
    await log_in(runtime)
    await log_in(runtime, OWN, PASSWORD)
    lines = runtime.metrics.render()[0].decode().splitlines()
    counts = {
        line
        for line in lines
        if line.startswith("token_server_guesses_total{") and not line.endswith(" 0.0")
    }
    assert counts == {
        'token_server_guesses_total{door="login",outcome="admitted"} 6.0',
        'token_server_guesses_total{door="login",outcome="failed"} 5.0',
        'token_server_guesses_total{door="login",outcome="forgiven"} 1.0',
        'token_server_guesses_total{door="login",outcome="throttled"} 1.0',
    }


async def test_other_master_key_starts_budgets_anew(runtime: Runtime) -> None:
    """The names are keyed: without the key a stolen table cannot even be searched."""
    admitted = context(runtime)
    await admit_guess(runtime, Guess(Door.LOGIN, VICTIM), admitted)
    named = {name for name, _ in await buckets(runtime)}
    async with open_runtime(runtime.settings, clock=runtime.clock, with_keys=False) as other:
        await admit_guess(other, Guess(Door.LOGIN, VICTIM), admitted)
        assert len(named & {name for name, _ in await buckets(other)}) == len(named)
        assert len(await buckets(other)) == 2 * len(named)
