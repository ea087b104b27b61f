"""Logins begin sessions, a batch of them in one transaction, each with its audit row.

Both statements are conditional (refresh.md 9): the user is active with the credentials that were
read before hashing, the client is enabled. They hold the rows of both until the end, so that
every change that ends a login either comes before and leaves no session behind, or waits and
finds it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from token_server.records import AuditEvent, Family
from token_server.storage import audit
from token_server.storage.batch import Batcher, Work
from token_server.storage.engine import Store
from token_server.storage.families import COLUMN_NAMES, ROLES, NewFamily, family_of
from token_server.storage.schema import join_words
from token_server.storage.steps import Dialect, Entries, Steps


@dataclass(frozen=True, slots=True)
class NewLogin:
    """`credential_version` is the user's as read before the password was hashed."""

    family: NewFamily
    credential_version: int
    event: AuditEvent


_LOGINS = Entries(user_id="text", credential_version="bigint", now="bigint")
_IS_UNCHANGED = (
    "users.user_id = e.user_id AND users.credential_version = e.credential_version"
    " AND users.is_active"
)
_RECORD = {
    "sqlite": f"""
WITH {{e}}
UPDATE users SET last_login_at = e.now FROM e WHERE {_IS_UNCHANGED}
RETURNING users.user_id, users.credential_version
""",  # noqa: S608 - constants
    # Locked in one order first, so that two processes cannot deadlock.
    "postgresql": f"""
WITH {{e}}, l AS (
    SELECT e.* FROM e JOIN users ON {_IS_UNCHANGED}
    ORDER BY users.user_id
    FOR NO KEY UPDATE OF users
)
UPDATE users SET last_login_at = e.now FROM l AS e WHERE {_IS_UNCHANGED}
RETURNING users.user_id, users.credential_version
""",  # noqa: S608 - constants
}
_FAMILIES = Entries(
    family_id="bytea",
    sid="text",
    client_id="text",
    user_id="text",
    scope="text",
    audience="text",
    mac_version="bigint",
    auth_time="bigint",
    created_at="bigint",
    idle_expires_at="bigint",
    absolute_expires_at="bigint",
    label="text",
    ip_address="text",
    user_agent="text",
)
_NAMES = ", ".join(_FAMILIES.names)
_INSERT = f"""
WITH {{e}}
INSERT INTO families ({_NAMES}, generation)
SELECT {", ".join("e." + name for name in _FAMILIES.names)}, 0
FROM e JOIN clients ON clients.client_id = e.client_id AND clients.is_enabled
{{lock}}
RETURNING {", ".join(COLUMN_NAMES)}, {ROLES.format(f="families")} AS roles
"""  # noqa: S608 - constants
_INSERTS = {
    "sqlite": _INSERT.replace("{lock}", ""),
    "postgresql": _INSERT.replace("{lock}", "FOR SHARE OF clients"),
}


def login_batcher(store: Store) -> Batcher[NewLogin, Family | None]:
    """Group commit of logins; None means that the login is not good any more."""

    async def run(logins: Sequence[NewLogin]) -> Sequence[Family | None]:
        return await store.write_steps(partial(begin_sessions, logins))

    return Batcher(Work(run, key=lambda login: login.family.family_id))


def begin_sessions(logins: Sequence[NewLogin], dialect: Dialect) -> Steps[list[Family | None]]:
    """The families in the order of the logins; None where user or client changed."""
    users = [
        (login.family.user_id, login.credential_version, login.family.created_at)
        for login in logins
    ]
    recorded = yield _LOGINS.bind(dialect, _RECORD[dialect], users)
    unchanged = {(user_id, version) for user_id, version in recorded}
    news = [
        _values_of(login.family)
        for login in logins
        if (login.family.user_id, login.credential_version) in unchanged
    ]
    begun: dict[bytes, Family] = {}
    if news:
        rows = yield _FAMILIES.bind(dialect, _INSERTS[dialect], news)
        begun = {family.family_id: family for family in map(family_of, rows)}
    if begun:
        events = [login.event for login in logins if login.family.family_id in begun]
        yield audit.insertion(dialect, events)
    return [begun.get(login.family.family_id) for login in logins]


def _values_of(new: NewFamily) -> tuple[object, ...]:
    return (
        new.family_id,
        new.sid,
        new.client_id,
        new.user_id,
        join_words(new.scope),
        join_words(new.audience),
        new.mac_version,
        new.auth_time,
        new.created_at,
        new.idle_expires_at,
        new.absolute_expires_at,
        new.label,
        new.ip_address,
        new.user_agent,
    )
