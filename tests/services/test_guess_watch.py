"""The alarm over failed guesses, as processes on one database raise it, on both engines."""

import asyncio

import pytest

from tests.support.guessing import HERE, context
from tests.support.people import StandingClock
from token_server.core.api_key import KEY_ID_BYTES, format_api_key, new_key_id
from token_server.core.client_auth import ClientAuthMethod, PresentedClient
from token_server.core.guess_alarm import MINUTE_S, QUIET_MINUTES
from token_server.core.opaque import RANDOM_BYTES
from token_server.errors import EmailTakenError, InvalidClientError, UnavailableError
from token_server.records import AuditEvent, AuditEventType, Secret
from token_server.runtime import Runtime, open_runtime
from token_server.services import guess_watch
from token_server.services.account import register
from token_server.services.api_keys import authenticate_api_key
from token_server.services.client_authentication import authenticate_client
from token_server.services.guess_watch import GuessWatch, guesses_watched
from token_server.services.guessing import Door, Guess
from token_server.services.users import NewUser, add_user, authenticate_user, disable_user
from token_server.storage import audit

THRESHOLD = 300
UNKNOWN_KEY = format_api_key(new_key_id(bytes(KEY_ID_BYTES)), bytes(RANDOM_BYTES))
OVER_S = MINUTE_S * (QUIET_MINUTES + 1)
ALARMS = (AuditEventType.GUESS_ALARM_RAISED, AuditEventType.GUESS_ALARM_ENDED)
EMAIL, PASSWORD = "ada@example.org", Secret("correct horse battery staple")


@pytest.fixture
def clock(standing_clock: StandingClock) -> StandingClock:
    return standing_clock


@pytest.fixture
def runtime(keyed_runtime: Runtime) -> Runtime:
    assert keyed_runtime.settings.guess_alarm_per_minute == THRESHOLD
    return keyed_runtime


async def alarms(runtime: Runtime) -> list[AuditEvent]:
    async with runtime.store.read() as connection:
        found = await audit.list_events(connection, 0, 1000)
    return [stored.event for stored in found if stored.event.event in ALARMS]


def gauge(runtime: Runtime) -> str:
    text = runtime.metrics.render()[0].decode()
    [line] = [one for one in text.splitlines() if one.startswith("token_server_guess_alarm ")]
    return line.split()[1]


async def test_processes_add_up_and_exactly_one_tells(
    runtime: Runtime, clock: StandingClock
) -> None:
    """F111, 268: each is below the threshold, together they are not; the end is told once, too."""
    async with (
        open_runtime(runtime.settings, clock=clock) as second,
        open_runtime(runtime.settings, clock=clock) as third,
    ):
        crew = (runtime, second, third)
        watches = [GuessWatch(each) for each in crew]
        for each in crew:
            each.failed_guesses.add("login", 90)
            each.failed_guesses.add("api_key", 20)
        await asyncio.gather(*(watch.look() for watch in watches))
        await asyncio.gather(*(watch.look() for watch in watches))
        assert [gauge(each) for each in crew] == ["1.0"] * 3
        clock.at += OVER_S
        await asyncio.gather(*(watch.look() for watch in watches))
        await asyncio.gather(*(watch.look() for watch in watches))
        assert [gauge(each) for each in crew] == ["0.0"] * 3
    raised, ended = await alarms(runtime)
    assert raised.event is AuditEventType.GUESS_ALARM_RAISED
    assert dict(raised.details) == {"failed": 330, "login": 270, "api_key": 60}
    assert dict(ended.details) == {
        "failed": 330,
        "login": 270,
        "api_key": 60,
        "peak_per_minute": 330,
        "lasted_s": MINUTE_S,
    }
    for event in (raised, ended):
        assert (event.actor, event.subject, event.client_id) == ("server", None, None)
        assert (event.ip_address, event.reason) == (None, None)


async def test_episode_outlives_whoever_saw_it_begin(
    runtime: Runtime, clock: StandingClock
) -> None:
    """F114: a process that starts later knows of it, and ends it."""
    async with open_runtime(runtime.settings, clock=clock) as first:
        first.failed_guesses.add("login", THRESHOLD)
        await GuessWatch(first).look()
    watch = GuessWatch(runtime)
    await watch.look()
    assert gauge(runtime) == "1.0"
    clock.at += OVER_S
    await watch.look()
    assert gauge(runtime) == "0.0"
    assert [event.event for event in await alarms(runtime)] == list(ALARMS)


async def test_without_failures_nothing_is_written(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A quiet server reads one row now and then."""
    await GuessWatch(runtime).look()
    runtime.failed_guesses.add("login")
    await GuessWatch(runtime).look()

    def refuse() -> None:
        raise AssertionError("a write")

    monkeypatch.setattr(type(runtime.store), "write", lambda *_args, **_options: refuse())
    await GuessWatch(runtime).look()


async def test_failures_that_could_not_be_added_are_kept(runtime: Runtime) -> None:
    """A database that is away for a while does not hide an attack."""
    async with open_runtime(runtime.settings, clock=runtime.clock) as other:
        other.failed_guesses.add("login", THRESHOLD)
        await other.store.close()
        with pytest.raises(UnavailableError):
            await GuessWatch(other).look()
        assert dict(other.failed_guesses.take()) == {"login": THRESHOLD}


async def test_watching_looks_by_itself_and_once_more_at_its_end(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was counted when the process stops is not lost."""
    monkeypatch.setattr(guess_watch, "LOOK_S", 0.01)
    async with guesses_watched(runtime):
        runtime.failed_guesses.add("login", THRESHOLD)
        async with asyncio.timeout(30):
            while not await alarms(runtime):  # noqa: ASYNC110 - a row, not an event
                await asyncio.sleep(0.01)
    monkeypatch.setattr(guess_watch, "LOOK_S", 3600.0)
    async with guesses_watched(runtime):
        runtime.failed_guesses.add("login", THRESHOLD)
    assert not runtime.failed_guesses


async def fail_everywhere(runtime: Runtime) -> None:
    """One failure at each door, from one network."""
    at = context(runtime, HERE)
    for door in (Door.LOGIN, Door.PASSWORD_GRANT, Door.CHANGE_PASSWORD, Door.REAUTHENTICATION):
        guess = Guess(door, f"{door}@example.org")
        assert await authenticate_user(runtime, guess, Secret("wrong"), at) is None
    assert await authenticate_api_key(runtime, UNKNOWN_KEY, at) is None
    method = ClientAuthMethod.CLIENT_SECRET_BASIC
    with pytest.raises(InvalidClientError):
        await authenticate_client(runtime, PresentedClient("b", method, Secret("no")), at)
    taken = NewUser(EMAIL, "Ada", PASSWORD)
    with pytest.raises(EmailTakenError):
        await register(runtime, taken, None, at)


async def test_every_door_feeds_the_alarm(runtime: Runtime) -> None:
    """Whatever may be guessed at counts once when it fails."""
    await add_user(runtime, NewUser(EMAIL, "Ada", PASSWORD))
    await fail_everywhere(runtime)
    assert dict(runtime.failed_guesses.take()) == dict.fromkeys(map(str, Door), 1)


async def test_what_is_right_feeds_no_alarm(runtime: Runtime) -> None:
    """A login that succeeds is no failure; one of a disabled account is, like any other."""
    await add_user(runtime, NewUser(EMAIL, "Ada", PASSWORD))
    guess = Guess(Door.LOGIN, EMAIL)
    assert await authenticate_user(runtime, guess, PASSWORD, context(runtime)) is not None
    assert not runtime.failed_guesses
    await disable_user(runtime, EMAIL)
    assert await authenticate_user(runtime, guess, PASSWORD, context(runtime)) is None
    assert dict(runtime.failed_guesses.take()) == {"login": 1}
