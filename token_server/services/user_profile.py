"""What operators change of a user beside the password: e-mail, name and roles.

Tokens hold no e-mail and no name, so sessions go on; roles are in every token from the next
login or refresh on. Whether a user may log in at all is services/users.py's.
"""

import contextlib
from collections.abc import Sequence

from token_server.core.identifiers import (
    IdentifierError,
    canonical_email,
    name_problem,
    roles_problems,
)
from token_server.records import AuditEvent, AuditEventType, User
from token_server.runtime import Runtime
from token_server.services.users import refusal, show_user, taken_email, unknown_user
from token_server.storage import audit, users
from token_server.storage.errors import AlreadyExistsError


async def change_names(
    runtime: Runtime, email_or_id: str, *, email: str | None = None, name: str | None = None
) -> User:
    """Another e-mail or name; sessions and tokens, which hold neither, go on.

    OperatorError when it is refused, the user unknown, or somebody else has the e-mail.
    """
    user = await show_user(runtime, email_or_id)
    new_email = user.email if email is None else email.strip(" ")
    new_name = user.name if name is None else name
    problems = [problem] if (problem := name_problem(new_name)) else []
    email_canonical = ""
    try:
        email_canonical = canonical_email(new_email)
    except IdentifierError as error:
        problems.append(str(error))
    if problems:
        raise refusal("The user was not changed", problems)
    now = runtime.clock.now()
    names = users.UserNames(new_email, email_canonical, new_name)
    event = AuditEvent(AuditEventType.USER_CHANGED, at=now, actor="operator", subject=user.user_id)
    is_changed = False
    with contextlib.suppress(AlreadyExistsError):  # taken in the same moment
        async with runtime.store.write() as connection:
            is_changed = await users.change_names(connection, user.user_id, names, now)
            if is_changed:
                await audit.insert_events(connection, [event])
    if not is_changed:
        raise taken_email()
    runtime.audit.log(event)
    return await show_user(runtime, user.user_id)


async def set_roles(runtime: Runtime, email_or_id: str, roles: Sequence[str]) -> User:
    """The roles of the user from now on, for the `roles` claim of every token to come.

    OperatorError lists every role that cannot be one.
    """
    user = await show_user(runtime, email_or_id)
    kept = tuple(sorted(set(roles)))
    problems = roles_problems(kept)
    if problems:
        raise refusal("The roles were not changed", problems)
    now = runtime.clock.now()
    event = AuditEvent(
        AuditEventType.USER_ROLES_CHANGED,
        at=now,
        actor="operator",
        subject=user.user_id,
        details={"roles": " ".join(kept), "before": " ".join(user.roles)},
    )
    async with runtime.store.write() as connection:
        is_changed = await users.set_roles(connection, user.user_id, kept, now)
        if is_changed:
            await audit.insert_events(connection, [event])
    if not is_changed:
        raise unknown_user()
    runtime.audit.log(event)
    return await show_user(runtime, user.user_id)
