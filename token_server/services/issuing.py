"""Turning an authorization into tokens: one short write, then the signature.

`issue` makes the login's family durable (a refreshed family was spent already, by the one
statement that decided it) and signs; `reissue` writes nothing. A crash between the two is healed
by replay: the client presents its old refresh token again and gets the same successor.
"""

import base64
from dataclasses import dataclass

import msgspec

from token_server.core.claims import AccessToken, access_token_claims
from token_server.core.client_policy import REFRESH_TOKEN
from token_server.core.refresh import TokenText, encode_refresh_token
from token_server.core.status_list import Position
from token_server.core.token_exchange import ACCESS_TOKEN_TYPE
from token_server.errors import InvalidGrantError, UnavailableError
from token_server.logs import get_logger
from token_server.records import AuditEvent, AuditEventType, Client, Family, Secret, User
from token_server.runtime import Runtime
from token_server.services.request_context import RequestContext
from token_server.storage.families import NewFamily
from token_server.storage.logins import NewLogin

_log = get_logger(__name__)
_encode_claims = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Login:
    """A user who has just proved who they are: starts a family."""

    user: User  # as read before the password was hashed
    auth_time: int
    label: str | None = None  # what its owner calls the session


class Backing(msgspec.Struct, frozen=True):
    """What stands behind a token: how long it may live at most, what it says of the login, where
    its revocation shows, and who acts for its subject."""

    not_after: int | None = None
    sid: str | None = None
    auth_time: int | None = None
    roles: tuple[str, ...] = ()
    status: Position | None = None
    actors: tuple[str, ...] = ()  # the current one first; empty unless exchanged (RFC 8693 §4.1)
    source: str | None = None  # of an exchanged token: `jti` or key id it came from, for the log


class Authorization(msgspec.Struct, frozen=True):
    """What a grant allows. `basis` is the login to start a family for, the family that was just
    spent, what an exchanged token is backed by, or None for a machine token."""

    client: Client
    subject: str
    scope: tuple[str, ...]
    audience: tuple[str, ...]
    basis: Login | Family | Backing | None


@dataclass(frozen=True, slots=True)
class Replay:
    """The same successor again, with a fresh access token (refresh.md 4)."""

    client: Client
    family: Family
    scope: tuple[str, ...]
    audience: tuple[str, ...]


class TokenResponse(msgspec.Struct, frozen=True):
    """RFC 6749 §5.1; `issued_token_type` of an exchange alone (RFC 8693 §2.2.1)."""

    access_token: Secret[str]
    expires_in_s: int
    scope: tuple[str, ...]
    refresh_token: Secret[str] | None
    jti: str
    kid: str
    sid: str | None
    issued_token_type: str | None = None


async def issue(
    runtime: Runtime, authorization: Authorization, context: RequestContext
) -> TokenResponse:
    """Make the decision durable, then sign.

    Raises InvalidGrantError when user or client changed while the password was hashed, and
    UnavailableError when the database cannot commit now.
    """
    match authorization.basis:
        case Login() as login:
            family = await _start_family(runtime, authorization, login, context)
            return await _sign_for(runtime, authorization, family, context)
        case Family() as family:
            return await _sign_for(runtime, authorization, family, context)
        case Backing() as backing:
            return await _sign(runtime, authorization, backing, context)
        case None:
            backing = await _machine_backing(runtime, authorization.client, context.now)
            return await _sign(runtime, authorization, backing, context)


async def reissue(runtime: Runtime, replay: Replay, context: RequestContext) -> TokenResponse:
    """No write: the refresh token is a function of the family, so it comes out the same."""
    authorization = Authorization(
        replay.client, replay.family.user_id, replay.scope, replay.audience, replay.family
    )
    return await _sign_for(runtime, authorization, replay.family, context)


async def _start_family(
    runtime: Runtime, authorization: Authorization, login: Login, context: RequestContext
) -> Family:
    """One conditional write, so that a password change or a disabling that came while the
    password was being hashed leaves no family behind (refresh.md 9)."""
    client, user = authorization.client, login.user
    settings = runtime.settings
    absolute_ttl_s = client.refresh_absolute_ttl_s or settings.refresh_absolute_ttl_s
    idle_ttl_s = client.refresh_idle_ttl_s or settings.refresh_idle_ttl_s
    if REFRESH_TOKEN not in client.grant_types:
        # The session lives exactly as long as the one access token that it will ever have.
        absolute_ttl_s = idle_ttl_s = access_token_ttl_s(runtime, client)
    new = NewFamily(
        family_id=runtime.entropy.token_bytes(16),
        sid="ses_" + _random_text(runtime, 16),
        client_id=client.client_id,
        user_id=user.user_id,
        scope=authorization.scope,
        audience=authorization.audience,
        mac_version=runtime.master_keys.current,
        auth_time=login.auth_time,
        created_at=context.now,
        idle_expires_at=context.now + min(idle_ttl_s, absolute_ttl_s),
        absolute_expires_at=context.now + absolute_ttl_s,
        label=login.label,
        ip_address=context.ip_address,
        user_agent=context.user_agent,
    )
    event = AuditEvent(
        event=AuditEventType.LOGIN_SUCCEEDED,
        at=context.now,
        actor=f"user:{user.user_id}",
        subject=new.sid,
        client_id=client.client_id,
        ip_address=context.ip_address,
        request_id=context.request_id,
    )
    family = await runtime.logins.submit(NewLogin(new, user.credential_version, event))
    if family is None:
        raise InvalidGrantError("credentials_changed_during_login")
    runtime.audit.log(event)
    return family


async def _sign_for(
    runtime: Runtime, authorization: Authorization, family: Family, context: RequestContext
) -> TokenResponse:
    """A pair of tokens for a session: neither outlives it, both are revoked with it."""
    backing = Backing(
        not_after=family.absolute_expires_at,
        sid=family.sid,
        auth_time=family.auth_time,
        roles=family.roles,
        status=runtime.status.session_position(family.seq),
    )
    response = await _sign(runtime, authorization, backing, context)
    return msgspec.structs.replace(
        response, refresh_token=_refresh_token(runtime, authorization.client, family)
    )


async def _machine_backing(runtime: Runtime, client: Client, now: int) -> Backing:
    """A machine token is revoked by itself, if its client's tokens are (revocation.md)."""
    if not client.is_revocable:
        return Backing()
    number = await runtime.status.machine_number(now)
    return Backing(status=runtime.status.machine_position(number))


async def _sign(
    runtime: Runtime, authorization: Authorization, backing: Backing, context: RequestContext
) -> TokenResponse:
    client = authorization.client
    expires_at = context.now + access_token_ttl_s(runtime, client)
    if backing.not_after is not None:
        expires_at = min(expires_at, backing.not_after)
    token = AccessToken(
        issuer=runtime.settings.issuer,
        subject=authorization.subject,
        audience=authorization.audience,
        client_id=client.client_id,
        scope=authorization.scope,
        issued_at=context.now,
        expires_at=expires_at,
        jti=_random_text(runtime, 16),
        sid=backing.sid,
        auth_time=backing.auth_time,
        roles=backing.roles,
        status=backing.status,
        actors=backing.actors,
    )
    compact, kid = await runtime.keys.sign_compact(
        client.access_token_typ or runtime.settings.access_token_typ,
        _encode_claims(access_token_claims(token)),
        now=context.now,
        expires_at=expires_at,
    )
    _log_issued(token, kid, backing.source, context.request_id)
    return TokenResponse(
        access_token=Secret(compact),
        expires_in_s=expires_at - context.now,
        scope=authorization.scope,
        refresh_token=None,
        jti=token.jti,
        kid=kid,
        sid=token.sid,
        issued_token_type=ACCESS_TOKEN_TYPE if backing.actors else None,
    )


def _log_issued(token: AccessToken, kid: str, source: str | None, request_id: str) -> None:
    # Of an exchange also for whom, for what service and out of what: its only trace (style.md 39).
    exchanged = {}
    if token.actors:
        audience = " ".join(token.audience)
        exchanged = {"subject": token.subject, "audience": audience, "exchanged_from": source}
    _log.info(
        "access_token_issued",
        client_id=token.client_id,
        jti=token.jti,
        sid=token.sid,
        kid=kid,
        request_id=request_id,
        **exchanged,
    )


def _refresh_token(runtime: Runtime, client: Client, family: Family) -> Secret[str] | None:
    if REFRESH_TOKEN not in client.grant_types:
        return None
    mac_key = runtime.master_keys.find_refresh_mac_key(family.mac_version)
    if mac_key is None:
        # Another instance made this family under a master key that this one was not given.
        raise UnavailableError("refresh_mac_key_unknown")
    text = TokenText(family.mac_version, family.family_id, family.generation)
    return Secret(encode_refresh_token(text, mac_key, runtime.epoch))


def access_token_ttl_s(runtime: Runtime, client: Client) -> int:
    return client.access_token_ttl_s or runtime.settings.access_token_ttl_s


def _random_text(runtime: Runtime, length: int) -> str:
    return base64.urlsafe_b64encode(runtime.entropy.token_bytes(length)).rstrip(b"=").decode()
