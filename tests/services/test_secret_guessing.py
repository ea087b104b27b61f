"""The guessing budget for client secrets, on both engines (case E96)."""

import pytest

from tests.support.guessing import ELSEWHERE, HERE, buckets, context
from tests.support.people import StandingClock
from token_server.core.client_auth import ClientAuthMethod, PresentedClient
from token_server.core.guess_budget import CLIENT_SECRET_BUDGETS, NETWORK_BUDGETS
from token_server.errors import InvalidClientError, UnavailableError
from token_server.records import AuditEventType, Secret
from token_server.runtime import Runtime, open_runtime
from token_server.services.client_authentication import authenticate_client
from token_server.services.clients import NewClient, add_client
from token_server.services.guessing import Door, Guess, admit_guess
from token_server.storage import audit


@pytest.fixture
def clock(standing_clock: StandingClock) -> StandingClock:
    return standing_clock


@pytest.fixture
def runtime(keyed_runtime: Runtime) -> Runtime:
    return keyed_runtime


async def present(
    runtime: Runtime, secret: str, client_id: str = "billing", ip_address: str = HERE
) -> str:
    """`ok`, `refused`, or for how long to wait."""
    method = ClientAuthMethod.CLIENT_SECRET_BASIC
    presented = PresentedClient(client_id, method, Secret(secret))
    try:
        await authenticate_client(runtime, presented, context(runtime, ip_address))
    except InvalidClientError:
        return "refused"
    except UnavailableError as error:
        if not error.is_throttled:
            raise
        return f"wait {error.retry_after_s}"
    return "ok"


async def add_machine(runtime: Runtime, client_id: str = "billing") -> str:
    _, secret = await add_client(runtime, NewClient(client_id, ("client_credentials",)))
    assert secret is not None
    return secret.reveal()


async def spend_secrets(runtime: Runtime, client_id: str = "billing") -> None:
    for number in range(CLIENT_SECRET_BUDGETS[0].burst):
        assert await present(runtime, f"guess {number}", client_id) == "refused"
    assert await present(runtime, "one more", client_id) == "wait 10"


async def test_good_secret_costs_no_count(runtime: Runtime) -> None:
    """A machine token stays as cheap as it was: no row, no write."""
    secret = await add_machine(runtime)
    for _ in range(100):
        assert await present(runtime, secret) == "ok"
    assert await buckets(runtime) == []


async def test_guessed_at_client_waits_in_that_network_alone(
    runtime: Runtime, clock: StandingClock
) -> None:
    """E96: beyond the budget a wrong secret waits; other clients and networks do not notice."""
    other = await add_machine(runtime, "shipping")
    await add_machine(runtime)
    await spend_secrets(runtime)
    assert await present(runtime, "guess") == "wait 10"
    assert await present(runtime, other, "shipping") == "ok"
    assert await present(runtime, "guess", ip_address=ELSEWHERE) == "refused"
    clock.at += 10
    assert await present(runtime, "guess") == "refused"


async def test_good_secret_works_whatever_was_guessed(
    runtime: Runtime, clock: StandingClock
) -> None:
    """A forgotten instance with an old secret must not stop its sisters behind one address."""
    secret = await add_machine(runtime)
    await spend_secrets(runtime)
    assert await present(runtime, secret) == "ok"
    clock.at += 6  # the cached client is too old, and the guesses are still refused
    assert await present(runtime, "guess") == "wait 4"
    assert await present(runtime, secret) == "ok"


async def test_unknown_client_is_counted_like_a_known_one(runtime: Runtime) -> None:
    """E93: the same number of 401, the same 429."""
    await spend_secrets(runtime, "nobody")


@pytest.mark.parametrize("client_id", ["billing", "nobody"])
async def test_known_refusal_asks_nothing_of_the_database(runtime: Runtime, client_id: str) -> None:
    """A flood beyond the budget costs no query, whether the client exists or not (E93)."""
    await add_machine(runtime)
    await spend_secrets(runtime, client_id)
    await runtime.background.close()  # no audit row may be under way, which holds a connection
    await runtime.store.close()
    for _ in range(100):
        assert await present(runtime, "guess", client_id) == "wait 10"


async def test_another_process_learns_of_a_refusal_by_one_guess(
    runtime: Runtime, clock: StandingClock
) -> None:
    """The database is the truth, each process's memory a copy of it."""
    await add_machine(runtime)
    await spend_secrets(runtime)
    async with open_runtime(runtime.settings, clock=clock) as other:
        assert await present(other, "guess") == "wait 10"


async def test_secret_guesses_count_for_the_network(runtime: Runtime) -> None:
    """Ever other client ids are bounded like ever other accounts."""
    for number in range(NETWORK_BUDGETS[0].burst):
        assert await present(runtime, "guess", f"client-{number}") == "refused"
    assert await present(runtime, "guess", "one-more") == "wait 1"
    with pytest.raises(UnavailableError, match="guess_budget_spent"):
        await admit_guess(runtime, Guess(Door.LOGIN, "ada@example.org"), context(runtime))


async def test_client_without_a_secret_is_no_guess(runtime: Runtime) -> None:
    """A public client names itself; there is nothing to guess, and no budget to spend."""
    await add_client(runtime, NewClient("app", ("password",), is_public=True))
    presented = PresentedClient("app", ClientAuthMethod.NONE, None)
    for _ in range(100):
        await authenticate_client(runtime, presented, context(runtime))
    wrong = PresentedClient("nobody", ClientAuthMethod.NONE, None)
    for _ in range(100):
        with pytest.raises(InvalidClientError):
            await authenticate_client(runtime, wrong, context(runtime))
    assert await buckets(runtime) == []


async def test_throttled_client_is_audited_without_its_name(runtime: Runtime) -> None:
    """What an unknown client calls itself may be a secret in the wrong field."""
    await spend_secrets(runtime, "oops-my-secret")
    await present(runtime, "guess", "oops-my-secret")
    await runtime.background.close()
    async with runtime.store.read() as connection:
        events = [found.event for found in await audit.list_events(connection, 0, 100)]
    throttled = [
        (event.client_id, event.reason, event.details)
        for event in events
        if event.event is AuditEventType.CLIENT_AUTHENTICATION_THROTTLED
    ]
    details = {"door": "client_secret", "retry_after_s": 10}
    assert throttled == [
        (None, "account_budget_spent", details),
        (None, "budget_still_spent", details),
    ]
