"""Grant `password`: a user's name and password, for clients that are allowed it (RFC 6749 §4.3).

RFC 9700 §2.4 says not to use it across trust boundaries; it is on per client for first-party
clients and migrations. Unknown, wrong and disabled get one answer after the same work.
"""

from token_server.core import client_policy
from token_server.errors import InvalidGrantError
from token_server.grants.base import (
    ClientPolicy,
    Denied,
    Grant,
    Outcome,
    ScopePolicy,
    TokenRequest,
)
from token_server.runtime import Runtime
from token_server.services.guessing import Door, Guess
from token_server.services.issuing import Authorization, Login
from token_server.services.users import authenticate_user


async def _authorize(runtime: Runtime, request: TokenRequest) -> Outcome:
    user = await authenticate_user(
        runtime,
        Guess(Door.PASSWORD_GRANT, request.parameters["username"].reveal()),
        request.parameters["password"],
        request.context,
        request.client.client_id,
    )
    if user is None:
        return Denied(InvalidGrantError("user_credentials_refused"))
    return Authorization(
        client=request.client,
        subject=user.user_id,
        scope=request.scope or (),
        audience=request.audience or (),
        basis=Login(user, auth_time=request.context.now),
    )


PASSWORD = Grant(
    grant_type=client_policy.PASSWORD,
    required=("username", "password"),
    client_policy=ClientPolicy.ANY,
    scope_policy=ScopePolicy.CLIENT,
    authorize=_authorize,
)
