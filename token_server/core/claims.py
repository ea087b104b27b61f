"""Header and claims of an access token (RFC 9068 §2): what is in one, and nothing else.

No `nbf`, no e-mail, no names: a token is read by many services and lives in their logs.
"""

from dataclasses import dataclass

from token_server.core.status_list import Position

Act = dict[str, "str | Act"]
Claims = dict[str, str | int | list[str] | dict[str, dict[str, str | int]] | Act]


@dataclass(frozen=True, slots=True)
class AccessToken:
    """What one access token says; `sid` and `auth_time` only when a user stands behind it."""

    issuer: str
    subject: str
    audience: tuple[str, ...]
    client_id: str
    scope: tuple[str, ...]
    issued_at: int
    expires_at: int
    jti: str
    sid: str | None = None
    auth_time: int | None = None
    roles: tuple[str, ...] = ()
    status: Position | None = None  # where its revocation would show
    actors: tuple[str, ...] = ()  # client ids, the current actor first (RFC 8693 §4.1)


def access_token_claims(token: AccessToken) -> Claims:
    """The claims as they go into the JWT; `aud` is a string when one, an array when several.

    Raises ValueError for an empty audience: such a token would be good everywhere or nowhere,
    depending on the verifier.
    """
    if not token.audience:
        raise ValueError("an access token has at least one audience")
    claims: Claims = {
        "iss": token.issuer,
        "sub": token.subject,
        "aud": token.audience[0] if len(token.audience) == 1 else list(token.audience),
        "exp": token.expires_at,
        "iat": token.issued_at,
        "jti": token.jti,
        "client_id": token.client_id,
    }
    if token.scope:
        claims["scope"] = " ".join(token.scope)
    if token.sid is not None:
        claims["sid"] = token.sid
    if token.auth_time is not None:
        claims["auth_time"] = token.auth_time
    if token.roles:
        claims["roles"] = list(token.roles)
    if token.status is not None:
        claims["status"] = status_claim(token.status, token.issuer)
    if token.actors:
        claims["act"] = act_claim(token.actors)
    return claims


def act_claim(actors: tuple[str, ...]) -> Act:
    """The `act` claim: the current actor outermost, in it the one before (RFC 8693 §4.1). Their
    `sub` is enough: it is the client id, as in every token that a client has in its own name."""
    current, *before = actors
    act: Act = {"sub": current}
    if before:
        act["act"] = act_claim(tuple(before))
    return act


def status_claim(position: Position, issuer: str) -> dict[str, dict[str, str | int]]:
    """The `status` claim (draft-ietf-oauth-status-list-21 §6.2)."""
    return {"status_list": {"idx": position.index, "uri": position.name.uri(issuer)}}
