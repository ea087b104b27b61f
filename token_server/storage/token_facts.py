"""What the database knows against one access token, in one look.

Answers facts; what they mean for the token is services/token_state.py's. Every part is a look-up
by primary key, so that a token costs the same whatever is revoked.
"""

from dataclasses import dataclass

from sqlalchemy import BigInteger, Text, bindparam, literal, select

from token_server.records import Family, User
from token_server.storage import meta
from token_server.storage.backend import Asked
from token_server.storage.engine import Store
from token_server.storage.families import COLUMNS as FAMILY_COLUMNS
from token_server.storage.families import family_of
from token_server.storage.query import Query
from token_server.storage.schema import clients, denied_tokens, families, revoked_positions, users
from token_server.storage.schema import meta as values
from token_server.storage.steps import Row
from token_server.storage.users import COLUMNS as USER_COLUMNS
from token_server.storage.users import user_of


@dataclass(frozen=True, slots=True)
class TokenKey:
    """By what the facts are found; `number` is a machine token's, None without a position."""

    client_id: str
    subject: str
    jti: str
    number: int | None
    actors: tuple[str, ...] = ()  # clients that it went through, MAX_ACTORS at most


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
    are_actors_enabled: bool  # all of them


_IS_SESSION = families.c.sid == bindparam("sid", type_=Text)
_IS_SUBJECT = users.c.user_id == bindparam("subject", type_=Text)
_FACTS = (
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
FACTS = Query(
    select(*_FACTS, *FAMILY_COLUMNS).select_from(
        select(literal(1).label("one")).subquery("one").outerjoin(families, _IS_SESSION)
    )
)
# The session and its user, as far as both exist.
PRINCIPAL = Query(
    select(*FAMILY_COLUMNS, *USER_COLUMNS)
    .select_from(families.join(users, _IS_SUBJECT))
    .where(_IS_SESSION)
)

MAX_ACTORS = 8  # what the verifier takes (verify/claims.py)
_ACTORS = tuple(f"actor_{n}" for n in range(MAX_ACTORS))
ENABLED_ACTORS = Query(
    select(clients.c.client_id).where(
        clients.c.client_id.in_([bindparam(name, type_=Text) for name in _ACTORS]),
        clients.c.is_enabled,
    )
)


async def read_token_facts(
    store: Store, key: TokenKey, sid: str | None
) -> tuple[TokenFacts, Family | None]:
    """The facts, and the session of this id if there is one."""
    values = {
        "client_id": key.client_id,
        "subject": key.subject,
        "jti": key.jti,
        "number": key.number,
        "sid": sid,
    }
    asked: list[Asked] = [(FACTS, values)]
    if key.actors:
        asked.append((ENABLED_ACTORS, actor_values(key.actors)))
    ((row,), *enabled) = await store.read_alone(*asked)
    are_actors_enabled = not key.actors or len(enabled[0]) == len(set(key.actors))
    session = row[len(_FACTS) :]
    facts = _facts_of(row[: len(_FACTS)], are_actors_enabled)
    return facts, None if session[0] is None else family_of(session)


async def read_principal(store: Store, sid: str, subject: str) -> tuple[Family, User] | None:
    """The session of this id and the user of this one; None when either does not exist."""
    ((*found,),) = await store.read_alone((PRINCIPAL, {"sid": sid, "subject": subject}))
    if not found:
        return None
    count = len(FAMILY_COLUMNS)
    return family_of(found[0][:count]), user_of(found[0][count:])


def actor_values(actors: tuple[str, ...]) -> dict[str, str]:
    """The parameters of ENABLED_ACTORS; the last one again where there are fewer."""
    if len(actors) > MAX_ACTORS:
        raise ValueError("no verifier takes a chain of so many actors")
    return {name: actors[min(n, len(actors) - 1)] for n, name in enumerate(_ACTORS)}


def _facts_of(row: Row, are_actors_enabled: bool) -> TokenFacts:
    """From a row of FACTS; a truth value may be 0 or 1."""
    client, subject, user, password_changed_at, denied, revoked, sessions, machines = row
    return TokenFacts(
        is_client_enabled=None if client is None else bool(client),
        is_subject_enabled=None if subject is None else bool(subject),
        is_user_active=None if user is None else bool(user),
        password_changed_at=password_changed_at,
        is_denied=denied is not None,
        is_number_revoked=revoked is not None,
        sessions_floor=int(sessions or 0),
        machines_floor=int(machines or 0),
        are_actors_enabled=are_actors_enabled,
    )
