"""What must hold of a session and of an account after the process that served them was killed."""

from tests.faults.kill_load import (
    Session,
    World,
    is_invalid_grant,
    login_request,
    refresh_request,
    refresh_token_of,
)
from tests.support.load import Connection


async def check_session(
    world: World, session: Session, connection: Connection, *, spend: bool
) -> None:
    """The newest acknowledged token has one successor; nothing else of its family is usable.

    With `spend` the successor is used as well: then the old token must be dead, and its use
    must have killed the family.
    """
    old = session.token
    if old is None:
        return
    first = await connection.request(refresh_request(old))
    if session.must_be_dead:
        session.token = None
        if not is_invalid_grant(first):
            world.note(session, f"a dead session was answered {first.status}")
        return
    again = await connection.request(refresh_request(old))
    if first.status != 200 or again.status != 200:
        world.note(session, f"answered {first.status}, {again.status} after restart")
        session.token = None
        return
    session.token = refresh_token_of(first)
    if refresh_token_of(again) != session.token:
        world.note(session, "two successors of one token")
    if not spend:
        return
    spent = await connection.request(refresh_request(session.token))
    if spent.status != 200:
        world.note(session, f"the successor was answered {spent.status}")
        return
    replies = [
        await connection.request(refresh_request(token))
        for token in (old, refresh_token_of(spent), session.token)
    ]
    if not all(map(is_invalid_grant, replies)):
        statuses = [reply.status for reply in replies]
        world.note(session, f"usable beside the newest token: {statuses}")
    session.token = None


async def can_log_in(email: str, password: str, connection: Connection) -> bool:
    reply = await connection.request(login_request(email, password))
    if reply.status != 200 and not is_invalid_grant(reply):
        raise AssertionError(f"a login was answered {reply.status} {reply.body!r}")
    return reply.status == 200
