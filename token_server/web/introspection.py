"""`POST /oauth2/introspect`: decode, one call, encode (RFC 7662 §2, RFC 9701 §4, §5).

JSON, or a signed JWT for whoever prefers that in `Accept`. For nobody's cache and for no page of
another origin.
"""

from collections.abc import Sequence

from litestar.handlers import ASGIRouteHandler
from litestar.types import HTTPScope, Receive

from token_server.errors import OAuthError, UnavailableError
from token_server.logs import get_logger
from token_server.runtime import Runtime
from token_server.services.introspection import MEDIA_TYPE, introspect_token, sign_introspection
from token_server.services.metadata import INTROSPECTION_PATH
from token_server.web.answers import NO_STORE, Answer, json_answer
from token_server.web.oauth import form_handler, read_form
from token_server.web.requests import header_values, request_context, request_id

_log = get_logger(__name__)
_JSON = "application/json"


def introspection_handler(runtime: Runtime) -> ASGIRouteHandler:
    """The introspection endpoint over this runtime."""

    async def respond(scope: HTTPScope, receive: Receive) -> Answer:
        try:
            form = await read_form(scope, receive)
            context = request_context(runtime, scope)
            introspection = await introspect_token(
                runtime, header_values(scope, b"authorization"), form, context
            )
        except (OAuthError, UnavailableError) as error:
            is_known = isinstance(error, UnavailableError) and error.is_of_storage
            log = _log.debug if is_known else _log.info
            log("introspection_refused", reason=error.reason, request_id=request_id(scope))
            raise
        if not prefers_signed(header_values(scope, b"accept")):
            return json_answer(introspection.members)
        signed = await sign_introspection(runtime, introspection, context.now)
        headers = ((b"content-type", MEDIA_TYPE.encode("ascii")), NO_STORE)
        return Answer(200, headers, signed.encode("ascii"))

    return form_handler(INTROSPECTION_PATH, respond)


def prefers_signed(accept: Sequence[str]) -> bool:
    """Whether the JWT is asked for by its name, and liked no less than JSON (RFC 9110 §12.5.1)."""
    weights = {MEDIA_TYPE: 0.0, _JSON: 0.0}
    for part in ",".join(accept).split(","):
        media_type, *parameters = (text.strip().lower() for text in part.split(";"))
        if media_type in weights:
            weights[media_type] = _weight(parameters)
    return 0 < weights[MEDIA_TYPE] >= weights[_JSON]


def _weight(parameters: Sequence[str]) -> float:
    """The `q` of a media range, 1 without one; what is no number weighs nothing."""
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            text = value.strip()
            is_number = text.isascii() and text.replace(".", "", 1).isdigit()
            return min(1.0, float(text)) if is_number else 0.0
    return 1.0
