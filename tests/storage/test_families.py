"""Families on both engines: one winner for each generation, and no life after a revocation."""

import dataclasses
from dataclasses import dataclass

import pytest

from tests.support.databases import TEST_EPOCH as NOW
from tests.support.records import log_in, new_client, new_family, new_user
from token_server.records import Client, Family, User
from token_server.storage import clients, families, users
from token_server.storage.batch import RotationEntry
from token_server.storage.engine import Store, open_store
from token_server.storage.errors import StorageFailedError
from token_server.storage.family_sweeps import Sweep, begin_sweep
from token_server.storage.rotation import rotate_families


@dataclass(frozen=True)
class Login:
    client: Client
    user: User
    family: Family

    def entry(self, **changes: object) -> RotationEntry:
        entry = RotationEntry(
            self.family.family_id, 0, self.client.client_id, now=NOW + 10, idle_ttl_s=3600
        )
        return dataclasses.replace(entry, **changes)  # type: ignore[arg-type]  # a test's changes


async def start_login(store: Store, **changes: object) -> Login:
    client, user = new_client(), new_user()
    async with store.write() as conn:
        await clients.insert_client(conn, client)
        await users.insert_user(conn, user)
        family = await log_in(conn, new_family(client, user, **changes))
    assert family is not None
    return Login(client, user, family)


async def rotate(store: Store, *entries: RotationEntry) -> list[Family]:
    return await rotate_families(store, entries)


async def stored(store: Store, family_id: bytes) -> Family | None:
    async with store.read() as conn:
        return await families.find_family(conn, family_id)


async def test_new_family_is_read_back_as_inserted(store: Store, database_url: str) -> None:
    """All fields survive, generation 0 is current, and a fresh connection sees them."""
    client, user = new_client(), new_user()
    new = new_family(
        client, user, label="phone", scope=("a", "b:c"), audience=("urn:x", "https://y")
    )
    async with store.write() as conn:
        await clients.insert_client(conn, client)
        await users.insert_user(conn, user)
        inserted = await log_in(conn, new)
    assert inserted is not None
    for field in dataclasses.fields(new):
        assert getattr(inserted, field.name) == getattr(new, field.name), field.name
    assert (inserted.generation, inserted.rotated_at, inserted.revoked_at) == (0, None, None)
    assert (inserted.replayed_generation, inserted.shadow_count) == (None, 0)
    second = await open_store(database_url, now=lambda: NOW)
    try:
        assert await stored(second, new.family_id) == inserted
    finally:
        await second.close()


async def test_rotation_steps_the_current_generation_once(store: Store) -> None:
    """RFC 9700 4.14.2: the presented token is used up and its successor is current."""
    login = await start_login(store)
    (rotated,) = await rotate(store, login.entry())
    assert rotated == dataclasses.replace(
        login.family, generation=1, rotated_at=NOW + 10, idle_expires_at=NOW + 10 + 3600
    )
    assert await stored(store, login.family.family_id) == rotated
    assert await rotate(store, login.entry()) == []
    (again,) = await rotate(store, login.entry(generation=1, now=NOW + 20))
    assert again.generation == 2


@pytest.mark.parametrize(
    ("changes", "case"),
    [
        ({"generation": 1}, "a generation from the future"),
        ({"client_id": "another-client"}, "another client"),
        ({"now": NOW + 100}, "idle expiry reached"),
        ({"now": NOW + 101}, "idle expiry passed"),
        ({"family_id": b"\0" * 16}, "an unknown family"),
    ],
)
async def test_rotation_refuses_and_changes_nothing(
    store: Store, changes: dict[str, object], case: str
) -> None:
    """RFC 6749 6: not current, not the client's or expired steps no generation."""
    login = await start_login(store, idle_expires_at=NOW + 100, absolute_expires_at=NOW + 200)
    assert await rotate(store, login.entry(**changes)) == [], case
    assert await stored(store, login.family.family_id) == login.family


async def test_rotation_ends_at_the_absolute_expiry(store: Store) -> None:
    """The idle expiry never moves past the absolute one, and that one is the end."""
    login = await start_login(store, idle_expires_at=NOW + 150, absolute_expires_at=NOW + 200)
    (rotated,) = await rotate(store, login.entry(now=NOW + 149, idle_ttl_s=1000))
    assert rotated.idle_expires_at == NOW + 200
    assert await rotate(store, login.entry(generation=1, now=NOW + 200)) == []


async def test_revoked_family_never_rotates(store: Store) -> None:
    """RFC 7009 2.1: a revoked token is dead, and the first reason stays."""
    login = await start_login(store)
    async with store.write() as conn:
        assert await families.revoke_family(conn, login.family.family_id, "reuse", NOW + 1)
        assert not await families.revoke_family(conn, login.family.family_id, "logout", NOW + 2)
    assert await rotate(store, login.entry()) == []
    family = await stored(store, login.family.family_id)
    assert family is not None
    assert (family.revoked_at, family.revoked_reason) == (NOW + 1, "reuse")


async def test_one_statement_rotates_many_families_each_by_its_own_entry(store: Store) -> None:
    """Entries keep their own generation, client, instant and lifetime in a shared batch."""
    logins = [await start_login(store) for _ in range(5)]
    await rotate(store, logins[0].entry())
    entries = [
        logins[0].entry(generation=1, now=NOW + 30, idle_ttl_s=7),
        logins[1].entry(generation=1),
        logins[2].entry(now=NOW + 31, idle_ttl_s=8),
        logins[3].entry(client_id=logins[4].client.client_id),
        logins[4].entry(),
    ]
    rotated = {family.family_id: family for family in await rotate(store, *entries)}
    assert set(rotated) == {logins[i].family.family_id for i in (0, 2, 4)}
    first, third = (rotated[logins[i].family.family_id] for i in (0, 2))
    assert (first.generation, first.rotated_at, first.idle_expires_at) == (2, NOW + 30, NOW + 37)
    assert (third.generation, third.rotated_at, third.idle_expires_at) == (1, NOW + 31, NOW + 39)


async def test_family_needs_an_enabled_client(store: Store) -> None:
    """A login of a client that is disabled or gone leaves no family."""
    login = await start_login(store)
    async with store.write() as conn:
        await clients.set_client_enabled(conn, login.client.client_id, False, NOW)
        assert await log_in(conn, new_family(login.client, login.user)) is None
        await clients.set_client_enabled(conn, login.client.client_id, True, NOW)
        assert await log_in(conn, new_family(login.client, login.user)) is not None
        await clients.delete_client(conn, login.client.client_id)
        assert await log_in(conn, new_family(login.client, login.user)) is None


async def test_seq_grows_and_is_not_given_again_after_a_prune(store: Store) -> None:
    """`seq` is the position in the status list: a deleted one must not come back."""
    first = await start_login(store)
    second = await start_login(store)
    assert second.family.seq > first.family.seq
    async with store.write() as conn:
        assert await families.prune_families(conn, second.family.absolute_expires_at + 1, 10) == 2
    third = await start_login(store)
    assert third.family.seq > second.family.seq


async def test_users_families_are_revoked_but_the_excepted_one(store: Store) -> None:
    """A password change ends the user's other sessions, and nobody else's."""
    mine, other = await start_login(store), await start_login(store)
    news = [new_family(mine.client, mine.user) for _ in range(3)]
    async with store.write() as conn:
        for new in news:
            await log_in(conn, new)
        await families.revoke_family(conn, news[2].family_id, "logout", NOW)
    async with store.write() as conn:
        sids = await families.revoke_families_of_user(
            conn, mine.user.user_id, "password_changed", NOW + 1, except_sid=news[0].sid
        )
        assert sorted(sids) == sorted([mine.family.sid, news[1].sid])
        again = await families.revoke_families_of_user(
            conn, mine.user.user_id, "user_disabled", NOW + 2
        )
        assert again == [news[0].sid]
    reasons = {}
    for family_id in (mine.family.family_id, *(new.family_id for new in news)):
        family = await stored(store, family_id)
        assert family is not None
        reasons[family.sid] = (family.revoked_at, family.revoked_reason)
    assert reasons == {
        mine.family.sid: (NOW + 1, "password_changed"),
        news[0].sid: (NOW + 2, "user_disabled"),
        news[1].sid: (NOW + 1, "password_changed"),
        news[2].sid: (NOW, "logout"),
    }
    assert await stored(store, other.family.family_id) == other.family


async def test_clients_families_are_revoked(store: Store) -> None:
    """Disabling a client ends its sessions, and no other client's."""
    mine, other = await start_login(store), await start_login(store)
    async with store.write() as conn:
        sweep = Sweep("client", mine.client.client_id, "client_disabled", NOW)
        assert (await begin_sweep(conn, sweep, 100)).ended == 1
        assert (await begin_sweep(conn, Sweep("client", "nobody", "x", NOW), 100)).ended == 0
    ended = await stored(store, mine.family.family_id)
    assert ended is not None
    assert ended.revoked_reason == "client_disabled"
    assert await stored(store, other.family.family_id) == other.family


async def test_only_live_sessions_are_listed_newest_first(store: Store) -> None:
    """The session list shows what can still refresh now, of this user only, within its bound."""
    login = await start_login(store)
    await start_login(store)
    idle, revoked, live = (
        new_family(login.client, login.user, idle_expires_at=NOW + end) for end in (5, 90, 91)
    )
    async with store.write() as conn:
        for new in (idle, revoked, live):
            await log_in(conn, new)
        await families.revoke_family(conn, revoked.family_id, "logout", NOW)
    async with store.read() as conn:
        listed = await families.list_families(conn, user_id=login.user.user_id, now=NOW + 5)
        assert [family.sid for family in listed] == [live.sid, login.family.sid]
        one = await families.list_families(conn, user_id=login.user.user_id, now=NOW, limit=1)
        assert [family.sid for family in one] == [live.sid]


async def test_replays_of_consecutive_generations_are_counted(store: Store) -> None:
    """Shadowing: the count grows over consecutive generations and starts again after a gap."""
    login = await start_login(store)
    counts = []
    for generation, is_replayed in enumerate([True, True, True, False, True]):
        await rotate(store, login.entry(generation=generation))
        if is_replayed:
            async with store.write() as conn:
                family_id = login.family.family_id
                noted = await families.note_replay(conn, family_id, generation)
                assert noted is not None
                assert noted.replayed_generation == generation
                counts.append(noted.shadow_count)
                assert await families.note_replay(conn, family_id, generation) is None
                assert await families.note_replay(conn, family_id, generation - 1) is None
    assert counts == [0, 1, 2, 0]


async def test_replay_of_the_current_generation_is_not_noted(store: Store) -> None:
    """A generation that has no successor yet cannot have been replayed."""
    login = await start_login(store)
    async with store.write() as conn:
        assert await families.note_replay(conn, login.family.family_id, 0) is None


async def test_prune_deletes_only_what_expired_before_and_in_bounds(store: Store) -> None:
    """A row stays until its absolute expiry is before the caller's instant."""
    logins = [
        await start_login(store, idle_expires_at=NOW + 1, absolute_expires_at=NOW + i)
        for i in (10, 20, 30)
    ]
    async with store.write() as conn:
        assert await families.prune_families(conn, NOW + 30, 1) == 1
        assert await families.prune_families(conn, NOW + 30, 10) == 1
        assert await families.prune_families(conn, NOW + 30, 10) == 0
    assert await stored(store, logins[1].family.family_id) is None
    assert await stored(store, logins[2].family.family_id) == logins[2].family


@pytest.mark.parametrize(
    "damage",
    [
        {"family_id": b"short"},
        {"idle_expires_at": NOW + 31 * 86400},
    ],
)
async def test_impossible_families_are_refused_by_the_table(
    store: Store, damage: dict[str, object]
) -> None:
    """CHECK constraints stop what no code path may produce, and the error shows no values."""
    login = await start_login(store)
    with pytest.raises(StorageFailedError) as caught:
        async with store.write() as conn:
            await log_in(conn, new_family(login.client, login.user, **damage))
    assert login.user.user_id not in str(caught.value)
    assert caught.value.__cause__ is None


async def test_scope_that_could_not_be_read_back_is_refused(store: Store) -> None:
    """Lists are stored with spaces between: a member with white space never gets in."""
    login = await start_login(store)
    for scope in (("a b",), ("",), ("a\t",)):
        with pytest.raises(ValueError, match="white space"):
            async with store.write() as conn:
                await log_in(conn, new_family(login.client, login.user, scope=scope))
