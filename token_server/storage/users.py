"""The users table. `credential_version` orders logins against password changes and disabling.

A login that was hashing meanwhile is refused by one conditional UPDATE (logins.py), which also
takes the row's lock: so change the password or the active state before revoking families.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Update, bindparam, exists, select, text, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from token_server.records import Secret, User
from token_server.storage.engine import Store
from token_server.storage.errors import AlreadyExistsError
from token_server.storage.query import Query
from token_server.storage.schema import join_words, split_words, users

_C = users.c
COLUMNS = (
    _C.user_id,
    _C.email,
    _C.email_canonical,
    _C.name,
    _C.password_hash,
    _C.is_active,
    _C.credential_version,
    _C.created_at,
    _C.updated_at,
    _C.password_changed_at,
    _C.last_login_at,
    _C.roles,
)
_NAMES = tuple(column.name for column in COLUMNS)
_FIND = select(*COLUMNS).where(_C.user_id == bindparam("user_id"))
BY_ID = Query(_FIND)  # a row for `user_of`
_FIND_BY_EMAIL = select(*COLUMNS).where(_C.email_canonical == bindparam("email_canonical"))
BY_EMAIL = Query(_FIND_BY_EMAIL)  # so is this
_LIST = (
    select(*COLUMNS)
    .where(_C.user_id > bindparam("after"))
    .order_by(_C.user_id)
    .limit(bindparam("limit"))
)
_INSERT = text(
    "INSERT INTO users (user_id, email, email_canonical, name, password_hash, is_active,"
    " credential_version, created_at, updated_at, password_changed_at, last_login_at,"
    " roles)"
    " VALUES (:user_id, :email, :email_canonical, :name, :password_hash, :is_active,"
    " :credential_version, :created_at, :updated_at, :password_changed_at, :last_login_at,"
    " :roles)"
    " ON CONFLICT (email_canonical) DO NOTHING"
)
_IS_USER = _C.user_id == bindparam("for_user_id")
_IS_UNCHANGED = _C.credential_version == bindparam("as_read")
_CHANGE_PASSWORD = (
    update(users)
    .where(_IS_USER)
    .values(
        password_hash=bindparam("password_hash"),
        credential_version=_C.credential_version + 1,
        password_changed_at=bindparam("now"),
        updated_at=bindparam("now"),
    )
)
_CHANGE_OWN_PASSWORD = _CHANGE_PASSWORD.where(_IS_UNCHANGED, _C.is_active)
_SET_ROLES = (
    update(users).where(_IS_USER).values(roles=bindparam("new_roles"), updated_at=bindparam("now"))
)
# Whoever has the e-mail keeps it; the unique index decides between two at the same moment.
_OTHER = users.alias("other")
_CHANGE_NAMES = (
    update(users)
    .where(
        _IS_USER,
        ~exists().where(
            _OTHER.c.email_canonical == bindparam("new_email_canonical"),
            _OTHER.c.user_id != bindparam("for_user_id"),
        ),
    )
    .values(
        email=bindparam("new_email"),
        email_canonical=bindparam("new_email_canonical"),
        name=bindparam("new_name"),
        updated_at=bindparam("now"),
    )
)
_DISABLE = (
    update(users)
    .where(_IS_USER)
    .values(
        is_active=False,
        credential_version=_C.credential_version + 1,
        updated_at=bindparam("now"),
    )
)
_ENABLE = update(users).where(_IS_USER).values(is_active=True, updated_at=bindparam("now"))
_REHASH = (
    update(users).where(_IS_USER, _IS_UNCHANGED).values(password_hash=bindparam("password_hash"))
)


@dataclass(frozen=True, slots=True)
class UserNames:
    """What people see of a user, and what they type to log in."""

    email: str
    email_canonical: str
    name: str


async def find_user(conn: AsyncConnection, user_id: str) -> User | None:
    row = (await conn.execute(_FIND, {"user_id": user_id})).one_or_none()
    return None if row is None else user_of(row)


async def look_up(store: Store, user_id: str) -> User | None:
    """As `find_user`, for hot paths."""
    ((*found,),) = await store.read_alone((BY_ID, {"user_id": user_id}))
    return user_of(found[0]) if found else None


async def look_up_email(store: Store, email_canonical: str) -> User | None:
    """As `find_user_by_email`, for hot paths."""
    ((*found,),) = await store.read_alone((BY_EMAIL, {"email_canonical": email_canonical}))
    return user_of(found[0]) if found else None


async def find_user_by_email(conn: AsyncConnection, email_canonical: str) -> User | None:
    row = (await conn.execute(_FIND_BY_EMAIL, {"email_canonical": email_canonical})).one_or_none()
    return None if row is None else user_of(row)


async def list_users(conn: AsyncConnection, after: str | None, limit: int) -> list[User]:
    """In the order of user ids, beginning behind `after` (the last one of the page before)."""
    rows = await conn.execute(_LIST, {"after": after or "", "limit": limit})
    return [user_of(row) for row in rows]


async def insert_user(conn: AsyncConnection, user: User) -> None:
    """Raises AlreadyExistsError("email") when the canonical e-mail is taken; the transaction
    stays usable, so the caller may also catch it inside the block."""
    done = await conn.execute(
        _INSERT,
        {
            "user_id": user.user_id,
            "email": user.email,
            "email_canonical": user.email_canonical,
            "name": user.name,
            "password_hash": user.password_hash.reveal(),
            "is_active": user.is_active,
            "credential_version": user.credential_version,
            "created_at": user.created_at,
            "updated_at": user.updated_at,
            "password_changed_at": user.password_changed_at,
            "last_login_at": user.last_login_at,
            "roles": join_words(user.roles),
        },
    )
    if done.rowcount == 0:
        raise AlreadyExistsError("email")


async def change_password(
    conn: AsyncConnection, user_id: str, password_hash: Secret[str], now: int
) -> bool:
    """Raises the credential version: logins that read the old hash fail. False: no such user."""
    values = {"for_user_id": user_id, "password_hash": password_hash.reveal(), "now": now}
    return await _changed(conn, _CHANGE_PASSWORD, values)


async def change_own_password(
    conn: AsyncConnection, user: User, password_hash: Secret[str], now: int
) -> bool:
    """As `change_password`, for whoever gave the old one; False when the user was disabled or the
    credentials changed since `user` was read."""
    values = {
        "for_user_id": user.user_id,
        "as_read": user.credential_version,
        "password_hash": password_hash.reveal(),
        "now": now,
    }
    return await _changed(conn, _CHANGE_OWN_PASSWORD, values)


async def change_names(conn: AsyncConnection, user_id: str, names: UserNames, now: int) -> bool:
    """False when there is no such user, or somebody else has the e-mail. Raises
    AlreadyExistsError("email") when somebody else takes it in the same moment: the transaction is
    over then."""
    values = {
        "for_user_id": user_id,
        "new_email": names.email,
        "new_email_canonical": names.email_canonical,
        "new_name": names.name,
        "now": now,
    }
    try:
        return await _changed(conn, _CHANGE_NAMES, values)
    except IntegrityError:  # both saw it free (PostgreSQL); its message quotes the e-mail
        raise AlreadyExistsError("email") from None


async def set_roles(conn: AsyncConnection, user_id: str, roles: tuple[str, ...], now: int) -> bool:
    """Every access token from now on says so. False: no such user."""
    values = {"for_user_id": user_id, "new_roles": join_words(roles), "now": now}
    return await _changed(conn, _SET_ROLES, values)


async def set_user_active(conn: AsyncConnection, user_id: str, active: bool, now: int) -> bool:
    """Disabling raises the credential version, also when already disabled. False: no such user."""
    statement = _ENABLE if active else _DISABLE
    return await _changed(conn, statement, {"for_user_id": user_id, "now": now})


async def rehash_password(
    conn: AsyncConnection, user_id: str, credential_version: int, password_hash: Secret[str]
) -> bool:
    """The same password under newer parameters; False when the credentials changed meanwhile."""
    values = {
        "for_user_id": user_id,
        "as_read": credential_version,
        "password_hash": password_hash.reveal(),
    }
    return await _changed(conn, _REHASH, values)


async def _changed(conn: AsyncConnection, statement: Update, values: Mapping[str, object]) -> bool:
    return (await conn.execute(statement, values)).rowcount == 1


def user_of(row: Sequence[Any]) -> User:
    """From a row of the columns above, in their order; a truth value may be 0 or 1."""
    values = dict(zip(_NAMES, row, strict=True))
    values["password_hash"] = Secret(values["password_hash"])
    values["is_active"] = bool(values["is_active"])
    values["roles"] = split_words(values["roles"])
    return User(**values)
