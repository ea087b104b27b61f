"""What the database knows against one access token, in one statement.

Answers facts; what they mean for the token is services/token_state.py's. Every part is a look-up
by primary key, so that a token costs the same whatever is revoked.
"""

from collections.abc import Collection
from dataclasses import asdict, dataclass

from sqlalchemy import BigInteger, Text, bindparam, literal, select
from sqlalchemy.ext.asyncio import AsyncConnection

from token_server.storage import meta
from token_server.storage.schema import clients, denied_tokens, revoked_positions, users
from token_server.storage.schema import meta as values


@dataclass(frozen=True, slots=True)
class TokenKey:
    """By what the facts are found; `number` is a machine token's, None without a position."""

    client_id: str
    subject: str
    jti: str
    number: int | None


@dataclass(frozen=True, slots=True)
class TokenFacts:
    """`None` for a client or user that does not exist."""

    is_client_enabled: bool | None
    is_user_active: bool | None
    is_subject_enabled: bool | None  # for a subject that is itself a client
    password_changed_at: int | None
    is_denied: bool  # its jti was revoked
    is_number_revoked: bool
    sessions_floor: int  # sessions with a smaller `seq` were ended by `db restored`
    machines_floor: int  # machine tokens with a smaller number were


_IS_SUBJECT = users.c.user_id == bindparam("subject", type_=Text)
_FACTS = select(
    select(clients.c.is_enabled)
    .where(clients.c.client_id == bindparam("client_id", type_=Text))
    .label("is_client_enabled"),
    select(clients.c.is_enabled)
    .where(clients.c.client_id == bindparam("subject", type_=Text))
    .label("is_subject_enabled"),
    select(users.c.is_active).where(_IS_SUBJECT).label("is_user_active"),
    select(users.c.password_changed_at).where(_IS_SUBJECT).label("password_changed_at"),
    select(literal(1))
    .where(denied_tokens.c.jti == bindparam("jti", type_=Text))
    .label("is_denied"),
    select(literal(1))
    .where(revoked_positions.c.number == bindparam("number", type_=BigInteger))
    .label("is_number_revoked"),
    select(values.c.value).where(values.c.name == meta.SESSIONS_FLOOR).label("sessions_floor"),
    select(values.c.value).where(values.c.name == meta.MACHINES_FLOOR).label("machines_floor"),
)

_ENABLED = select(clients.c.client_id).where(
    clients.c.client_id.in_(bindparam("client_ids", expanding=True)), clients.c.is_enabled
)


async def read_token_facts(conn: AsyncConnection, key: TokenKey) -> TokenFacts:
    found = (await conn.execute(_FACTS, asdict(key))).one()._asdict()
    return TokenFacts(
        is_client_enabled=found["is_client_enabled"],
        is_subject_enabled=found["is_subject_enabled"],
        is_user_active=found["is_user_active"],
        password_changed_at=found["password_changed_at"],
        is_denied=found["is_denied"] is not None,
        is_number_revoked=found["is_number_revoked"] is not None,
        sessions_floor=int(found["sessions_floor"] or 0),
        machines_floor=int(found["machines_floor"] or 0),
    )


async def are_clients_enabled(conn: AsyncConnection, client_ids: Collection[str]) -> bool:
    """Whether all of them exist and are enabled; for the few that acted in a call chain."""
    distinct = sorted(set(client_ids))
    found = (await conn.execute(_ENABLED, {"client_ids": distinct})).all()
    return len(found) == len(distinct)
