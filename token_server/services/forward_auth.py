"""Forward authentication: may this request pass, and who makes it? For a proxy that asks.

A bearer token (RFC 6750) or an API key comes in, with what the proxy's operator demands of it. The
strictest word counts, as everywhere (services/token_state.py): an ended session is refused at once,
a role that was taken away is gone, and what we did not sign costs no query. Must not trust the
proxy: anybody may ask, and whoever asks for more has to prove itself (services/upstream_tokens.py).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from token_server.errors import (
    InvalidScopeError,
    InvalidTargetError,
    ProxyConfigurationError,
    UnauthorizedClientError,
)
from token_server.records import Secret
from token_server.runtime import Runtime
from token_server.services.account import account_audience
from token_server.services.api_keys import ApiKeyPrincipal, authenticate_api_key
from token_server.services.exchanging import SubjectRefusedError
from token_server.services.request_context import RequestContext
from token_server.services.token_state import (
    DeadToken,
    LiveToken,
    judge_claims,
    read_access_token,
)
from token_server.services.upstream_tokens import Source, UpstreamTokens, authenticate_proxy
from token_server.verify import (
    InsufficientScopeError,
    InvalidRequestError,
    Reason,
    TokenError,
    TokenMissingError,
    read_bearer,
)

_HEADER_SAFE = re.compile(r"(?:[\x21-\x7E]+(?: [\x21-\x7E]+)*)?")


@dataclass(frozen=True, slots=True)
class Demand:
    """What the proxy's configuration asks for: a credential for `audience`, all of `scope`, one of
    `roles` if there are any, and a fresh token for `token_audience` if that is said."""

    audience: str
    scope: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()
    token_audience: str | None = None


@dataclass(frozen=True, slots=True)
class Presented:
    """All values of the headers `Authorization` and `X-API-Key` of the request that may pass, and
    of the proxy's own `X-Forward-Auth-Client`."""

    authorization: Sequence[str] = field(repr=False)
    api_keys: Sequence[str] = field(repr=False)
    proxy: Sequence[str] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Identity:
    """Who passes; empty where there is nothing to say. All of it is fit for a header."""

    subject: str
    client_id: str = ""  # nobody's, for an API key
    scope: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()
    session_id: str = ""
    actor: str = ""  # who acts for the subject, the last one (RFC 8693 §4.1)
    api_key_id: str = ""


@dataclass(frozen=True, slots=True)
class Passed:
    """`access_token` is the fresh one, when one was demanded."""

    identity: Identity
    access_token: Secret[str] | None


@dataclass(frozen=True, slots=True)
class Refused:
    """`error` is what the client is told (RFC 6750 §3.1), `reason` is private."""

    error: TokenError
    reason: str


@dataclass(frozen=True, slots=True)
class _Found:
    identity: Identity
    source: Source


class ForwardAuth:
    """One per application."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._upstream_tokens = UpstreamTokens()

    async def authorize_request(
        self, demand: Demand, presented: Presented, context: RequestContext
    ) -> Passed | Refused:
        """Whether the request may pass.

        Raises ProxyConfigurationError for what only the proxy's operator can mend, UnavailableError
        when too much was guessed (429) or the database does not answer.
        """
        found = await _identify(self._runtime, demand, presented, context)
        if isinstance(found, _Found):
            found = _missing(demand, found.identity) or found
        if isinstance(found, Refused):
            return found
        if demand.token_audience is None:
            return Passed(found.identity, None)
        client = await authenticate_proxy(self._runtime, presented.proxy, demand.audience, context)
        try:
            token = await self._upstream_tokens.fresh_token(
                self._runtime, client, found.source, demand.token_audience, context
            )
        except InvalidScopeError as error:
            return Refused(InsufficientScopeError(), error.reason)
        except SubjectRefusedError as error:
            return Refused(TokenError(Reason.ACT_INVALID), error.reason)
        except (InvalidTargetError, UnauthorizedClientError) as error:
            raise ProxyConfigurationError(error.reason) from None
        return Passed(found.identity, token)


async def _identify(
    runtime: Runtime, demand: Demand, presented: Presented, context: RequestContext
) -> _Found | Refused:
    """By the one credential of the request; two would be two persons."""
    if presented.api_keys:
        if len(presented.api_keys) > 1 or presented.authorization:
            return _malformed("several_credentials")
        return await _identify_api_key(runtime, demand, presented.api_keys[0], context)
    try:
        token = read_bearer(presented.authorization)
    except InvalidRequestError as error:
        return _malformed(error.reason)
    if token is None:
        return Refused(TokenMissingError(), Reason.TOKEN_MISSING)
    return await _identify_token(runtime, demand, token)


async def _identify_token(runtime: Runtime, demand: Demand, token: str) -> _Found | Refused:
    claims = read_access_token(runtime, token)
    if claims is None:
        return _refused("token_unknown")
    if demand.audience not in claims.audience:
        return _refused("token_for_another")
    state = await judge_claims(runtime, claims)
    if isinstance(state, DeadToken):
        return _refused(state.reason)
    identity = _identity_of_token(state)
    return _Found(identity, Source(token, state, identity.scope, identity.roles))


def _identity_of_token(live: LiveToken) -> Identity:
    claims, roles = live.claims, live.claims.roles
    if live.session is not None:
        # The session says which ones the user still has, the token for which it was made.
        roles = tuple(role for role in roles if role in live.session.roles)
    return Identity(
        subject=claims.subject,
        client_id=claims.client_id,
        scope=claims.scopes,
        roles=roles,
        session_id=claims.session_id or "",
        actor=claims.actors[0] if claims.actors else "",
    )


async def _identify_api_key(
    runtime: Runtime, demand: Demand, text: str, context: RequestContext
) -> _Found | Refused:
    """A key is worth what a login at the account API is, for the same audiences; for others only
    where it is exchanged, whose policy then decides. It carries none of its owner's roles, like a
    token that is made from it (services/exchanging.py)."""
    is_own = demand.audience in account_audience(runtime.settings)
    if not is_own and demand.token_audience is None:
        return _refused("api_key_for_another")
    key = await authenticate_api_key(runtime, text, context)
    if key is None:
        return _refused("api_key_refused")
    return _Found(_identity_of_api_key(key), Source(text, key, key.scope, ()))


def _identity_of_api_key(key: ApiKeyPrincipal) -> Identity:
    return Identity(subject=key.user.user_id, scope=key.scope, api_key_id=key.key_id)


def _missing(demand: Demand, identity: Identity) -> Refused | None:
    """What the demand lacks; and nothing of the identity may end a header or begin another."""
    if not set(demand.scope) <= set(identity.scope):
        return Refused(InsufficientScopeError(" ".join(demand.scope)), "scope_missing")
    if demand.roles and set(demand.roles).isdisjoint(identity.roles):
        return Refused(InsufficientScopeError(), "role_missing")
    texts = (identity.subject, identity.client_id, identity.session_id, identity.actor)
    if not all(_HEADER_SAFE.fullmatch(text) for text in (*texts, *identity.roles)):
        # Signed by us all the same: by another version, or a bug. Better nobody than somebody else.
        return _refused("identity_not_header_safe")
    return None


def _malformed(reason: str) -> Refused:
    return Refused(InvalidRequestError(Reason.AUTHORIZATION_REPEATED), reason)


def _refused(reason: str) -> Refused:
    """One answer for every credential that is not good, or not for here."""
    return Refused(TokenError(Reason.MALFORMED), reason)
