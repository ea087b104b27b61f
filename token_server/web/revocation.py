"""`POST /oauth2/revoke`: decode, one call, one constant answer (RFC 7009 §2).

Whatever became of the token, the answer is the same: it must not tell whether there was one.
"""

from litestar.handlers import ASGIRouteHandler
from litestar.types import HTTPScope, Receive

from token_server.errors import OAuthError, UnavailableError
from token_server.logs import get_logger
from token_server.runtime import Runtime
from token_server.services.metadata import REVOCATION_PATH
from token_server.services.revocation import revoke_token
from token_server.web.answers import NO_STORE, Answer
from token_server.web.oauth import form_handler, read_form
from token_server.web.requests import header_values, request_context, request_id

_log = get_logger(__name__)
_DONE = Answer(200, (NO_STORE,))


def revocation_handler(runtime: Runtime) -> ASGIRouteHandler:
    """The revocation endpoint over this runtime."""

    async def respond(scope: HTTPScope, receive: Receive) -> Answer:
        try:
            form = await read_form(scope, receive)
            context = request_context(runtime, scope)
            await revoke_token(runtime, header_values(scope, b"authorization"), form, context)
        except (OAuthError, UnavailableError) as error:
            is_known = isinstance(error, UnavailableError) and error.is_of_storage
            log = _log.debug if is_known else _log.info
            log("revocation_refused", reason=error.reason, request_id=request_id(scope))
            raise
        return _DONE

    return form_handler(REVOCATION_PATH, respond)
