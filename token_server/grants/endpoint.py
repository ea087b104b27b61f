"""The token endpoint's phases, in the order in which they happen (RFC 6749 §3.2, §5).

All grants pass through all phases: a check that one grant has and another forgot is how token
servers break. What only one grant needs is in that grant's file.
"""

from collections.abc import Mapping, Sequence
from typing import assert_never

import msgspec

from token_server.core.audience import choose_audience, default_audience, parse_resource
from token_server.core.client_auth import read_client
from token_server.core.scope import narrow_scope, parse_scope
from token_server.errors import (
    InvalidRequestError,
    OAuthError,
    UnauthorizedClientError,
    UnavailableError,
    UnsupportedGrantTypeError,
)
from token_server.grants.base import ClientPolicy, Denied, Grant, ScopePolicy, TokenRequest
from token_server.grants.registry import GRANTS
from token_server.logs import get_logger
from token_server.records import AuditEvent, AuditEventType, Client, Secret
from token_server.runtime import Runtime
from token_server.services.client_authentication import authenticate_client
from token_server.services.issuing import Authorization, Replay, TokenResponse, issue, reissue
from token_server.services.request_context import RequestContext
from token_server.services.sessions import end_family

_log = get_logger(__name__)


class Exchange(msgspec.Struct, frozen=True):
    """One token request as HTTP left it: header values and form parameters, unjudged."""

    authorization: Sequence[str]
    form: Mapping[str, str]
    context: RequestContext

    def __repr__(self) -> str:  # the form holds passwords
        return f"Exchange(request_id={self.context.request_id!r})"


async def exchange(runtime: Runtime, request: Exchange) -> TokenResponse:
    """Run the phases, count the outcome, log a refusal once.

    Raises OAuthError for every refusal (with its effects already committed) and
    UnavailableError when the answer is "not now".
    """
    grant_type = request.form.get("grant_type", "")
    label = grant_type if grant_type in GRANTS else "unknown"
    outcome = "server_error"
    started = runtime.clock.monotonic()
    try:
        response, outcome = await _run_phases(runtime, request)
    except OAuthError as error:
        outcome = error.error
        _log_refusal(label, error, request.context.request_id)
        raise
    except UnavailableError as error:
        outcome = "throttled" if error.is_throttled else "unavailable"
        if not error.is_throttled:  # a spent budget is noted where it is spent
            _log_unavailable(label, error, request.context.request_id)
            if label == "refresh_token":
                runtime.metrics.refresh("contended")
        raise
    else:
        return response
    finally:
        runtime.metrics.token_requests(label, outcome)
        runtime.metrics.token_request_duration(label, runtime.clock.monotonic() - started)


def note_unreadable(runtime: Runtime, error: OAuthError, request_id: str) -> None:
    """Count and log a request that was refused before it could become an Exchange."""
    runtime.metrics.token_requests("unknown", error.error)
    _log_refusal("unknown", error, request_id)


def _log_unavailable(grant_type: str, error: UnavailableError, request_id: str) -> None:
    # What is wrong with the database is said once (storage/availability.py), not at each request.
    log = _log.debug if error.is_of_storage else _log.warning
    log(
        "token_request_unavailable",
        grant_type=grant_type,
        reason=error.reason,
        request_id=request_id,
    )


def _log_refusal(grant_type: str, error: OAuthError, request_id: str) -> None:
    _log.info(
        "token_request_refused",
        grant_type=grant_type,
        error=error.error,
        reason=error.reason,
        request_id=request_id,
    )


async def _run_phases(runtime: Runtime, request: Exchange) -> tuple[TokenResponse, str]:
    form, context = request.form, request.context
    if runtime.clock.is_stepped_back():
        # Tokens made now would live longer than they say (see SystemClock).
        raise UnavailableError("clock_stepped_back", 30)
    # 1. Who asks?
    client = await authenticate_client(runtime, read_client(request.authorization, form), context)
    # 2. Is there such a grant?  3. May this client use it?
    grant = _find_grant(form)
    _check_client_may(runtime, client, grant, context)
    # 4. Are the grant's own parameters there?
    parameters = _grant_parameters(grant, form)
    # 5. What is it asking for?
    scope, audience = _scope_and_audience(runtime, client, grant, form)
    # 6. Is its credential good? Guesses are counted where they are looked at, so that no door
    #    forgets it: client secrets in phase 1, passwords in authenticate_user (docs/guessing.md).
    outcome = await grant.authorize(
        runtime, TokenRequest(client, parameters, scope, audience, context)
    )
    # 7. Make it durable, then answer.
    match outcome:
        case Authorization():
            return await issue(runtime, outcome, context), "issued"
        case Replay():
            return await reissue(runtime, outcome, context), "replayed"
        case Denied():
            if outcome.effect is not None:
                await end_family(runtime, outcome.effect)
            if outcome.event is not None:
                runtime.audit.record(outcome.event)
            raise outcome.error
        case _:
            assert_never(outcome)


def _find_grant(form: Mapping[str, str]) -> Grant:
    grant_type = form.get("grant_type")
    if grant_type is None:
        raise InvalidRequestError("grant_type_missing", "The grant_type parameter is missing.")
    grant = GRANTS.get(grant_type)
    if grant is None:
        raise UnsupportedGrantTypeError("grant_type_unknown")
    return grant


def _check_client_may(
    runtime: Runtime, client: Client, grant: Grant, context: RequestContext
) -> None:
    if grant.grant_type not in client.grant_types:
        reason = "grant_type_not_registered"
    elif grant.client_policy is ClientPolicy.CONFIDENTIAL and client.is_public:
        reason = "grant_needs_confidential_client"
    else:
        return
    runtime.audit.record(
        AuditEvent(
            event=AuditEventType.GRANT_REFUSED,
            at=context.now,
            actor=f"client:{client.client_id}",
            client_id=client.client_id,
            reason=reason,
            ip_address=context.ip_address,
            request_id=context.request_id,
            details={"grant_type": grant.grant_type},
        )
    )
    raise UnauthorizedClientError(reason)


def _grant_parameters(grant: Grant, form: Mapping[str, str]) -> dict[str, Secret[str]]:
    for name in grant.required:
        if name not in form:
            raise InvalidRequestError(f"{name}_missing", f"The {name} parameter is missing.")
    return {name: Secret(form[name]) for name in (*grant.required, *grant.optional) if name in form}


def _scope_and_audience(
    runtime: Runtime, client: Client, grant: Grant, form: Mapping[str, str]
) -> tuple[tuple[str, ...] | None, tuple[str, ...] | None]:
    asked = parse_scope(form["scope"]) if "scope" in form else None
    resource = parse_resource(form["resource"]) if "resource" in form else None
    match grant.scope_policy:
        case ScopePolicy.GRANT:
            return asked, None if resource is None else (resource,)
        case ScopePolicy.CLIENT:
            default = default_audience(client, runtime.settings.default_audience)
            return (
                narrow_scope(asked, client.scopes),
                choose_audience(resource, client.audiences, default),
            )
        case _:
            assert_never(grant.scope_policy)
