"""What all adapters share: the values of `Authorization` in, claims or a refusal out (RFC 6750).

Decides whether a request may pass and with which status and headers it is refused. Knows no
framework: an adapter only finds the header values and says the refusal in its framework's words.
"""

import contextlib
import logging
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from token_server.verify.bearer import read_bearer
from token_server.verify.claims import Claims
from token_server.verify.errors import (
    KeysUnavailableError,
    TokenError,
    TokenMissingError,
    challenge,
)
from token_server.verify.verifier import Verifier

_log = logging.getLogger("token_server.verify")
_SCOPE_TOKEN = re.compile(r"[!#-\[\]-~]+")  # RFC 6749 3.3


@dataclass(frozen=True, slots=True)
class Requirement:
    """What a route demands of its caller; ValueError for one that could never be met."""

    scopes: tuple[str, ...] = ()
    """All of these."""
    any_scope: tuple[str, ...] = ()
    """At least one of these; empty demands nothing."""
    optional: bool = False
    """Without a token the request passes as a stranger's. A bad token is refused all the same."""

    @classmethod
    def of(cls, scopes: Sequence[str], any_scope: Sequence[str], *, optional: bool) -> Self:
        """What a route says. TypeError for `any_scope="orders:read"`: a sequence of letters."""
        if isinstance(any_scope, str):
            raise TypeError("any_scope is a sequence of scopes, not one string")
        return cls(tuple(scopes), tuple(any_scope), optional)

    def __post_init__(self) -> None:
        for scope in (*self.scopes, *self.any_scope):
            # "a b" as one scope would be refused for ever, with a challenge that looks right.
            if _SCOPE_TOKEN.fullmatch(scope) is None:
                raise ValueError(f"not one scope of RFC 6749 3.3: {scope!r}")

    def check(self, claims: Claims) -> None:
        """Raises InsufficientScopeError."""
        if self.scopes:
            claims.require(*self.scopes)
        if self.any_scope:
            claims.require_any(*self.any_scope)


@dataclass(frozen=True, slots=True)
class Refusal:
    """How a TokenError is said over HTTP. Holds nothing that a stranger may not see."""

    status: int
    error: str | None
    """The code of RFC 6750 3.1; None when no token was sent."""
    description: str
    headers: Mapping[str, str]

    def problem(self) -> dict[str, str]:
        """A JSON body for frameworks that have no shape of their own, with RFC 6749's members."""
        code = {} if self.error is None else {"error": self.error}
        return {**code, "error_description": self.description}


class Protection:
    """One verifier and how refusals are worded; the base of every `Protect`."""

    def __init__(
        self,
        verifier: Verifier,
        *,
        realm: str | None = None,
        resource_metadata: str | None = None,
    ) -> None:
        """`realm` and `resource_metadata` (the URL of RFC 9728 3) go into each challenge.

        ValueError when no header can hold them.
        """
        self.verifier = verifier
        self._realm = realm
        self._resource_metadata = resource_metadata
        self.refusal(TokenMissingError())  # a wrong parameter fails the start, not a request

    async def admit(self, authorization: Sequence[str], requirement: Requirement) -> Claims | None:
        """The caller's claims; None for a stranger where that is allowed. Raises TokenError.

        `authorization`: the values of all headers of that name, as they came.
        """
        token = self._read(authorization, requirement)
        if token is None:
            return None
        return self._check(await self.verifier.verify(token), requirement)

    def admit_sync(self, authorization: Sequence[str], requirement: Requirement) -> Claims | None:
        """`admit` for threads; may wait for the network when no key set is there yet."""
        token = self._read(authorization, requirement)
        if token is None:
            return None
        return self._check(self.verifier.verify_sync(token), requirement)

    @contextlib.asynccontextmanager
    async def lifespan(self, _app: object = None) -> AsyncIterator[None]:
        """For an ASGI application's `lifespan`: fetches the keys before the first request.

        An issuer that is away does not keep the service from starting: until its keys can be had,
        protected routes answer 503, and all others work.
        """
        with contextlib.suppress(KeysUnavailableError):
            await self.verifier.start()
        try:
            yield
        finally:
            self.verifier.close()

    def refusal(self, error: TokenError) -> Refusal:
        """Status, public words and headers; a refusal is never stored by a cache."""
        headers = {
            "WWW-Authenticate": challenge(
                error, realm=self._realm, resource_metadata=self._resource_metadata
            ),
            "Cache-Control": "no-store",
        }
        if isinstance(error, KeysUnavailableError):
            headers["Retry-After"] = str(error.retry_after_s)
        return Refusal(error.status, error.error, error.description, headers)

    def _read(self, authorization: Sequence[str], requirement: Requirement) -> str | None:
        try:
            token = read_bearer(authorization)
        except TokenError as error:
            _log.info("access_token_refused reason=%s", error.reason)
            raise
        if token is None and not requirement.optional:
            missing = TokenMissingError()
            # Every crawler does this: not worth a line at the level of real refusals.
            _log.debug("access_token_refused reason=%s", missing.reason)
            raise missing
        return token

    def _check(self, claims: Claims, requirement: Requirement) -> Claims:
        try:
            requirement.check(claims)
        except TokenError as error:
            _log.info(
                "access_token_refused reason=%s client_id=%s jti=%s",
                error.reason,
                claims.client_id,
                claims.token_id,
            )
            raise
        return claims
