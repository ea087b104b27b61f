"""Grant `client_credentials`: a machine in its own name (RFC 6749 §4.4).

The client's authentication is all there is to decide; no refresh token (§4.4.3), no row.
"""

from token_server.core import client_policy
from token_server.grants.base import ClientPolicy, Grant, ScopePolicy, TokenRequest
from token_server.runtime import Runtime
from token_server.services.issuing import Authorization


async def _authorize(runtime: Runtime, request: TokenRequest) -> Authorization:  # noqa: ARG001
    return Authorization(
        client=request.client,
        subject=request.client.client_id,
        scope=request.scope or (),
        audience=request.audience or (),
        basis=None,
    )


CLIENT_CREDENTIALS = Grant(
    grant_type=client_policy.CLIENT_CREDENTIALS,
    required=(),
    client_policy=ClientPolicy.CONFIDENTIAL,
    scope_policy=ScopePolicy.CLIENT,
    authorize=_authorize,
)
