"""Header and claims of an access token (RFC 9068 §2): what is in one, and nothing else.

No `nbf`, no e-mail, no names: a token is read by many services and lives in their logs.
"""

from dataclasses import dataclass


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


def access_token_claims(token: AccessToken) -> dict[str, str | int | list[str]]:
    """The claims as they go into the JWT; `aud` is a string when one, an array when several.

    Raises ValueError for an empty audience: such a token would be good everywhere or nowhere,
    depending on the verifier.
    """
    if not token.audience:
        raise ValueError("an access token has at least one audience")
    claims: dict[str, str | int | list[str]] = {
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
    return claims
