"""Who waits for keys, and how: tasks, loops, threads and forks share one fetch (C64)."""

import asyncio
import multiprocessing
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import uvloop

from tests.verify import forge
from tests.verify.key_servers import (
    FakeIssuer,
    key_server,
    token_of,
    verifier_of,
    wait_until,
)
from token_server.verify import (
    Claims,
    Fetching,
    FetchResult,
    KeysUnavailableError,
    RemoteKeySet,
    Verifier,
)

LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@pytest.mark.parametrize("loop", LOOPS.values(), ids=LOOPS)
def test_thousand_coroutines_on_a_cold_set_make_one_fetch(
    loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    """C64: over real HTTP, discovery and key set once each."""
    with key_server() as served:
        served.before = lambda: time.sleep(0.1)
        verifier = Verifier(issuer=served.issuer, audience=forge.AUDIENCE, clock=lambda: forge.NOW)
        token = token_of(iss=served.issuer)

        async def all_at_once() -> list[Claims]:
            return await asyncio.gather(*(verifier.verify(token) for _ in range(1000)))

        with asyncio.Runner(loop_factory=loop) as runner:
            claims = runner.run(all_at_once())
        assert len(claims) == 1000
        assert len(served.requests) == 2


def test_thousand_coroutines_on_an_expired_set_make_one_fetch() -> None:
    """C64: the same for a service that was idle beyond the age of its set."""
    issuer = FakeIssuer()
    verifier = verifier_of(issuer.keys(), cache_size=0)
    verifier.start_sync()
    issuer.now += 100

    async def all_at_once() -> None:
        await asyncio.gather(*(verifier.verify(token_of()) for _ in range(1000)))

    asyncio.run(all_at_once())
    assert len(issuer.fetched) == 2


def test_threads_on_a_cold_set_make_one_fetch() -> None:
    """C64: and none of them is refused because it came a moment later than the others."""
    token = token_of()
    for _ in range(20):
        issuer = FakeIssuer()
        verifier = verifier_of(issuer.keys())
        barrier = threading.Barrier(16)

        def work(verifier: Verifier = verifier, barrier: threading.Barrier = barrier) -> Claims:
            barrier.wait()
            return verifier.verify_sync(token)

        with ThreadPoolExecutor(16) as pool:
            done = [future.result() for future in [pool.submit(work) for _ in range(16)]]
        assert len(done) == 16
        assert len(issuer.fetched) == 1


def test_threads_that_meet_a_new_key_are_all_served() -> None:
    """C66: one refetch, and nobody is refused who looked just before it landed."""
    token = token_of("new")
    for _ in range(20):
        issuer = FakeIssuer()
        verifier = verifier_of(issuer.keys())
        verifier.start_sync()
        issuer.names = ("good", "new")
        barrier = threading.Barrier(16)

        def work(verifier: Verifier = verifier, barrier: threading.Barrier = barrier) -> Claims:
            barrier.wait()
            return verifier.verify_sync(token)

        with ThreadPoolExecutor(16) as pool:
            done = [future.result() for future in [pool.submit(work) for _ in range(16)]]
        assert len(done) == 16
        assert len(issuer.fetched) == 2


async def test_event_loop_goes_on_while_keys_are_fetched() -> None:
    """No event loop is ever blocked: other tasks run while this one waits."""
    issuer = FakeIssuer(gate=threading.Event())
    verifier = verifier_of(issuer.keys())
    waiting = asyncio.create_task(verifier.verify(token_of()))
    lag = 0.0
    for _ in range(20):
        begun = time.monotonic()
        await asyncio.sleep(0.005)
        lag = max(lag, time.monotonic() - begun)

    assert not waiting.done()
    assert lag < 1
    assert issuer.gate is not None
    issuer.gate.set()
    assert (await waiting).token_id


async def test_verify_sync_in_a_coroutine_does_not_deadlock() -> None:
    """The fetch needs no loop: it blocks this one for its duration, and then it is over."""
    verifier = verifier_of(FakeIssuer().keys())
    assert verifier.verify_sync(token_of()).token_id


async def test_cancelled_waiter_cancels_nobody_else() -> None:
    """A client that goes away must not take the fetch of all others with it."""
    issuer = FakeIssuer(gate=threading.Event())
    verifier = verifier_of(issuer.keys())
    first, second = (asyncio.create_task(verifier.verify(token_of())) for _ in range(2))
    await asyncio.sleep(0.05)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first

    assert issuer.gate is not None
    issuer.gate.set()
    assert (await second).token_id
    assert len(issuer.fetched) == 1


def test_loop_may_end_before_the_fetch() -> None:
    """The next loop, or a thread, finds what the first one waited for in vain."""
    issuer = FakeIssuer(gate=threading.Event())
    verifier = verifier_of(issuer.keys())

    async def impatient() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(verifier.verify(token_of()), 0.05)

    asyncio.run(impatient())
    assert issuer.gate is not None
    issuer.gate.set()
    wait_until(lambda: verifier.stats().key_sets[0].fetches == 1)
    assert asyncio.run(verifier.verify(token_of())).token_id
    assert verifier.verify_sync(token_of()).token_id
    assert len(issuer.fetched) == 1


def test_waiting_is_bounded_when_a_fetch_never_ends() -> None:
    """A fetcher that hangs costs its patience once; then it is an outage."""
    gate = threading.Event()
    issuer = FakeIssuer(gate=gate)

    class Impatient(FakeIssuer):
        def fetch(self, url: str, etag: str | None, _timeout_s: float) -> FetchResult:
            return issuer.fetch(url, etag, 5.0)

    keys = RemoteKeySet(
        jwks_uri="https://auth.example/jwks",
        fetching=Fetching(timeout_s=0.1),
        fetcher=Impatient(),
    )
    verifier = verifier_of(keys)
    for longest in (3.0, 0.5):
        begun = time.monotonic()
        with pytest.raises(KeysUnavailableError):
            verifier.verify_sync(token_of())
        assert time.monotonic() - begun < longest
    gate.set()
    wait_until(lambda: keys.stats().fetches == 1)


def _verify_in_child(verifier: Verifier, token: str, answers: "multiprocessing.Queue[str]") -> None:
    try:
        answers.put(verifier.verify_sync(token).client_id)
    except BaseException as error:
        answers.put(repr(error))
        raise


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_child_of_a_fork_fetches_for_itself() -> None:
    """gunicorn --preload: the parent forks while its fetch is in the air and its lock is held; the
    child has neither thread nor owner of the lock, and must not wait for either."""
    with key_server() as served:
        keys = RemoteKeySet(jwks_uri=served.jwks_uri)
        verifier = verifier_of(keys)
        served.before = lambda: time.sleep(0.5)
        flying = threading.Thread(target=verifier.start_sync)
        flying.start()
        wait_until(lambda: len(served.requests) == 1)
        context = multiprocessing.get_context("fork")
        answers: multiprocessing.Queue[str] = context.Queue()
        with keys._lock:
            child = context.Process(target=_verify_in_child, args=(verifier, token_of(), answers))
            child.start()
        assert answers.get(timeout=20) == "web-shop"
        child.join(20)
        flying.join(20)

    assert child.exitcode == 0
    assert served.requests == ["/jwks", "/jwks"]
    assert verifier.verify_sync(token_of()).token_id


async def test_verifier_is_a_context_manager() -> None:
    """`async with` in an application's lifespan: keys at the start, no fetch after the end."""
    issuer = FakeIssuer()
    async with verifier_of(issuer.keys()) as verifier:
        assert len(issuer.fetched) == 1
        assert (await verifier.verify(token_of())).token_id
    issuer.now += 100
    assert (await verifier.verify(token_of())).token_id
    assert len(issuer.fetched) == 1


async def test_start_fetches_from_all_issuers_at_once() -> None:
    """A move from one issuer to another: neither waits until the other has answered."""
    with key_server() as old, key_server() as new:
        both_asked = threading.Barrier(2)
        for served in (old, new):
            served.before = lambda: both_asked.wait(10)
        verifier = Verifier(issuer=(old.issuer, new.issuer), audience=forge.AUDIENCE)
        await verifier.start()

        assert [stats.keys for stats in verifier.stats().key_sets] == [1, 1]
