"""What the database knows against one access token, in one statement.

Answers facts; what they mean for the token is services/token_state.py's. Every part is a look-up
by primary key, so that a token costs the same whatever is revoked.
"""

from dataclasses import dataclass

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
    .scalar_subquery(),
    select(users.c.is_active).where(_IS_SUBJECT).scalar_subquery(),
    select(users.c.password_changed_at).where(_IS_SUBJECT).scalar_subquery(),
    select(literal(1)).where(denied_tokens.c.jti == bindparam("jti", type_=Text)).scalar_subquery(),
    select(literal(1))
    .where(revoked_positions.c.number == bindparam("number", type_=BigInteger))
    .scalar_subquery(),
    select(values.c.value).where(values.c.name == meta.SESSIONS_FLOOR).scalar_subquery(),
    select(values.c.value).where(values.c.name == meta.MACHINES_FLOOR).scalar_subquery(),
)


async def read_token_facts(conn: AsyncConnection, key: TokenKey) -> TokenFacts:
    row = (
        await conn.execute(
            _FACTS,
            {
                "client_id": key.client_id,
                "subject": key.subject,
                "jti": key.jti,
                "number": key.number,
            },
        )
    ).one()
    return TokenFacts(
        is_client_enabled=row[0],
        is_user_active=row[1],
        password_changed_at=row[2],
        is_subject_enabled=row[3],
        is_denied=row[4] is not None,
        is_number_revoked=row[5] is not None,
        sessions_floor=int(row[6] or 0),
        machines_floor=int(row[7] or 0),
    )
