"""Grant token exchange: a narrower token for the next service (RFC 8693, docs/token-exchange.md).

The subject token is an access token of ours or an API key; the acting client stands in `act`. An
`actor_token` changes nothing, since the client's authentication says who acts: it is checked all
the same, and has to be the client's own. Gives access tokens only, never a refresh token.
"""

from token_server.core import client_policy
from token_server.core.token_exchange import (
    ACCESS_TOKEN_TYPE,
    API_KEY_TYPE,
    SUBJECT_TOKEN_TYPES,
    one_target,
)
from token_server.errors import InvalidRequestError
from token_server.grants.base import ClientPolicy, Denied, Grant, Outcome, ScopePolicy, TokenRequest
from token_server.runtime import Runtime
from token_server.services.api_keys import authenticate_api_key
from token_server.services.exchanging import (
    Asked,
    Subject,
    SubjectRefusedError,
    authorize_exchange,
    refusal_event,
    subject_of_api_key,
    subject_of_token,
)
from token_server.services.token_state import examine_access_token


async def _authorize(runtime: Runtime, request: TokenRequest) -> Outcome:
    client, context = request.client, request.context
    _check_types(request)
    resource = None if request.audience is None else request.audience[0]
    asked = Asked(one_target(_parameter(request, "audience"), resource), request.scope)
    if not await _is_own_actor_token(runtime, request):
        reason = "actor_token_refused"
        event = refusal_event(client, reason, context)
        return Denied(SubjectRefusedError(reason), event=event)
    subject = await _subject(runtime, request)
    if subject is None:
        reason = "subject_token_refused"
        event = refusal_event(client, reason, context)
        return Denied(SubjectRefusedError(reason), event=event)
    return authorize_exchange(runtime, client, subject, asked, context)


async def _subject(runtime: Runtime, request: TokenRequest) -> Subject | None:
    token, now = request.parameters["subject_token"].reveal(), request.context.now
    if _parameter(request, "subject_token_type") == API_KEY_TYPE:
        key = await authenticate_api_key(runtime, token, request.context)
        return None if key is None else await subject_of_api_key(runtime, key, now)
    live = await examine_access_token(runtime, token)
    return None if live is None else subject_of_token(runtime, live)


async def _is_own_actor_token(runtime: Runtime, request: TokenRequest) -> bool:
    """True without one. It must be the client's in its own name: whoever else it spoke for would
    have to stand in `act` (RFC 8693 §2.1), on nothing but this client's word."""
    token = _parameter(request, "actor_token")
    if token is None:
        return True
    live = await examine_access_token(runtime, token)
    return live is not None and (
        request.client.client_id == live.claims.client_id == live.claims.subject
    )


def _check_types(request: TokenRequest) -> None:
    """RFC 8693 §2.1. Raises InvalidRequestError: kinds of tokens are no secret."""
    if _parameter(request, "subject_token_type") not in SUBJECT_TOKEN_TYPES:
        raise InvalidRequestError(
            "subject_token_type_unknown", "This subject_token_type is not supported."
        )
    if _parameter(request, "requested_token_type") not in (None, ACCESS_TOKEN_TYPE):
        raise InvalidRequestError(
            "requested_token_type_unknown", "This requested_token_type is not supported."
        )
    actor_token_type = _parameter(request, "actor_token_type")
    if (actor_token_type is None) != ("actor_token" not in request.parameters):
        raise InvalidRequestError(
            "actor_token_type_alone", "actor_token and actor_token_type go together."
        )
    if actor_token_type not in (None, ACCESS_TOKEN_TYPE):
        raise InvalidRequestError(
            "actor_token_type_unknown", "This actor_token_type is not supported."
        )


def _parameter(request: TokenRequest, name: str) -> str | None:
    found = request.parameters.get(name)
    return None if found is None else found.reveal()


TOKEN_EXCHANGE = Grant(
    grant_type=client_policy.TOKEN_EXCHANGE,
    required=("subject_token", "subject_token_type"),
    client_policy=ClientPolicy.CONFIDENTIAL,
    scope_policy=ScopePolicy.GRANT,
    authorize=_authorize,
    optional=("audience", "requested_token_type", "actor_token", "actor_token_type"),
)
