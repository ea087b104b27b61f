"""Single sessions and tokens end once, each with one audit row, on both engines."""

import asyncio
from functools import partial

from tests.storage.test_families import rotate, start_login, stored
from tests.support.databases import TEST_EPOCH as NOW
from token_server.records import AuditEvent, AuditEventType
from token_server.storage import audit, revocations
from token_server.storage.engine import Store
from token_server.storage.revocations import (
    DeniedToken,
    EndedSession,
    Revocation,
    RevokedNumber,
    revocation_batcher,
)
from token_server.storage.status import Revoked, revoked_after
from token_server.storage.token_facts import TokenKey, read_token_facts


def event(subject: str, at: int = NOW + 1) -> AuditEvent:
    return AuditEvent(
        AuditEventType.TOKEN_REVOKED, at=at, actor="operator", subject=subject, reason="x"
    )


async def subjects(store: Store) -> list[str]:
    """Of the revocations that have an audit row."""
    async with store.read() as conn:
        found = await audit.list_events(conn, 0, 100)
    rows = [row.event for row in found if row.event.event is AuditEventType.TOKEN_REVOKED]
    return sorted(str(row.subject) for row in rows)


async def test_kinds_share_a_transaction_and_each_ends_once(store: Store) -> None:
    """RFC 7009 2.1; repeated, it changes nothing and leaves no second row."""
    login = await start_login(store)
    entries: list[Revocation] = [
        DeniedToken("jti", NOW + 60, event("jti")),
        EndedSession(login.family.sid, login.user.user_id, event("session")),
        RevokedNumber(5000, event("number")),
        EndedSession("ses_unknown", login.user.user_id, event("nothing")),
    ]

    assert await store.write_steps(partial(revocations.revoke, entries)) == [True] * 3 + [False]
    assert await store.write_steps(partial(revocations.revoke, entries)) == [False] * 4

    assert await subjects(store) == ["jti", "number", "session"]
    family = await stored(store, login.family.family_id)
    assert family is not None
    assert (family.revoked_at, family.revoked_reason) == (NOW + 1, "x")
    assert await rotate(store, login.entry()) == []
    async with store.read() as conn:
        assert await revoked_after(conn, "m", Revoked(0, 0), 9) == [Revoked(NOW + 1, 5000)]
    facts, _ = await read_token_facts(store, TokenKey("c", "u", "jti", None), None)
    assert facts.is_denied


async def test_session_of_another_user_stays(store: Store) -> None:
    """The id alone ends nothing."""
    login, other = await start_login(store), await start_login(store)
    entry = EndedSession(login.family.sid, other.user.user_id, event("session"))

    assert await store.write_steps(partial(revocations.revoke, [entry])) == [False]

    assert await stored(store, login.family.family_id) == login.family
    assert await subjects(store) == []


async def test_one_of_many_at_once_ends_a_session(store: Store) -> None:
    """However many ask, one of them did it, and one row says so."""
    login = await start_login(store)
    batcher = revocation_batcher(store)
    asked = [
        batcher.submit(EndedSession(login.family.sid, login.user.user_id, event(f"{number}")))
        for number in range(20)
    ]
    ended = await asyncio.gather(*asked)
    await batcher.close()

    assert sorted(ended) == [False] * 19 + [True]
    assert len(await subjects(store)) == 1


async def test_refused_revocation_fails_only_itself(store: Store) -> None:
    """A row that the database refuses takes no other out of the batch, and leaves no audit row."""
    login = await start_login(store)
    batcher = revocation_batcher(store)
    too_large = 2**63 if store.dialect == "postgresql" else None
    bad = RevokedNumber(too_large, event("bad"))  # type: ignore[arg-type]  # what no caller sends
    good = EndedSession(login.family.sid, login.user.user_id, event("good"))

    failed, ended = await asyncio.gather(
        batcher.submit(bad), batcher.submit(good), return_exceptions=True
    )
    await batcher.close()

    assert isinstance(failed, Exception)
    assert ended is True
    assert await subjects(store) == ["good"]
