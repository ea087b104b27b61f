"""Introspection: what a token is worth now, for a service that does not look itself (RFC 7662).

Only a confidential client is answered, and only about access tokens for an audience that it serves
and tokens of its own. All else is `{"active": false}` and nothing more: what is not a token of ours
or not the asker's to know about costs no query, however many of them come (§4). Tells ids, never
names or e-mails. On request the answer is a signed JWT (RFC 9701).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec

from token_server.core.client_auth import read_client
from token_server.core.refresh import RefreshPolicy, Rotate, TokenText, decide_refresh
from token_server.core.scope import format_scope
from token_server.errors import InvalidClientError, InvalidRequestError
from token_server.logs import get_logger
from token_server.records import Client
from token_server.runtime import Runtime
from token_server.services.client_authentication import authenticate_client
from token_server.services.refreshing import read_refresh_token
from token_server.services.request_context import RequestContext
from token_server.services.token_state import DeadToken, judge_claims, read_access_token
from token_server.storage import families, users
from token_server.verify import Claims

_log = get_logger(__name__)

TYP = "token-introspection+jwt"
MEDIA_TYPE = f"application/{TYP}"
_SIGNED_FOR_S = 60  # how long whoever asked may take to verify the answer
_encode = msgspec.json.Encoder().encode

Members = dict[str, object]


@dataclass(frozen=True, slots=True)
class Introspection:
    """What `client_id` is told: the members of RFC 7662 §2.2."""

    client_id: str
    members: Members


async def introspect_token(
    runtime: Runtime,
    authorization: Sequence[str],
    form: Mapping[str, str],
    context: RequestContext,
) -> Introspection:
    """One request of RFC 7662 §2.1.

    Raises InvalidClientError (401) for everybody but an authenticated confidential client,
    InvalidRequestError without a token, UnavailableError when the database does not answer.
    `token_type_hint` is not looked at: the two kinds cannot be mistaken for each other.
    """
    client = await authenticate_client(runtime, read_client(authorization, form), context)
    if client.is_public:
        raise InvalidClientError("introspection_by_public_client")
    token = form.get("token")
    if token is None:
        raise InvalidRequestError("token_missing", "The token parameter is missing.")
    found = await _look_up(runtime, client, token, context.now)
    is_active = not isinstance(found, str)
    runtime.metrics.introspection("active" if is_active else "inactive")
    if isinstance(found, str):
        _log.info(
            "introspected_inactive",
            client_id=client.client_id,
            reason=found,
            request_id=context.request_id,
        )
        return Introspection(client.client_id, {"active": False})
    return Introspection(client.client_id, {"active": True, **found})


async def sign_introspection(runtime: Runtime, introspection: Introspection, now: int) -> str:
    """The answer as a JWT for whoever asked (RFC 9701 §5): no `sub`, no `exp`, and a `typ` of its
    own, so that it cannot be taken for an access token.

    Raises UnavailableError when no key may sign now.
    """
    payload = {
        "iss": runtime.settings.issuer,
        "aud": introspection.client_id,
        "iat": now,
        "token_introspection": introspection.members,
    }
    compact, _ = await runtime.keys.sign_compact(
        TYP, _encode(payload), now=now, expires_at=now + _SIGNED_FOR_S
    )
    return compact


async def _look_up(runtime: Runtime, client: Client, token: str, now: int) -> Members | str:
    """The members of a live token, or the private reason why there is nothing to tell."""
    refresh_token = read_refresh_token(runtime, token)
    if refresh_token is not None:
        return await _look_up_refresh_token(runtime, client, refresh_token, now)
    claims = read_access_token(runtime, token)
    if claims is None:
        return "token_unknown"
    # Before anything is read: what is not the asker's business costs the same, dead or alive.
    is_own = claims.client_id == client.client_id
    if not is_own and set(claims.audience).isdisjoint(client.serves_audiences):
        return "token_for_another"
    state = await judge_claims(runtime, claims)
    if isinstance(state, DeadToken):
        return state.reason
    return _access_token_members(claims)


async def _look_up_refresh_token(
    runtime: Runtime, client: Client, token: TokenText, now: int
) -> Members | str:
    """Only the current one is active, and nothing is spent or ended by asking."""
    family = await families.look_up(runtime.store, token.family_id)
    user = None if family is None else await users.look_up(runtime.store, family.user_id)
    if family is None or user is None:
        return "token_unknown"
    policy = RefreshPolicy(replay_window_s=0)
    decision = decide_refresh(family, token.generation, client.client_id, now, policy)
    if not isinstance(decision, Rotate):
        return "refresh_token_not_current"
    if not user.is_active:
        return "user_disabled"
    members: Members = {
        "client_id": family.client_id,
        "exp": min(family.idle_expires_at, family.absolute_expires_at),
        "iat": family.rotated_at or family.created_at,
        "sub": family.user_id,
        "aud": _one_or_list(family.audience),
        "iss": runtime.settings.issuer,
        "sid": family.sid,
    }
    if family.scope:
        members["scope"] = format_scope(family.scope)
    # No token_type: it is not to be presented to any service (RFC 6749 §5.1, §10.4).
    return members


def _access_token_members(claims: Claims) -> Members:
    """RFC 7662 §2.2, RFC 9068 §2.2: as the token says it."""
    members: Members = {
        "client_id": claims.client_id,
        "token_type": "Bearer",
        "exp": claims.expires_at,
        "iat": claims.issued_at,
        "sub": claims.subject,
        "aud": _one_or_list(claims.audience),
        "iss": claims.issuer,
        "jti": claims.token_id,
    }
    if claims.scopes:
        members["scope"] = format_scope(claims.scopes)
    if claims.session_id is not None:
        members["sid"] = claims.session_id
    if claims.auth_time is not None:
        members["auth_time"] = claims.auth_time
    if claims.roles:
        members["roles"] = list(claims.roles)
    if "act" in claims.extra:
        members["act"] = _plain(claims.extra["act"])
    return members


def _one_or_list(audience: tuple[str, ...]) -> str | list[str]:
    return audience[0] if len(audience) == 1 else list(audience)


def _plain(value: object) -> object:
    """A claim as JSON has it: the verifier froze it."""
    if isinstance(value, Mapping):
        return {name: _plain(member) for name, member in value.items()}
    if isinstance(value, tuple):
        return [_plain(member) for member in value]
    return value
