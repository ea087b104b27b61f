"""The bearer guard: who calls the account API with an access token (RFC 6750, RFC 9068 §4).

The token is verified by the same library that resource services use, over the keys that this
server publishes; then the session and the user behind it are read, so that what was ended a
moment ago is refused although the token still lives. Only tokens of the account API itself pass:
one of another client must not manage its user's account.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from token_server.core.client_policy import ACCOUNT_CLIENT_ID
from token_server.errors import TokenMissingError, TokenRefusedError
from token_server.records import Family, User
from token_server.runtime import Runtime
from token_server.services.request_context import RequestContext
from token_server.storage.token_facts import read_principal
from token_server.verify import (
    Claims,
    InvalidRequestError,
    Policy,
    StaticKeySet,
    TokenError,
    Verifier,
    read_bearer,
)


@dataclass(frozen=True, slots=True)
class Principal:
    """Whoever calls, as the database knows them now."""

    user: User
    session: Family


class BearerGuard:
    """One per application. A handler asks for an optional, a required or an active user."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._policy = Policy(
            accept_typ=(runtime.settings.access_token_typ,),
            iat_skew_s=runtime.settings.clock_skew_s,
        )
        self._verifier: tuple[bytes, Verifier] | None = None

    async def optional_user(
        self, authorization: Sequence[str], context: RequestContext
    ) -> Principal | None:
        """None when no token was sent. A bad one is refused all the same (TokenRefusedError): who
        sends it believes to be somebody."""
        token = _read_token(authorization)
        if token is None:
            return None
        claims = self._verify(token, context.now)
        if claims.session_id is None:
            raise TokenRefusedError("machine_token")
        if claims.client_id != ACCOUNT_CLIENT_ID:
            raise TokenRefusedError("token_of_another_client")
        found = await read_principal(self._runtime.store, claims.session_id, claims.subject)
        if found is None:
            raise TokenRefusedError("session_unknown")
        session, user = found
        reason = _session_problem(claims, session, context.now)
        if reason is not None:
            raise TokenRefusedError(reason)
        return Principal(user, session)

    async def required_user(
        self, authorization: Sequence[str], context: RequestContext
    ) -> Principal:
        """The user of a live session; TokenMissingError when no token was sent."""
        principal = await self.optional_user(authorization, context)
        if principal is None:
            raise TokenMissingError
        return principal

    async def active_user(self, authorization: Sequence[str], context: RequestContext) -> Principal:
        """As `required_user`, and not disabled."""
        principal = await self.required_user(authorization, context)
        if not principal.user.is_active:
            raise TokenRefusedError("user_disabled")
        return principal

    def _verify(self, token: str, now: int) -> Claims:
        # The very same bytes while the set is the same: a verifier is made once for each set.
        jwks = self._runtime.keyring.jwks(now)
        if self._verifier is None or self._verifier[0] is not jwks:
            issuer = self._runtime.settings.issuer
            verifier = Verifier(
                issuer=issuer,
                audience=issuer,
                keys=StaticKeySet.from_jwks(jwks),
                policy=self._policy,
                clock=self._runtime.clock.now,
            )
            self._verifier = (jwks, verifier)
        try:
            return self._verifier[1].verify_sync(token)
        except TokenError as error:
            reason = error.reason
        raise TokenRefusedError(reason)  # outside: the cause leads to the token's text


def _read_token(authorization: Sequence[str]) -> str | None:
    """The token of `Authorization: Bearer` (RFC 6750 §2.1); None when there is none, or another
    scheme. Refused like a bad token: a repeated or malformed header."""
    try:
        return read_bearer(authorization)
    except InvalidRequestError as error:
        reason = error.reason
    raise TokenRefusedError(reason)


def _session_problem(claims: Claims, session: Family, now: int) -> str | None:
    if (session.user_id, session.client_id) != (claims.subject, claims.client_id):
        return "session_of_another"
    if session.revoked_at is not None:
        return "session_revoked"
    if now >= min(session.idle_expires_at, session.absolute_expires_at):
        return "session_expired"
    if claims.auth_time != session.auth_time:
        # The password was changed in this session: what was handed out before ends with it.
        return "token_before_password_change"
    return None
