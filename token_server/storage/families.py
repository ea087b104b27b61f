"""Refresh-token families: one row per login, changed only by conditional writes (refresh.md).

What spends a refresh token is in rotation.py. Revoking and rotating meet on the row: whichever
commits first decides. Reads decide nothing here. RFC 6749 §6, RFC 9700 §4.14.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import (
    ColumnElement,
    CursorResult,
    bindparam,
    case,
    delete,
    literal_column,
    or_,
    select,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from token_server.records import Family
from token_server.storage.engine import Store
from token_server.storage.query import Query
from token_server.storage.schema import families, split_words

_C = families.c
COLUMN_NAMES = (
    "seq",
    "family_id",
    "sid",
    "client_id",
    "user_id",
    "scope",
    "audience",
    "generation",
    "mac_version",
    "auth_time",
    "created_at",
    "rotated_at",
    "idle_expires_at",
    "absolute_expires_at",
    "revoked_at",
    "revoked_reason",
    "replayed_generation",
    "shadow_count",
    "label",
    "ip_address",
    "user_agent",
)
# Read with the family, so that a refreshed token says what the user may do today. The cast is for
# SQLite, which knows no type in RETURNING and would scan the table without it.
ROLES = "coalesce((SELECT roles FROM users WHERE user_id = CAST({f}.user_id AS TEXT)), '')"
COLUMNS = (
    *(_C[name] for name in COLUMN_NAMES),
    literal_column(ROLES.format(f="families")).label("roles"),
)

_WORDS = (COLUMN_NAMES.index("scope"), COLUMN_NAMES.index("audience"), -1)  # -1: the roles
_IS_FAMILY = _C.family_id == bindparam("for_family_id")
_IS_LIVE = _C.revoked_at.is_(None)
_FIND = select(*COLUMNS).where(_C.family_id == bindparam("family_id"))
BY_ID = Query(_FIND)  # a row for `family_of`
_FIND_BY_SID = select(*COLUMNS).where(_C.sid == bindparam("sid"))
_LIST = (
    select(*COLUMNS)
    .where(
        _C.user_id == bindparam("user_id"),
        _IS_LIVE,
        _C.idle_expires_at > bindparam("now"),
        _C.absolute_expires_at > bindparam("now"),
    )
    .order_by(_C.seq.desc())
    .limit(bindparam("limit"))
)


@dataclass(frozen=True, slots=True)
class NewFamily:
    """What a login knows of its family; the database gives `seq`, and generation 0 is current."""

    family_id: bytes = field(repr=False)
    sid: str
    client_id: str
    user_id: str
    scope: tuple[str, ...]
    audience: tuple[str, ...]
    mac_version: int
    auth_time: int
    created_at: int
    idle_expires_at: int
    absolute_expires_at: int
    label: str | None
    ip_address: str | None
    user_agent: str | None


@dataclass(frozen=True, slots=True)
class RenewedFamily:
    """What a session goes on with after its user's password was changed in it."""

    family_id: bytes = field(repr=False)
    mac_version: int


_REVOKE = (
    update(families)
    .where(_IS_FAMILY, _IS_LIVE)
    .values(revoked_at=bindparam("now"), revoked_reason=bindparam("reason"))
)
_RENEW = (
    update(families)
    .where(
        _C.sid == bindparam("for_sid"),
        _IS_LIVE,
        _C.idle_expires_at > bindparam("now"),
        _C.absolute_expires_at > bindparam("now"),
    )
    .values(
        family_id=bindparam("new_family_id"),
        mac_version=bindparam("new_mac_version"),
        generation=0,
        rotated_at=None,
        replayed_generation=None,
        shadow_count=0,
        # Never the one before: by it the guard tells tokens from before the renewal.
        auth_time=case(
            (_C.auth_time >= bindparam("now"), _C.auth_time + 1), else_=bindparam("now")
        ),
    )
    .returning(*COLUMNS)
)
_OF_USER = _C.user_id == bindparam("owner")
_NOTE_REPLAY = (
    update(families)
    .where(
        _IS_FAMILY,
        _IS_LIVE,
        _C.generation > bindparam("presented"),
        or_(_C.replayed_generation.is_(None), _C.replayed_generation < bindparam("presented")),
    )
    .values(
        replayed_generation=bindparam("presented", type_=_C.generation.type),
        shadow_count=case(
            (_C.replayed_generation == bindparam("presented") - 1, _C.shadow_count + 1), else_=0
        ),
    )
    .returning(*COLUMNS)
)
_PRUNE = delete(families).where(
    _C.seq.in_(
        select(_C.seq)
        .where(_C.absolute_expires_at < bindparam("before"))
        .order_by(_C.absolute_expires_at)
        .limit(bindparam("limit"))
    )
)


async def find_family(conn: AsyncConnection, family_id: bytes) -> Family | None:
    return _only_family(await conn.execute(_FIND, {"family_id": family_id}))


async def look_up(store: Store, family_id: bytes) -> Family | None:
    """As `find_family`, for hot paths."""
    ((*found,),) = await store.read_alone((BY_ID, {"family_id": family_id}))
    return family_of(found[0]) if found else None


async def find_session(conn: AsyncConnection, sid: str) -> Family | None:
    """Whatever its state: the caller decides whether it is live."""
    return _only_family(await conn.execute(_FIND_BY_SID, {"sid": sid}))


async def list_families(
    conn: AsyncConnection, *, user_id: str, now: int, limit: int = 100
) -> list[Family]:
    """The user's live sessions, the newest login first."""
    rows = await conn.execute(_LIST, {"user_id": user_id, "now": now, "limit": limit})
    return [family_of(row) for row in rows]


async def revoke_family(conn: AsyncConnection, family_id: bytes, reason: str, now: int) -> bool:
    """True when this call revoked it; False when it was revoked before or does not exist."""
    values = {"for_family_id": family_id, "reason": reason, "now": now}
    return (await conn.execute(_REVOKE, values)).rowcount == 1


async def revoke_families_of_user(
    conn: AsyncConnection, user_id: str, reason: str, now: int, except_sid: str | None = None
) -> list[str]:
    """The sids that this call revoked. After the statement that ends logins (users.py)."""
    # "" is no session's id: without an exception nothing is excepted.
    values = {"owner": user_id, "except_sid": except_sid or "", "reason": reason, "now": now}
    return await _revoke_where(conn, _OF_USER, values)


async def renew_family(
    conn: AsyncConnection, sid: str, new: RenewedFamily, now: int
) -> Family | None:
    """The same session begins again: under another family id nothing handed out before can be
    spent or replayed, and `auth_time` is now. None when the session is not live (any more)."""
    values = {
        "for_sid": sid,
        "now": now,
        "new_family_id": new.family_id,
        "new_mac_version": new.mac_version,
    }
    return _only_family(await conn.execute(_RENEW, values))


async def note_replay(conn: AsyncConnection, family_id: bytes, generation: int) -> Family | None:
    """Notes the first replay of a generation; None when it (or a later one) was noted before.

    `shadow_count` grows when the generation before it was replayed as well, else starts again.
    """
    values = {"for_family_id": family_id, "presented": generation}
    return _only_family(await conn.execute(_NOTE_REPLAY, values))


async def prune_families(conn: AsyncConnection, before: int, limit: int) -> int:
    """Deletes at most `limit` families whose absolute expiry was before the instant `before`,
    which the caller puts far enough back for their access tokens and status; returns how many."""
    return (await conn.execute(_PRUNE, {"before": before, "limit": limit})).rowcount


async def _revoke_where(
    conn: AsyncConnection,
    is_owned: ColumnElement[bool],
    values: Mapping[str, object],
) -> list[str]:
    # Locked in the order of `seq` first, as rotations are: the two cannot deadlock. The excepted
    # one as well, since the caller may be about to renew it.
    lock = select(_C.seq).where(is_owned, _IS_LIVE).order_by(_C.seq).with_for_update()
    if (await conn.execute(lock, {"owner": values["owner"]})).first() is None:
        return []
    revoke = (
        update(families)
        .where(is_owned, _IS_LIVE, _C.sid != bindparam("except_sid"))
        .values(revoked_at=bindparam("now"), revoked_reason=bindparam("reason"))
        .returning(_C.sid)
    )
    return list((await conn.execute(revoke, values)).scalars())


def _only_family(found: CursorResult[*tuple[Any, ...]]) -> Family | None:
    row = found.one_or_none()
    return None if row is None else family_of(row)


def family_of(row: Sequence[Any]) -> Family:
    """From a row of COLUMN_NAMES and the roles: the fields of Family, in their order."""
    values = list(row)
    for index in _WORDS:
        values[index] = split_words(values[index])
    return Family(*values)
