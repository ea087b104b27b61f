"""When a TokenSource asks and when it does not, on a clock that a test moves."""

import asyncio
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from tests.client.conftest import StoppedClock, land
from tests.support.token_endpoint import ScriptedEndpoint, granted, refused
from token_server.client import (
    TokenRefusedError,
    TokenSource,
    TokenSourceError,
    TokenUnavailableError,
)

MakeSource = Callable[..., TokenSource]


def test_token_is_fetched_once_and_kept(
    make_source: MakeSource, endpoint: ScriptedEndpoint
) -> None:
    """No request while the token is young; sync and async callers share it."""
    source = make_source()
    assert [source.get_token() for _ in range(3)] == ["token-1"] * 3
    assert asyncio.run(source.aget_token()) == "token-1"
    assert len(endpoint.asked) == 1


def test_token_is_refreshed_ahead_without_making_anybody_wait(
    make_source: MakeSource, endpoint: ScriptedEndpoint, clock: StoppedClock
) -> None:
    """One to two minutes before the end the caller gets the old token, and a fetch starts."""
    source = make_source()
    source.get_token()
    clock.now += 900 - 120 - 1
    assert source.get_token() == "token-1"
    clock.now += 62  # past the jitter: between 60 and 120 seconds before the end
    assert source.get_token() == "token-1"
    land(source)
    assert source.get_token() == "token-2"
    assert len(endpoint.asked) == 2


def test_refresh_ahead_does_not_come_at_the_same_time_everywhere(
    make_source: MakeSource, clock: StoppedClock
) -> None:
    """Jitter: a fleet that was started at once does not ask at once."""
    instants = set()
    for _ in range(8):
        source = make_source()
        source.get_token()
        assert source._held is not None
        instants.add(source._held.refresh_at)
        assert 1000 + 900 - 120 <= source._held.refresh_at <= 1000 + 900 - 60
    assert len(instants) > 1


def test_token_in_its_last_seconds_is_not_handed_out(
    make_source: MakeSource, clock: StoppedClock
) -> None:
    """The request that carries it takes time, too."""
    source = make_source()
    source.get_token()
    clock.now += 900 - 4
    assert source.get_token() == "token-2"


def test_short_lived_token_is_used_for_most_of_its_life(
    make_source: MakeSource, endpoint: ScriptedEndpoint, clock: StoppedClock
) -> None:
    """Four seconds: kept for three of them, refreshed ahead in the last one."""
    endpoint.answer = lambda _: granted(f"token-{len(endpoint.asked)}", expires_in=4)
    source = make_source()
    source.get_token()
    clock.now += 2.9
    assert source.get_token() == "token-1"
    assert len(endpoint.asked) == 1
    clock.now += 0.65
    assert source.get_token() == "token-1"
    land(source)
    assert source.get_token() == "token-2"


def test_age_of_a_token_counts_from_the_question(
    make_source: MakeSource, endpoint: ScriptedEndpoint, clock: StoppedClock
) -> None:
    """`expires_in` counts from when the server wrote it, which was before we read it."""

    def answer_late(_: object) -> object:
        clock.now += 500
        return granted("token-1")

    endpoint.answer = answer_late  # type: ignore[assignment]  # object, to keep the test short
    source = make_source()
    source.get_token()
    assert source._held is not None
    assert source._held.expires_at == 1000 + 900


# --- many callers --------------------------------------------------------------------------------


def test_many_tasks_and_threads_on_a_cold_source_make_one_request(
    make_source: MakeSource, endpoint: ScriptedEndpoint
) -> None:
    """200 tasks and 20 threads: single flight over both."""
    endpoint.will_say(replace(granted("token-1"), delay_s=0.2))
    source = make_source()

    async def ask() -> list[str]:
        return await asyncio.gather(*(source.aget_token() for _ in range(200)))

    with ThreadPoolExecutor(20) as pool:
        waiting = [pool.submit(source.get_token) for _ in range(20)]
        assert set(asyncio.run(ask())) == {"token-1"}
        assert {each.result() for each in waiting} == {"token-1"}
    assert len(endpoint.asked) == 1


async def test_event_loop_is_not_blocked_while_a_token_is_fetched(
    make_source: MakeSource, endpoint: ScriptedEndpoint
) -> None:
    """The request runs in a thread."""
    endpoint.will_say(replace(granted(), delay_s=0.3))
    fetch = asyncio.create_task(make_source().aget_token())
    turns = 0
    while not fetch.done():
        await asyncio.sleep(0.01)
        turns += 1
    assert await fetch == "token-1"
    assert turns > 5


async def test_cancelled_caller_cancels_nobody_else(
    make_source: MakeSource, endpoint: ScriptedEndpoint
) -> None:
    """The fetch goes on for the others, and is used."""
    endpoint.will_say(replace(granted(), delay_s=0.2))
    source = make_source()
    first = asyncio.create_task(source.aget_token())
    second = asyncio.create_task(source.aget_token())
    await asyncio.sleep(0.05)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert await second == "token-1"
    assert len(endpoint.asked) == 1


def test_event_loop_may_end_before_the_fetch(
    make_source: MakeSource, endpoint: ScriptedEndpoint, caplog: pytest.LogCaptureFixture
) -> None:
    """asyncio.run that is over does not disturb the fetch, whose token the next caller gets."""
    endpoint.will_say(replace(granted(), delay_s=0.2))
    source = make_source()

    async def give_up() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(source.aget_token(), 0.05)

    asyncio.run(give_up())
    assert source.get_token() == "token-1"
    assert len(endpoint.asked) == 1
    assert "exception" not in caplog.text


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_forked_child_uses_the_token_and_can_fetch_another(
    make_source: MakeSource, endpoint: ScriptedEndpoint
) -> None:
    """A fork during a fetch: the child has neither the thread nor a lock that nobody releases."""
    endpoint.will_say(replace(granted("token-1"), delay_s=0.3))
    source = make_source()
    thread = threading.Thread(target=source.get_token)
    thread.start()
    while not endpoint.asked:
        pass
    with source._lock:
        child = os.fork()
        if child == 0:
            os._exit(0 if source.get_token() == "token-1" else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    thread.join()
    assert len(endpoint.asked) == 2


# --- failures ------------------------------------------------------------------------------------


def test_old_token_is_kept_while_the_server_is_away(
    make_source: MakeSource, endpoint: ScriptedEndpoint, clock: StoppedClock
) -> None:
    """Until its very end; then there is a clear error, and as soon as it is back a new token."""
    source = make_source()
    source.get_token()
    endpoint.will_say(refused(503, "temporarily_unavailable"))
    for left_s in (60, 30, 10, 3):  # three attempts each take up to two of these seconds
        clock.now = 1900.0 - left_s
        assert source.get_token() == "token-1"
        land(source)
        assert source.get_token() == "token-1"
    clock.now = 1901.0
    with pytest.raises(TokenUnavailableError) as caught:
        source.get_token()
    assert (caught.value.status, caught.value.error) == (503, "temporarily_unavailable")
    endpoint.will_say(granted("token-2"))
    clock.now += 60
    assert source.get_token() == "token-2"


def test_lost_answer_is_asked_for_again_at_once(
    make_source: MakeSource, endpoint: ScriptedEndpoint, clock: StoppedClock
) -> None:
    """Cut off, then 503 with Retry-After: the caller gets the token of the third attempt."""
    endpoint.will_say(
        replace(granted(), cut_bytes=20),
        refused(503, "temporarily_unavailable", Retry_After="1"),
        granted("token-3"),
    )
    assert make_source().get_token() == "token-3"
    assert len(clock.pauses) == 2
    assert 0.25 <= clock.pauses[0] <= 0.5
    assert clock.pauses[1] == 1.0


def test_server_that_is_away_is_asked_less_and_less(
    make_source: MakeSource, endpoint: ScriptedEndpoint, clock: StoppedClock
) -> None:
    """A caller per second for an hour: three attempts per fetch, and a back-off up to a minute."""
    endpoint.will_say(refused(503, "temporarily_unavailable"))
    source = make_source()
    for _ in range(3600):
        with pytest.raises(TokenUnavailableError):
            source.get_token()
        clock.now += 1
    assert 3 * 60 <= len(endpoint.asked) <= 3 * 140


def test_retry_after_is_honoured(
    make_source: MakeSource, endpoint: ScriptedEndpoint, clock: StoppedClock
) -> None:
    """429 with Retry-After 120: not a request before, one after (RFC 9110 10.2.3)."""
    endpoint.will_say(refused(429, "temporarily_unavailable", Retry_After="120"), granted())
    source = make_source()
    for waited_s, left_s in ((0, 120), (60, 60), (59, 1)):
        clock.now += waited_s
        with pytest.raises(TokenUnavailableError) as caught:
            source.get_token()
        assert caught.value.retry_after_s == pytest.approx(left_s)
    assert len(endpoint.asked) == 1
    clock.now += 1
    assert source.get_token() == "token-1"


def test_server_that_refuses_is_not_hammered(
    make_source: MakeSource, endpoint: ScriptedEndpoint, clock: StoppedClock
) -> None:
    """A wrong secret: one request, no quick retry, and from then on rarely."""
    endpoint.will_say(refused(401, "invalid_client"))
    source = make_source()
    for _ in range(1000):
        with pytest.raises(TokenRefusedError) as caught:
            source.get_token()
        assert caught.value.error == "invalid_client"
    assert len(endpoint.asked) == 1
    for _ in range(3600):
        with pytest.raises(TokenRefusedError):
            source.get_token()
        clock.now += 1
    assert len(endpoint.asked) < 40


def test_corrected_client_recovers_without_a_restart(
    make_source: MakeSource, endpoint: ScriptedEndpoint, clock: StoppedClock
) -> None:
    """The secret is read anew for each request."""
    secrets = ["old", "new"]
    endpoint.will_say(refused(401, "invalid_client"), granted())
    source = make_source(client_secret=lambda: secrets.pop(0), auth_method="client_secret_post")
    with pytest.raises(TokenRefusedError):
        source.get_token()
    clock.now += 11
    assert source.get_token() == "token-1"
    assert [asked.form["client_secret"] for asked in endpoint.asked] == ["old", "new"]


def test_each_caller_gets_an_error_of_its_own(
    make_source: MakeSource, endpoint: ScriptedEndpoint
) -> None:
    """One that is raised twice would collect both tracebacks."""
    endpoint.will_say(refused(401, "invalid_client"))
    source = make_source()
    errors = []
    for _ in range(2):
        with pytest.raises(TokenSourceError) as caught:
            source.get_token()
        errors.append(caught.value)
    assert errors[0] is not errors[1]
    assert str(errors[0]) == str(errors[1])


def test_callers_do_not_wait_for_ever(make_source: MakeSource, endpoint: ScriptedEndpoint) -> None:
    """A server that takes the request and says nothing: bounded by the timeout, three times."""
    endpoint.will_say(replace(granted(), delay_s=0.5))
    with pytest.raises(TokenUnavailableError, match="timed out"):
        make_source(timeout_s=0.05).get_token()
    assert len(endpoint.asked) == 3


def test_answer_that_never_ends_is_given_up(
    make_source: MakeSource, endpoint: ScriptedEndpoint
) -> None:
    """A byte now and then keeps each single wait short, but not all of them."""
    endpoint.will_say(replace(granted(), drip_s=0.05))
    with pytest.raises(TokenUnavailableError, match="too slowly"):
        make_source(timeout_s=0.2).get_token()


def test_back_off_begins_anew_after_a_success(
    make_source: MakeSource, endpoint: ScriptedEndpoint, clock: StoppedClock
) -> None:
    """An outage of yesterday does not make today's first failure a long one."""
    source = make_source()
    for _ in range(6):
        endpoint.will_say(refused(503, "temporarily_unavailable"))
        with pytest.raises(TokenUnavailableError):
            source.get_token()
        clock.now += 60
    endpoint.will_say(granted())
    source.get_token()
    clock.now += 1000
    endpoint.will_say(refused(503, "temporarily_unavailable"))
    with pytest.raises(TokenUnavailableError):
        source.get_token()
    with pytest.raises(TokenUnavailableError) as caught:  # says how long the back-off lasts
        source.get_token()
    assert caught.value.retry_after_s is not None
    assert caught.value.retry_after_s <= 1


# --- a token that a service refused ---------------------------------------------------------------


def test_invalidated_token_is_replaced(make_source: MakeSource, endpoint: ScriptedEndpoint) -> None:
    """Also for those who still hold the old one: they are told that there is another."""
    source = make_source()
    refused_token = source.get_token()
    assert source.invalidate(refused_token)
    assert source.get_token() == "token-2"
    assert source.invalidate(refused_token)
    assert source.get_token() == "token-2"
    assert len(endpoint.asked) == 2


def test_service_that_refuses_all_tokens_does_not_double_our_requests(
    make_source: MakeSource, endpoint: ScriptedEndpoint, clock: StoppedClock
) -> None:
    """At most one token is given up per ten seconds."""
    source = make_source()
    outcomes = [source.invalidate(source.get_token()) for _ in range(100)]
    assert outcomes == [True] + [False] * 99
    assert len(endpoint.asked) == 2
    clock.now += 10
    assert source.invalidate(source.get_token())


def test_invalidated_token_does_not_come_back_when_the_server_is_away(
    make_source: MakeSource, endpoint: ScriptedEndpoint
) -> None:
    """It was refused: an error is better than a second refusal."""
    source = make_source()
    source.invalidate(source.get_token())
    endpoint.will_say(refused(503, "temporarily_unavailable"))
    with pytest.raises(TokenUnavailableError):
        source.get_token()
