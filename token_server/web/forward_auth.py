"""`GET /oauth2/forward-auth`: nginx `auth_request`, Traefik forwardAuth, Caddy `forward_auth`.

200 with the identity in headers, 401, or 403 (RFC 6750 §3). nginx knows no other answers and makes
a 500 of all others, so malformed credentials are 401 here and not 400; a 400 is for the operator,
whose configuration writes the query. Nothing of the request is ever echoed in a refusal.
"""

from litestar import asgi
from litestar.enums import ScopeType
from litestar.handlers import ASGIRouteHandler
from litestar.types import HTTPScope, Receive, Scope, Send

from token_server.core.audience import parse_resource
from token_server.core.identifiers import roles_problems
from token_server.core.scope import format_scope, parse_scope
from token_server.errors import OAuthError, ProxyConfigurationError, UnavailableError
from token_server.logs import get_logger
from token_server.runtime import Runtime
from token_server.services.forward_auth import (
    Demand,
    ForwardAuth,
    Passed,
    Presented,
    Refused,
)
from token_server.web.answers import (
    NO_STORE,
    Answer,
    bearer_refusal_answer,
    http_error_answer,
    oauth_error_answer,
    oauth_unavailable_answer,
    send_answer,
)
from token_server.web.forms import decode_component
from token_server.web.requests import header_values, request_context, request_id

_log = get_logger(__name__)

PATH = "/oauth2/forward-auth"
MAX_QUERY_BYTES = 4096
_ALLOW = (b"allow", b"GET, HEAD")
_SINGLE = frozenset({"audience", "token_audience"})
_PARAMETERS = _SINGLE | {"scope", "role"}


def forward_auth_handler(runtime: Runtime) -> ASGIRouteHandler:
    """The endpoint over this runtime."""
    service = ForwardAuth(runtime)

    @asgi(PATH, copy_scope=False)
    async def forward_auth(scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG001
        if scope["type"] == ScopeType.HTTP:
            answer = await _answer(runtime, service, scope)
            await send_answer(send, answer, without_body=scope["method"] == "HEAD")

    return forward_auth


async def _answer(runtime: Runtime, service: ForwardAuth, scope: HTTPScope) -> Answer:
    if scope["method"] not in ("GET", "HEAD"):
        refused = http_error_answer(PATH, 405)
        others = tuple(header for header in refused.headers if header[0] != b"allow")
        return Answer(405, (*others, _ALLOW), refused.body)
    try:
        demand = read_demand(scope["query_string"], runtime.settings.default_audience)
        presented = Presented(
            header_values(scope, b"authorization"),
            header_values(scope, b"x-api-key"),
            header_values(scope, b"x-forward-auth-client"),
        )
        context = request_context(runtime, scope)
        decision = await service.authorize_request(demand, presented, context)
    except ProxyConfigurationError as error:
        runtime.metrics.forward_auth("misconfigured")
        _log.warning(
            "forward_auth_misconfigured", reason=error.reason, request_id=request_id(scope)
        )
        return oauth_error_answer(error)
    except UnavailableError as error:
        runtime.metrics.forward_auth("unavailable")
        return oauth_unavailable_answer(error)
    if isinstance(decision, Refused):
        return _refusal_answer(runtime, scope, decision)
    runtime.metrics.forward_auth("passed")
    return Answer(200, (NO_STORE, *identity_headers(decision)))


def _refusal_answer(runtime: Runtime, scope: HTTPScope, refused: Refused) -> Answer:
    runtime.metrics.forward_auth(refused.error.error or "no_credentials")
    _log.info("forward_auth_refused", reason=refused.reason, request_id=request_id(scope))
    return bearer_refusal_answer(refused.error, 403 if refused.error.status == 403 else 401)


def identity_headers(passed: Passed) -> tuple[tuple[bytes, bytes], ...]:
    """Always all of them, empty where there is nothing to say: a proxy that copies them
    overwrites whatever the client has sent under these names."""
    identity, token = passed.identity, passed.access_token
    values = {
        "x-auth-subject": identity.subject,
        "x-auth-client-id": identity.client_id,
        "x-auth-scope": format_scope(identity.scope),
        "x-auth-roles": ",".join(identity.roles),
        "x-auth-session": identity.session_id,
        "x-auth-actor": identity.actor,
        "x-auth-api-key-id": identity.api_key_id,
        # In the form in which it goes on: Traefik and Caddy can copy a header and not build one.
        "authorization": "" if token is None else f"Bearer {token.reveal()}",
    }
    return tuple((name.encode("ascii"), value.encode("ascii")) for name, value in values.items())


def read_demand(query: bytes, default_audience: str) -> Demand:
    """The query that the operator wrote: `audience` and `token_audience` at most once, `scope` and
    `role` any number of times.

    Raises ProxyConfigurationError for whatever is not exactly that: a misspelt or empty demand
    would otherwise be no demand at all.
    """
    try:
        found = _read_parameters(query)
        audiences = {name: parse_resource(found[name][0]) for name in _SINGLE if name in found}
        scope = parse_scope(" ".join(found["scope"])) if "scope" in found else ()
    except OAuthError as error:
        raise ProxyConfigurationError(error.reason) from None
    roles = tuple(found.get("role", ()))
    if roles_problems(roles):
        raise ProxyConfigurationError("role_malformed")
    audience = audiences.get("audience", default_audience)
    return Demand(audience, scope, roles, audiences.get("token_audience"))


def _read_parameters(query: bytes) -> dict[str, list[str]]:
    if len(query) > MAX_QUERY_BYTES:
        raise ProxyConfigurationError("query_too_long")
    found: dict[str, list[str]] = {}
    for part in query.split(b"&") if query else ():
        raw_name, _, raw_value = part.partition(b"=")
        name, value = decode_component(raw_name), decode_component(raw_value)
        if name not in _PARAMETERS:
            raise ProxyConfigurationError("query_parameter_unknown")
        if not value:
            raise ProxyConfigurationError("query_parameter_empty")
        if name in _SINGLE and name in found:
            raise ProxyConfigurationError("query_parameter_repeated")
        found.setdefault(name, []).append(value)
    return found
