"""Signing beside the event loop: who waits gets its own signature, whoever made it."""

import asyncio
import threading
import time

import pytest

from token_server.crypto import signing_pool
from token_server.crypto.signing_pool import Signed, SigningPool, helpers_for


def job(number: int, threads: set[str]) -> Signed:
    threads.add(threading.current_thread().name)
    time.sleep(0.002)  # as a signature does, this lets other threads run
    return f"token {number}", "kid"


@pytest.mark.parametrize("helpers", [0, 1, 3])
async def test_everybody_gets_what_they_asked_for(helpers: int) -> None:
    """Fifty at once, twice: each answer belongs to its question, and helpers did take part."""
    pool, threads = SigningPool(helpers), set[str]()
    for _ in range(2):
        signed = await asyncio.gather(
            *(pool.run(lambda n=n: job(n, threads)) for n in range(50))  # type: ignore[misc]
        )
        assert signed == [(f"token {n}", "kid") for n in range(50)]
    pool.close()

    assert threading.current_thread().name in threads
    assert ("signing-helper" in threads) == (helpers > 0)


async def test_lone_signature_stays_in_its_thread() -> None:
    """No helper is even started while there is nothing to share."""
    pool, threads = SigningPool(3), set[str]()
    for number in range(5):
        await pool.run(lambda: job(number, threads))  # noqa: B023 - awaited within the turn
    pool.close()

    assert threads == {threading.current_thread().name}


async def test_failure_is_of_the_one_it_befell() -> None:
    """An exception reaches who asked; the others of the batch get their signatures."""

    def fail() -> Signed:
        time.sleep(0.002)
        raise LookupError("no key")

    pool, threads = SigningPool(1), set[str]()
    outcomes = await asyncio.gather(
        *(pool.run(fail if n % 2 else lambda: job(0, threads)) for n in range(20)),
        return_exceptions=True,
    )
    pool.close()

    assert [type(outcome) for outcome in outcomes] == [tuple, LookupError] * 10


async def test_who_gives_up_waiting_disturbs_nobody() -> None:
    """Cancelled while others sign: the rest of the batch is answered."""
    pool, threads = SigningPool(1), set[str]()
    tasks = [
        asyncio.create_task(pool.run(lambda n=n: job(n, threads)))  # type: ignore[misc]
        for n in range(20)
    ]
    await asyncio.sleep(0)
    for task in tasks[::3]:
        task.cancel()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    pool.close()

    expected = [asyncio.CancelledError if n % 3 == 0 else (f"token {n}", "kid") for n in range(20)]
    found = [type(o) if isinstance(o, BaseException) else o for o in outcomes]
    assert found == expected


def test_helpers_are_for_cores_that_no_process_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """One process on four cores gets three; as many processes as cores get none."""
    monkeypatch.setattr(signing_pool, "usable_cores", lambda: 4)

    assert [helpers_for(processes) for processes in (1, 2, 3, 4, 8)] == [3, 1, 0, 0, 0]
