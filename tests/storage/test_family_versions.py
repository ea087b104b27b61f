"""Sessions by the master key under which they were begun: which live, and ending all the others."""

import pytest

from tests.storage.test_families import Login, start_login
from tests.support.databases import TEST_EPOCH as NOW
from token_server.records import Family
from token_server.storage import families
from token_server.storage.engine import Store
from token_server.storage.family_versions import (
    Sweep,
    count_live_families,
    needed_until,
    revoke_families,
)


async def found(store: Store, login: Login) -> Family:
    async with store.read() as conn:
        family = await families.find_family(conn, login.family.family_id)
    assert family is not None
    return family


@pytest.mark.parametrize("limit", [1, 2, 10])
async def test_only_families_of_other_versions_are_ended_each_once(
    store: Store, limit: int
) -> None:
    """In batches by `seq`; what was revoked before keeps its reason."""
    old = [await start_login(store, mac_version=version) for version in (1, 2, 1)]
    new = await start_login(store, mac_version=3)
    async with store.write() as conn:
        await families.revoke_family(conn, old[1].family.family_id, "logout", NOW)
    sweep, ended, after = Sweep(3, "keys_compromised", NOW + 5), [], 0
    while True:
        async with store.write() as conn:
            batch = await revoke_families(conn, sweep, after, limit)
        assert len(batch) <= limit
        ended += batch
        if len(batch) < limit:
            break
        after = max(batch)
    assert sorted(ended) == [old[0].family.seq, old[2].family.seq]
    assert [(await found(store, login)).revoked_reason for login in old] == [
        "keys_compromised",
        "logout",
        "keys_compromised",
    ]
    assert (await found(store, old[0])).revoked_at == NOW + 5
    assert (await found(store, new)).revoked_at is None


async def test_old_version_is_needed_until_the_last_live_session_ends(store: Store) -> None:
    """Revoked, idle and expired sessions need nothing; those of the version itself do not count."""
    ends = {"idle_expires_at": NOW + 100}
    await start_login(store, mac_version=1, absolute_expires_at=NOW + 500, **ends)
    latest = await start_login(store, mac_version=1, absolute_expires_at=NOW + 900, **ends)
    await start_login(store, mac_version=2, absolute_expires_at=NOW + 9999, **ends)
    async with store.read() as conn:
        assert await needed_until(conn, 2, NOW) == NOW + 900
        assert await needed_until(conn, 1, NOW) == NOW + 9999
        assert await needed_until(conn, 2, NOW + 100) is None  # all idle for too long
        assert await count_live_families(conn, NOW) == 3
        assert await count_live_families(conn, NOW + 100) == 0
    async with store.write() as conn:
        await families.revoke_family(conn, latest.family.family_id, "logout", NOW)
    async with store.read() as conn:
        assert await needed_until(conn, 2, NOW) == NOW + 500
        assert await count_live_families(conn, NOW) == 2
