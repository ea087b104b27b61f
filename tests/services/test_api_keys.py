"""API keys in use, on both engines (cases I163, I165, I166, I168, E100)."""

import asyncio

import pytest

from tests.support.api_keys import (
    EMAIL,
    SCOPES,
    add_owner,
    events,
    is_good,
    make_key,
    present,
)
from tests.support.databases import TEST_EPOCH
from tests.support.guessing import ELSEWHERE, buckets, context
from tests.support.people import StandingClock
from tests.support.server import make_settings
from token_server.core.api_key import format_api_key, read_key_id
from token_server.core.guess_budget import API_KEY_BUDGETS
from token_server.core.opaque import digest
from token_server.core.status_list import BitArray
from token_server.errors import (
    UnavailableError,
)
from token_server.records import AuditEvent, AuditEventType, Secret, User
from token_server.runtime import Runtime, open_runtime
from token_server.services.api_keys import NUMBER_FOR_S, ApiKeyPrincipal, status_number
from token_server.services.client_changes import ClientChanges, change_client
from token_server.services.clients import disable_client, enable_client
from token_server.services.maintenance import FAMILY_MARGIN_S, mark_restored, prune_database
from token_server.services.own_api_keys import (
    list_api_keys,
    revoke_api_key,
)
from token_server.services.user_profile import set_roles
from token_server.services.users import disable_user, enable_user, set_password, show_user
from token_server.storage import api_keys, status


@pytest.fixture
def clock(standing_clock: StandingClock) -> StandingClock:
    return standing_clock


@pytest.fixture
def runtime(keyed_runtime: Runtime) -> Runtime:
    return keyed_runtime


@pytest.fixture
async def owner(runtime: Runtime) -> User:
    return await add_owner(runtime)


async def principal_of(runtime: Runtime, text: str) -> ApiKeyPrincipal:
    found = await present(runtime, text)
    assert isinstance(found, ApiKeyPrincipal)
    return found


async def number_of(runtime: Runtime, text: str) -> int:
    principal = await principal_of(runtime, text)
    return await status_number(runtime, principal, runtime.clock.now())


async def revoked_numbers(runtime: Runtime) -> set[int]:
    async with runtime.store.read() as connection:
        found = await status.revoked_after(connection, "m", status.Revoked(0, 0), 1000)
    return {each.number for each in found}


async def written(runtime: Runtime, kind: AuditEventType, count: int) -> list[AuditEvent]:
    """Rows of refusals follow a moment later; the writer tells nobody when."""
    async with asyncio.timeout(10):
        while len(found := await events(runtime, kind)) < count:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    return found


async def test_key_speaks_for_its_owner(runtime: Runtime, owner: User) -> None:
    """I163: found by its id, compared by its digest; only the digest is stored."""
    key, text = await make_key(runtime, owner, expires_at=TEST_EPOCH + 60)
    found = await principal_of(runtime, text)
    assert (found.key_id, found.user.user_id) == (key.key_id, owner.user_id)
    assert (found.scope, found.expires_at) == (SCOPES, TEST_EPOCH + 60)
    assert key.secret_digest == digest(text)
    assert read_key_id(text) == key.key_id
    assert text not in repr(key)


async def test_last_use_is_noted_in_the_background(runtime: Runtime, owner: User) -> None:
    """At most once a minute; no write for the request itself."""
    key, text = await make_key(runtime, owner)
    assert await is_good(runtime, text)
    async with asyncio.timeout(10):
        while (await list_api_keys(runtime, owner, TEST_EPOCH)).keys[0].last_used_at is None:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    [listed] = (await list_api_keys(runtime, owner, TEST_EPOCH)).keys
    assert (listed.key_id, listed.last_used_at) == (key.key_id, TEST_EPOCH)


@pytest.mark.parametrize("change", ["typo", "cut", "jwt", "other_prefix", "empty", "surrogate"])
async def test_what_is_no_key_costs_nothing(runtime: Runtime, owner: User, change: str) -> None:
    """I163, I168: refused by its form, without a query, a guess or an audit row."""
    _, text = await make_key(runtime, owner)
    junk = {
        "typo": text[:30] + ("A" if text[30] != "A" else "B") + text[31:],
        "cut": text[:-1],
        "jwt": "eyJhbGciOiJSUzI1NiJ9.e30.c2ln",
        "other_prefix": "ts_" + text[4:],
        "empty": "",
        "surrogate": "tsk_\ud800",
    }[change]
    await runtime.store.close()  # any query would raise
    assert await present(runtime, junk) == "refused"


async def test_wrong_secret_under_a_real_id_is_refused(runtime: Runtime, owner: User) -> None:
    """I163: the id alone, which lists show, opens nothing; the audit trail names no key then."""
    key, _ = await make_key(runtime, owner)
    forged = format_api_key(key.key_id, bytes(32))
    unknown = format_api_key("key_" + "A" * 16, bytes(32))
    assert await present(runtime, forged) == "refused"
    assert await present(runtime, unknown) == "refused"
    refused = await written(runtime, AuditEventType.API_KEY_REFUSED, 2)
    assert [(event.subject, event.reason) for event in refused] == [(None, "api_key_unknown")] * 2


async def test_effective_scope_is_what_the_owner_may_have_now(
    runtime: Runtime, owner: User
) -> None:
    """I165: scopes that the account client lost are lost at once, and come back with it; roles
    are the owner's as they are now."""
    _, text = await make_key(runtime, owner)
    await change_client(runtime, "account", ClientChanges(scopes=("orders:read", "new:scope")))
    assert (await principal_of(runtime, text)).scope == ("orders:read",)
    await change_client(runtime, "account", ClientChanges(scopes=()))
    assert (await principal_of(runtime, text)).scope == ()
    await change_client(runtime, "account", ClientChanges(scopes=SCOPES))
    await set_roles(runtime, EMAIL, ["clerk"])
    found = await principal_of(runtime, text)
    assert (found.scope, found.user.roles) == (SCOPES, ("clerk",))


async def test_ended_key_is_refused_in_the_same_second(
    runtime: Runtime, clock: StandingClock, owner: User
) -> None:
    """I166: revoked, expired, owner disabled: no clock tick in between; the cause is audited."""
    revoked, revoked_text = await make_key(runtime, owner)
    expiring, expiring_text = await make_key(runtime, owner, expires_at=TEST_EPOCH + 60)
    kept, kept_text = await make_key(runtime, owner)
    await revoke_api_key(runtime, owner, revoked.key_id, context(runtime))
    assert await present(runtime, revoked_text) == "refused"
    clock.at += 59
    assert await is_good(runtime, expiring_text)
    clock.at += 1
    assert await present(runtime, expiring_text) == "refused"
    await disable_user(runtime, EMAIL)
    assert await present(runtime, kept_text) == "refused"
    await enable_user(runtime, EMAIL)
    assert await is_good(runtime, kept_text)
    await disable_client(runtime, "account")
    assert await present(runtime, kept_text) == "refused"
    refused = await written(runtime, AuditEventType.API_KEY_REFUSED, 4)
    assert [(event.subject, event.reason) for event in refused] == [
        (revoked.key_id, "api_key_revoked"),
        (expiring.key_id, "api_key_expired"),
        (kept.key_id, "user_disabled"),
        (kept.key_id, "client_disabled"),
    ]


async def test_closed_account_api_closes_its_keys(runtime: Runtime, owner: User) -> None:
    """E100: with the client disabled no key is good, without the delay of any cache."""
    _, text = await make_key(runtime, owner)
    assert await is_good(runtime, text)
    await disable_client(runtime, "account")
    assert not await is_good(runtime, text)
    await enable_client(runtime, "account")
    assert await is_good(runtime, text)


async def test_keys_survive_a_password_change(runtime: Runtime, owner: User) -> None:
    """They are listed and revocable by themselves (docs/api-keys.md)."""
    _, text = await make_key(runtime, owner)
    number = await number_of(runtime, text)
    await set_password(runtime, EMAIL, Secret("another battery staple horse"))
    assert await number_of(runtime, text) == number
    assert await revoked_numbers(runtime) == set()


async def test_guesses_at_keys_are_counted(runtime: Runtime, clock: StandingClock) -> None:
    """F109: per network and key; beyond the budget a wrong one waits, a good one works."""
    owner = await add_owner(runtime)
    key, text = await make_key(runtime, owner)
    other, _ = await make_key(runtime, owner)
    forged = format_api_key(key.key_id, bytes(32))
    for _ in range(API_KEY_BUDGETS[0].burst):
        assert await present(runtime, forged) == "refused"
    assert await present(runtime, forged) == "wait 10"
    counted = await buckets(runtime)
    assert await present(runtime, forged) == "wait 10"
    assert await buckets(runtime) == counted  # known to be refused: no transaction each
    assert await is_good(runtime, text)
    assert await present(runtime, forged, ELSEWHERE) == "refused"
    assert await present(runtime, format_api_key(other.key_id, bytes(32))) == "refused"
    clock.at += 10
    assert await present(runtime, forged) == "refused"
    [throttled, *_] = await written(runtime, AuditEventType.API_KEY_THROTTLED, 2)
    assert throttled.details == {"door": "api_key", "retry_after_s": 10}


async def test_good_key_costs_no_write(runtime: Runtime, owner: User) -> None:
    """However often it is used: no bucket, and no number before a token asks for one."""
    _, text = await make_key(runtime, owner)
    for _ in range(50):
        assert await is_good(runtime, text)
    assert await buckets(runtime) == []


async def test_tokens_of_a_key_share_a_number_for_a_day(
    runtime: Runtime, clock: StandingClock, owner: User
) -> None:
    """One write a day, whoever asks; revoking the key then revokes today's and yesterday's."""
    key, text = await make_key(runtime, owner)
    _, other = await make_key(runtime, owner)
    first = await number_of(runtime, text)
    assert await number_of(runtime, text) == first
    assert await number_of(runtime, other) != first
    clock.at += NUMBER_FOR_S - 1
    assert await number_of(runtime, text) == first
    clock.at += 1
    second = await number_of(runtime, text)
    clock.at += NUMBER_FOR_S
    third = await number_of(runtime, text)
    assert len({first, second, third}) == 3
    await revoke_api_key(runtime, owner, key.key_id, context(runtime))
    assert await revoked_numbers(runtime) == {second, third}


async def test_of_two_processes_one_renews_the_number(
    runtime: Runtime, clock: StandingClock, owner: User
) -> None:
    """The loser reads the winner's: no token stands where nobody would look for it."""
    _, text = await make_key(runtime, owner)
    settings = make_settings(
        runtime.settings.database_url.reveal(), runtime.settings.keys_dir.parent
    )
    async with open_runtime(settings, clock=clock) as second:
        for _ in range(5):
            found = await asyncio.gather(
                *(number_of((runtime, second)[number % 2], text) for number in range(8))
            )
            assert len(set(found)) == 1
            clock.at += NUMBER_FOR_S


async def test_disabling_the_owner_ends_the_tokens_and_not_the_keys(
    runtime: Runtime, owner: User
) -> None:
    """In one transaction; an enabled owner's next token has a number of its own."""
    _, text = await make_key(runtime, owner)
    principal = await principal_of(runtime, text)
    number = await number_of(runtime, text)
    await disable_user(runtime, EMAIL)
    assert await revoked_numbers(runtime) == {number}
    with pytest.raises(UnavailableError):
        await status_number(runtime, principal, TEST_EPOCH)  # it was good a moment ago
    await enable_user(runtime, EMAIL)
    assert await number_of(runtime, text) not in (number, None)
    assert await revoked_numbers(runtime) == {number}


async def test_number_that_was_revoked_by_itself_is_replaced(runtime: Runtime, owner: User) -> None:
    """And the one before it is not forgotten: its tokens die with the key."""
    key, text = await make_key(runtime, owner)
    first = await number_of(runtime, text)
    async with runtime.store.write() as connection:
        await status.revoke_machine_token(connection, first, TEST_EPOCH)
    second = await number_of(runtime, text)
    assert second != first
    await revoke_api_key(runtime, owner, key.key_id, context(runtime))
    assert await revoked_numbers(runtime) == {first, second}


async def test_ended_key_gets_no_number(runtime: Runtime, owner: User) -> None:
    """I166: between the look at the key and the token lies no gap to slip through."""
    key, text = await make_key(runtime, owner)
    principal = await principal_of(runtime, text)
    await revoke_api_key(runtime, owner, key.key_id, context(runtime))
    with pytest.raises(UnavailableError):
        await status_number(runtime, principal, TEST_EPOCH)


async def test_restored_backup_ends_the_tokens_of_keys(runtime: Runtime, owner: User) -> None:
    """O: numbers below the floor are past; the next token stands above it."""
    _, text = await make_key(runtime, owner)
    before = await number_of(runtime, text)
    await mark_restored(runtime)
    await runtime.status.follow(at_once=True)
    after = await number_of(runtime, text)
    async with runtime.store.read() as connection:
        key_id = (await principal_of(runtime, text)).key_id
        numbers = await api_keys.read_numbers(connection, key_id)
    assert numbers is not None
    assert before < numbers.floor <= after
    ended, current = [
        runtime.status.find(runtime.status.machine_position(number).name)
        for number in (before, after)
    ]
    assert ended is not None
    assert ended.bits.compressed() == BitArray(is_full=True).compressed()
    assert current is not None
    assert current.bits.compressed() == BitArray().compressed()


async def test_blocks_outlive_the_tokens_of_keys(
    runtime: Runtime, clock: StandingClock, owner: User
) -> None:
    """A number taken on a block's last day, used on its own last day, revoked while the last token
    lives: `db prune` still knows of it, and forgets the key long after its end."""
    key, text = await make_key(runtime, owner)
    await runtime.status.machine_number(clock.at)  # reserves the block
    clock.at += 86400 - 1
    number = await number_of(runtime, text)
    clock.at += NUMBER_FOR_S - 1
    assert await number_of(runtime, text) == number
    clock.at += 86400 - 1  # a token of the longest life is about to expire
    await revoke_api_key(runtime, owner, key.key_id, context(runtime))
    pruned = await prune_database(runtime, None)
    assert (pruned.machine_blocks, pruned.api_keys) == (0, 0)
    assert await revoked_numbers(runtime) == {number}
    clock.at += FAMILY_MARGIN_S + 1
    assert (await prune_database(runtime, None)).api_keys == 1
    assert (await show_user(runtime, EMAIL)).user_id == owner.user_id
