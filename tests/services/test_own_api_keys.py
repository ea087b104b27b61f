"""Making, listing and revoking API keys, on both engines (cases I164, I165, I167)."""

import asyncio

import pytest

from tests.support.api_keys import EMAIL, SCOPES, add_owner, events, is_good, make_key
from tests.support.databases import TEST_EPOCH
from tests.support.guessing import context
from tests.support.people import StandingClock
from tests.support.server import make_settings
from token_server.errors import (
    ApiKeyNotFoundError,
    InvalidFieldError,
    OperatorError,
    TokenRefusedError,
    TooManyApiKeysError,
)
from token_server.records import AuditEventType, User
from token_server.runtime import Runtime, open_runtime
from token_server.services.own_api_keys import (
    MAX_LIFETIME_S,
    MAX_LIVE_KEYS,
    NewApiKey,
    create_api_key,
    find_api_key,
    list_api_keys,
    list_api_keys_of,
    revoke_all_api_keys,
    revoke_api_key,
    revoke_api_keys_of,
)
from token_server.services.users import disable_user


@pytest.fixture
def runtime(keyed_runtime: Runtime) -> Runtime:
    return keyed_runtime


@pytest.fixture
async def owner(runtime: Runtime) -> User:
    return await add_owner(runtime)


async def test_creation_and_end_are_audited_by_id(runtime: Runtime, owner: User) -> None:
    """Who, which key, from where; never its secret or its name."""
    one, _ = await make_key(runtime, owner)
    two, text = await make_key(runtime, owner)
    await revoke_api_key(runtime, owner, one.key_id, context(runtime))
    assert await revoke_all_api_keys(runtime, owner, context(runtime)) == 1
    found = await events(runtime, AuditEventType.API_KEY_CREATED, AuditEventType.API_KEY_REVOKED)
    actor = f"user:{owner.user_id}"
    assert [(event.event, event.subject, event.actor) for event in found] == [
        (AuditEventType.API_KEY_CREATED, one.key_id, actor),
        (AuditEventType.API_KEY_CREATED, two.key_id, actor),
        (AuditEventType.API_KEY_REVOKED, one.key_id, actor),
        (AuditEventType.API_KEY_REVOKED, two.key_id, actor),
    ]
    assert text not in repr(found)
    assert "Nightly" not in repr(found)


@pytest.mark.parametrize(
    ("new", "field"),
    [
        (NewApiKey("", (), None), "name"),
        (NewApiKey("a\nb", (), None), "name"),
        (NewApiKey("x" * 101, (), None), "name"),
        (NewApiKey("x", ("orders:delete",), None), "scopes"),
        (NewApiKey("x", ("orders:read", "ORDERS:READ"), None), "scopes"),
        (NewApiKey("x", ("",), None), "scopes"),
        (NewApiKey("x", (), TEST_EPOCH), "expires_at"),
        (NewApiKey("x", (), -1), "expires_at"),
        (NewApiKey("x", (), TEST_EPOCH + MAX_LIFETIME_S + 1), "expires_at"),
    ],
)
async def test_bad_wish_is_refused_by_its_field(
    runtime: Runtime, owner: User, new: NewApiKey, field: str
) -> None:
    """I165: no scope beyond those of the account client, and no end in the past."""
    with pytest.raises(InvalidFieldError) as caught:
        await create_api_key(runtime, owner, new, context(runtime))
    assert caught.value.field == field
    assert (await list_api_keys(runtime, owner, TEST_EPOCH)).keys == []


async def test_list_says_what_a_new_key_may_be_given(runtime: Runtime, owner: User) -> None:
    """Doubles in a wish are one; the order is the owner's."""
    key, _ = await make_key(runtime, owner, ("orders:write", "orders:read", "orders:write"))
    own = await list_api_keys(runtime, owner, TEST_EPOCH)
    assert own.available_scope == SCOPES
    assert [each.scope for each in own.keys] == [("orders:write", "orders:read")]
    assert await find_api_key(runtime, owner, key.key_id, TEST_EPOCH) == own.keys[0]


async def test_keys_of_others_do_not_exist(runtime: Runtime, owner: User) -> None:
    """I164: neither shown nor revoked, with one answer for unknown, ended and malformed ids."""
    other = await add_owner(runtime, "eve@example.org")
    key, text = await make_key(runtime, owner)
    ended, _ = await make_key(runtime, other, expires_at=TEST_EPOCH + 1)
    for user, key_id in (
        (other, key.key_id),
        (other, "key_" + "A" * 16),
        (other, "../" + key.key_id),
        (other, ended.key_id),
    ):
        with pytest.raises(ApiKeyNotFoundError):
            await find_api_key(runtime, user, key_id, TEST_EPOCH + 1)
    for key_id in (key.key_id, "key_" + "A" * 16, "junk"):
        with pytest.raises(ApiKeyNotFoundError):
            await revoke_api_key(runtime, other, key_id, context(runtime))
    assert await is_good(runtime, text)


async def test_twenty_live_keys_are_enough(runtime: Runtime, owner: User) -> None:
    """I167: of 1,000 wishes at once at two processes exactly 20 are granted."""
    settings = make_settings(
        runtime.settings.database_url.reveal(), runtime.settings.keys_dir.parent
    )
    turns = asyncio.Semaphore(32)  # more would wait for a connection, and be told to come back
    async with open_runtime(settings, clock=StandingClock()) as second:

        async def wish(number: int) -> None:
            async with turns:
                await make_key((runtime, second)[number % 2], owner)

        answers = await asyncio.gather(*map(wish, range(1000)), return_exceptions=True)
    refused = [answer for answer in answers if isinstance(answer, BaseException)]
    assert len(answers) - len(refused) == MAX_LIVE_KEYS
    assert all(isinstance(answer, TooManyApiKeysError) for answer in refused)
    assert len((await list_api_keys(runtime, owner, TEST_EPOCH)).keys) == MAX_LIVE_KEYS
    await revoke_all_api_keys(runtime, owner, context(runtime))
    await make_key(runtime, owner)


async def test_disabled_owner_makes_no_key(runtime: Runtime, owner: User) -> None:
    """Also when the disabling came while the wish was on its way."""
    await disable_user(runtime, EMAIL)
    with pytest.raises(TokenRefusedError):
        await make_key(runtime, owner)


async def test_operator_lists_and_revokes(runtime: Runtime, owner: User) -> None:
    """By e-mail or id; what is not there is said with exit code 3."""
    one, one_text = await make_key(runtime, owner)
    two, two_text = await make_key(runtime, owner)
    assert {key.key_id for key in await list_api_keys_of(runtime, EMAIL)} == {
        one.key_id,
        two.key_id,
    }
    assert await revoke_api_keys_of(runtime, EMAIL, one.key_id) == [one.key_id]
    assert await revoke_api_keys_of(runtime, owner.user_id) == [two.key_id]
    for arguments in ((EMAIL, one.key_id), (EMAIL, "junk"), ("nobody@example.org",)):
        with pytest.raises(OperatorError) as caught:
            await revoke_api_keys_of(runtime, *arguments)
        assert caught.value.exit_code == 3
    assert [await is_good(runtime, text) for text in (one_text, two_text)] == [False, False]
    ended = await events(runtime, AuditEventType.API_KEY_REVOKED)
    assert [(event.actor, event.subject) for event in ended] == [
        ("operator", one.key_id),
        ("operator", two.key_id),
    ]
