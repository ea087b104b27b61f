"""What status lists are made of, on both engines: order, counting, pruning."""

from functools import partial

from tests.storage.test_families import start_login
from tests.support.databases import TEST_EPOCH as NOW
from tests.support.status_lists import revoke
from token_server.core.status_list import BLOCK_SIZE
from token_server.records import AuditEvent, AuditEventType
from token_server.storage import revocations, status
from token_server.storage.engine import Store
from token_server.storage.revocations import DeniedToken
from token_server.storage.status import Numbers, Revoked
from token_server.storage.token_facts import TokenKey, read_token_facts

START = Revoked(0, 0)


async def test_revoked_sessions_come_in_order_and_in_pages(store: Store) -> None:
    """By instant, then by number, whatever the order of the commits; each once."""
    logins = [await start_login(store) for _ in range(5)]
    at = [NOW + 2, NOW, NOW + 1, NOW, NOW + 2]
    for login, revoked_at in zip(logins, at, strict=True):
        await revoke(store, login.family.family_id, revoked_at)
    found: list[Revoked] = []
    async with store.read() as conn:
        while page := await status.revoked_after(conn, "s", found[-1] if found else START, 2):
            found += page
        counted = await status.revoked_since(conn, "s", NOW + 1)
    expected = sorted(Revoked(a, x.family.seq) for a, x in zip(at, logins, strict=True))
    assert found == expected
    later = [number for revoked_at, number in expected if revoked_at > NOW]
    assert counted == (3, sum(later))


async def test_machine_token_is_revoked_once(store: Store) -> None:
    """The first instant stays, however often it is called back."""
    async with store.write() as conn:
        assert await status.revoke_machine_token(conn, 5000, NOW)
        assert not await status.revoke_machine_token(conn, 5000, NOW + 9)
    async with store.read() as conn:
        assert await status.revoked_after(conn, "m", START, 9) == [Revoked(NOW, 5000)]
        assert await status.revoked_since(conn, "m", NOW) == (1, 5000)
        assert await status.revoked_since(conn, "m", NOW + 1) == (0, 0)


async def test_old_blocks_go_with_what_was_revoked_in_them(store: Store) -> None:
    """In bounds; the newest stays, and no block that is young loses a revocation."""
    async with store.write() as conn:
        blocks = [await status.reserve_block(conn, NOW + age) for age in (0, 0, 0, 100, 0)]
        for block in blocks:
            await status.revoke_machine_token(conn, block * BLOCK_SIZE + 7, NOW)
    async with store.write() as conn:
        assert await status.prune_blocks(conn, NOW + 50, 2) == 2
        assert await status.prune_blocks(conn, NOW + 50, 2) == 1
        # The last one is as old as the first ones, but behind one that is young.
        assert await status.prune_blocks(conn, NOW + 50, 2) == 0
        assert await status.block_numbers(conn) == Numbers(blocks[3], blocks[4])
        left = await status.revoked_after(conn, "m", START, 9)
        assert [number // BLOCK_SIZE for _, number in left] == blocks[3:]
        assert await status.prune_blocks(conn, NOW + 500, 9) == 1
        assert await status.block_numbers(conn) == Numbers(blocks[4], blocks[4])


async def test_denial_is_forgotten_when_its_token_has_expired(store: Store) -> None:
    """Denied tokens stay as long as they could be shown."""
    event = AuditEvent(AuditEventType.TOKEN_REVOKED, at=NOW, actor="operator")
    denied = [DeniedToken("a", NOW + 10, event), DeniedToken("b", NOW + 20, event)]
    assert await store.write_steps(partial(revocations.revoke, denied)) == [True, True]
    assert await store.write_steps(partial(revocations.revoke, denied[:1])) == [False]
    async with store.write() as conn:
        assert await status.prune_denied(conn, NOW + 15, 9) == 1
    read = [await read_token_facts(store, TokenKey("c", "u", jti, None), None) for jti in "ab"]
    assert [facts.is_denied for facts, _ in read] == [False, True]
