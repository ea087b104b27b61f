"""What a grant is, what it is given, and what it may answer.

A grant is data and one function: no base class, no hooks. It never mints, never touches HTTP
and never imports another grant; the phases that all grants share are in `endpoint`.
"""

import enum
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

import msgspec

from token_server.errors import OAuthError
from token_server.records import AuditEvent, Client, Secret
from token_server.runtime import Runtime
from token_server.services.issuing import Authorization, Replay
from token_server.services.request_context import RequestContext
from token_server.services.sessions import EndFamily


class ClientPolicy(enum.Enum):
    """Which clients may use a grant at all, whatever they are registered for."""

    CONFIDENTIAL = "confidential"  # RFC 6749 §4.4: client_credentials
    ANY = "any"


class ScopePolicy(enum.Enum):
    """Against what `scope` and `resource` are checked."""

    CLIENT = "client"  # by the endpoint, against the client's own; nothing asked: all of it
    GRANT = "grant"  # by the grant, against what its credential was granted (RFC 6749 §6)


class TokenRequest(msgspec.Struct, frozen=True):
    """A request as a grant sees it. Only the parameters that the grant declares get this far,
    wrapped, since most of them are secrets.

    Under ScopePolicy.CLIENT `scope` and `audience` are final; under ScopePolicy.GRANT they are
    what was asked for, None when nothing was.
    """

    client: Client
    parameters: Mapping[str, Secret[str]]
    scope: tuple[str, ...] | None
    audience: tuple[str, ...] | None
    context: RequestContext


@dataclass(frozen=True, slots=True)
class Denied:
    """No: the error for the client, and what must be durable before the client hears of it."""

    error: OAuthError
    effect: EndFamily | None = None
    event: AuditEvent | None = None


Outcome = Authorization | Replay | Denied


@dataclass(frozen=True, slots=True)
class Grant:
    """One line in the registry. `required` and `optional` are the grant's own parameters;
    `grant_type`, `scope`, `resource` and client authentication belong to the endpoint."""

    grant_type: str
    required: tuple[str, ...]
    client_policy: ClientPolicy
    scope_policy: ScopePolicy
    authorize: Callable[[Runtime, TokenRequest], Awaitable[Outcome]]
    optional: tuple[str, ...] = ()
