"""Single sessions and tokens end, a batch of them in one transaction, each with its audit row: no
revocation without a trace, and no trace without one.

Whatever ended before changes nothing and leaves no second row. Ending many at once is
family_sweeps.py's.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import assert_never

from token_server.records import AuditEvent
from token_server.storage import audit
from token_server.storage.batch import Batcher, Work
from token_server.storage.engine import Store
from token_server.storage.steps import Dialect, Entries, Steps, both


@dataclass(frozen=True, slots=True)
class EndedSession:
    """By the session's id, not its family's, which a password change replaces."""

    sid: str
    user_id: str
    event: AuditEvent


@dataclass(frozen=True, slots=True)
class RevokedNumber:
    """A machine token with a position of its own in the status lists."""

    number: int
    event: AuditEvent


@dataclass(frozen=True, slots=True)
class DeniedToken:
    """A token without one, remembered until it expires."""

    jti: str
    expires_at: int
    event: AuditEvent


Revocation = EndedSession | RevokedNumber | DeniedToken

_SESSIONS = Entries(sid="text", user_id="text", now="bigint", reason="text")
_IS_LIVE = "{f}.sid = e.sid AND {f}.user_id = e.user_id AND {f}.revoked_at IS NULL"
_END: dict[Dialect, str] = {
    "sqlite": f"""
WITH {{e}}
UPDATE families SET revoked_at = e.now, revoked_reason = e.reason FROM e
WHERE {_IS_LIVE.format(f="families")}
RETURNING families.sid
""",  # noqa: S608 - constants
    # Locked in the order of `seq` first, as rotations are: the two cannot deadlock.
    "postgresql": f"""
WITH {{e}}, l AS (
    SELECT f.seq, e.* FROM e JOIN families AS f ON {_IS_LIVE.format(f="f")}
    ORDER BY f.seq
    FOR UPDATE OF f
)
UPDATE families AS f SET revoked_at = e.now, revoked_reason = e.reason FROM l AS e
WHERE f.seq = e.seq AND {_IS_LIVE.format(f="f")}
RETURNING f.sid
""",  # noqa: S608 - constants
}
_NUMBERS = Entries(number="bigint", now="bigint")
_REVOKE = both("""
WITH {e}
INSERT INTO revoked_positions (number, revoked_at)
SELECT number, now FROM e WHERE true ORDER BY number
ON CONFLICT (number) DO NOTHING
RETURNING number
""")
_TOKENS = Entries(jti="text", expires_at="bigint")
_DENY = both("""
WITH {e}
INSERT INTO denied_tokens (jti, expires_at)
SELECT jti, expires_at FROM e WHERE true ORDER BY jti
ON CONFLICT (jti) DO NOTHING
RETURNING jti
""")


_STATEMENTS: dict[type[Revocation], tuple[Entries, dict[Dialect, str]]] = {
    EndedSession: (_SESSIONS, _END),
    RevokedNumber: (_NUMBERS, _REVOKE),
    DeniedToken: (_TOKENS, _DENY),
}


def revocation_batcher(store: Store) -> Batcher[Revocation, bool]:
    """Group commit of revocations; False means that it had ended already, or never was."""

    async def run(entries: Sequence[Revocation]) -> Sequence[bool]:
        return await store.write_steps(partial(revoke, entries))

    return Batcher(Work(run, key=_key))


def revoke(entries: Sequence[Revocation], dialect: Dialect) -> Steps[list[bool]]:
    """Whether each ended by this; at most one entry for each session, number or `jti`."""
    ended: set[Hashable] = set()
    for kind, (columns, statements) in _STATEMENTS.items():
        values = [_values_of(entry) for entry in entries if isinstance(entry, kind)]
        if values:
            rows = yield columns.bind(dialect, statements[dialect], values)
            ended.update((kind, row[0]) for row in rows)
    events = [entry.event for entry in entries if _key(entry) in ended]
    if events:
        yield audit.insertion(dialect, events)
    return [_key(entry) in ended for entry in entries]


def _key(entry: Revocation) -> Hashable:
    return type(entry), _values_of(entry)[0]


def _values_of(entry: Revocation) -> tuple[object, ...]:
    match entry:
        case EndedSession(sid, user_id, event):
            return sid, user_id, event.at, event.reason or ""
        case RevokedNumber(number, event):
            return number, event.at
        case DeniedToken(jti, expires_at):
            return jti, expires_at
        case _:
            assert_never(entry)
