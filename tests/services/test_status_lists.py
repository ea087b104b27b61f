"""Status list tokens: signed when there is something to say, on both engines."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.storage.test_families import start_login
from tests.support.databases import TEST_EPOCH
from tests.support.people import StandingClock
from tests.support.server import ISSUER, copy_keys, make_settings
from tests.support.status_lists import ReadList, read_list, revoke
from token_server.core.status_list import ListName
from token_server.errors import UnavailableError
from token_server.runtime import Runtime, open_runtime
from token_server.services.key_rotation import Asked, compromise_key
from token_server.services.status_lists import LIFETIME_TTLS, StatusLists

S0 = ListName("s", 0)
TTL_S = 10


@pytest.fixture
def lists(keyed_runtime: Runtime) -> StatusLists:
    return StatusLists(keyed_runtime)


@pytest.fixture
async def second(
    keyed_runtime: Runtime, standing_clock: StandingClock
) -> AsyncIterator[StatusLists]:
    """Another instance on the same database and keys."""
    async with open_runtime(keyed_runtime.settings, clock=standing_clock) as runtime:
        yield StatusLists(runtime)


def read(runtime: Runtime, body: bytes) -> ReadList:
    now = runtime.clock.now()
    return read_list(body, json.loads(runtime.keyring.jwks(now)), now)


async def fetch(lists: StatusLists, name: ListName = S0) -> bytes:
    signed = await lists.find(name)
    assert signed is not None
    return signed.body


async def test_list_token_says_exactly_this(keyed_runtime: Runtime, lists: StatusLists) -> None:
    """Header and claims to the letter (draft-ietf-oauth-status-list-21 §5.1, §9.2)."""
    login = await start_login(keyed_runtime.store)
    await revoke(keyed_runtime.store, login.family.family_id, TEST_EPOCH)
    found = read(keyed_runtime, await fetch(lists))
    kid = keyed_runtime.keyring.signer(TEST_EPOCH).kid
    assert found.header == {"alg": "RS256", "typ": "statuslist+jwt", "kid": kid}
    lst = found.claims["status_list"].pop("lst")
    assert "=" not in lst
    assert found.claims == {
        "iss": ISSUER,
        "sub": ISSUER + "/oauth2/status-lists/s0",
        "iat": TEST_EPOCH,
        "exp": TEST_EPOCH + 100,
        "ttl": TTL_S,
        "status_list": {"bits": 1, "aggregation_uri": ISSUER + "/oauth2/status-lists"},
        "revoked_kids": [],
    }
    assert len(found.statuses) == 131_072
    assert found.revoked == {keyed_runtime.status.session_position(login.family.seq).index}


async def test_list_is_signed_again_when_a_bit_is_set_and_at_half_its_ttl(
    keyed_runtime: Runtime, lists: StatusLists, standing_clock: StandingClock
) -> None:
    """Between that it is the same bytes, from memory."""
    login = await start_login(keyed_runtime.store)
    first = await fetch(lists)
    standing_clock.at += 2
    assert await fetch(lists) == first
    await revoke(keyed_runtime.store, login.family.family_id, standing_clock.at)
    standing_clock.at += 1
    second = read(keyed_runtime, await fetch(lists))
    assert (second.claims["iat"], len(second.revoked)) == (TEST_EPOCH + 3, 1)
    standing_clock.at += TTL_S // 2 - 1
    assert read(keyed_runtime, await fetch(lists)).claims["iat"] == TEST_EPOCH + 3
    standing_clock.at += 1
    third = read(keyed_runtime, await fetch(lists))
    assert third.claims["iat"] == standing_clock.at
    assert third.revoked == second.revoked


async def test_time_of_a_list_never_goes_back(
    keyed_runtime: Runtime, lists: StatusLists, standing_clock: StandingClock
) -> None:
    """A verifier takes an older list for an attack: `iat` stands still while a clock is back."""
    login = await start_login(keyed_runtime.store)
    first = read(keyed_runtime, await fetch(lists))
    await revoke(keyed_runtime.store, login.family.family_id, standing_clock.at)
    keyed_runtime.status._followed_at = float("-inf")
    standing_clock.at -= 5
    jwks = json.loads(keyed_runtime.keyring.jwks(standing_clock.at))
    again = read_list(await fetch(lists), jwks, TEST_EPOCH)
    assert again.claims["iat"] == first.claims["iat"]
    assert len(again.revoked) == 1


async def test_instances_tell_the_same_and_stay_close_in_time(
    keyed_runtime: Runtime,
    lists: StatusLists,
    second: StatusLists,
    standing_clock: StandingClock,
) -> None:
    """What one of them revokes, all say; who polls every `ttl`, whichever answers, goes forward."""
    logins = [await start_login(keyed_runtime.store) for _ in range(6)]
    seen = 0
    for step, login in enumerate(logins):
        await revoke(keyed_runtime.store, login.family.family_id, standing_clock.at)
        standing_clock.at += 1
        # Others poll in between, so that the two sign at different times.
        await fetch((lists, second)[step // 2 % 2])
        standing_clock.at += TTL_S - 1
        found = read(keyed_runtime, await fetch((second, lists)[step % 2]))
        assert len(found.revoked) == step + 1
        assert found.claims["iat"] >= seen
        seen = found.claims["iat"]


async def test_many_that_ask_at_once_get_one_signature(
    keyed_runtime: Runtime, lists: StatusLists, standing_clock: StandingClock
) -> None:
    """However many verifiers poll at the same instant, also when the keys must be asked first."""
    original = keyed_runtime.keys.sign_compact
    signed = 0

    async def counting(*arguments: object, **more: object) -> tuple[str, str]:
        nonlocal signed
        signed += 1
        await asyncio.sleep(0.01)
        return await original(*arguments, **more)  # type: ignore[arg-type]  # handed on

    keyed_runtime.keys.sign_compact = counting  # type: ignore[method-assign]  # counts, then signs
    bodies = await asyncio.gather(*(fetch(lists) for _ in range(30)))
    assert (len(set(bodies)), signed) == (1, 1)


async def test_compromised_key_is_named_at_once(
    keyed_runtime: Runtime, lists: StatusLists, standing_clock: StandingClock
) -> None:
    """A forger would leave `status` out: verifiers learn of the key from the list that they poll
    anyway, and the list is signed by another one."""
    await fetch(lists)
    kid = keyed_runtime.keyring.signer(TEST_EPOCH).kid
    await compromise_key(keyed_runtime, kid, Asked("compromise"))
    found = read(keyed_runtime, await fetch(lists))
    assert found.claims["revoked_kids"] == [kid]
    assert found.header["kid"] != kid


async def test_lists_outlive_the_database_until_they_expire(
    keyed_runtime: Runtime, lists: StatusLists, standing_clock: StandingClock
) -> None:
    """The same bytes, so that nothing old looks new; a list never asked for before says the same
    and lives no longer; then it is "not now"."""
    login = await start_login(keyed_runtime.store)
    await revoke(keyed_runtime.store, login.family.family_id, TEST_EPOCH)
    last = await fetch(lists)
    standing_clock.at += 30
    await keyed_runtime.store.close()
    assert await fetch(lists) == last
    assert await lists.uris() == [ISSUER + "/oauth2/status-lists/s0"]
    other = read(keyed_runtime, await fetch(lists, ListName("s", 1)))
    assert other.claims["exp"] == TEST_EPOCH + LIFETIME_TTLS * TTL_S
    with pytest.raises(UnavailableError):
        await lists.find(ListName("s", 2))  # another instance may have begun it meanwhile
    standing_clock.at += LIFETIME_TTLS * TTL_S - 31
    assert await fetch(lists) == last
    standing_clock.at += 1
    for ask in (lists.find(S0), lists.uris()):
        with pytest.raises(UnavailableError):
            await ask


async def test_lists_that_never_were_are_not_signed(lists: StatusLists) -> None:
    """Whatever number somebody makes up."""
    assert await lists.find(ListName("s", 2)) is None
    assert await lists.find(ListName("m", 1)) is None


async def test_restart_forgets_no_revocation(
    database_url: str, standing_clock: StandingClock, shared_keys: Path, tmp_path: Path
) -> None:
    """A new process reads all that was ever revoked before it signs its first list."""
    copy_keys(shared_keys, tmp_path)
    settings = make_settings(database_url, tmp_path)
    async with open_runtime(settings, clock=standing_clock) as runtime:
        logins = [await start_login(runtime.store) for _ in range(3)]
        await revoke(runtime.store, logins[1].family.family_id, TEST_EPOCH)
        before = read(runtime, await fetch(StatusLists(runtime))).revoked
    standing_clock.at += 86400
    async with open_runtime(settings, clock=standing_clock) as runtime:
        assert read(runtime, await fetch(StatusLists(runtime))).revoked == before
        assert before == {runtime.status.session_position(logins[1].family.seq).index}
