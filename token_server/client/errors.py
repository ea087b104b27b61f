"""Why there is no access token: what a caller can tell apart, and what to do about it.

Texts are ours: nothing that the server sent is in them but a registered error code, so that
neither a secret nor a token that was echoed gets into a log. RFC 6749 5.2, RFC 8707 2.
"""

from typing import Self

# What the registered codes mean to whoever runs this client.
REMEDIES = {
    "invalid_request": "the server found the request malformed",
    "invalid_client": "unknown client_id, wrong client_secret, or the client is disabled",
    "invalid_grant": "the refresh token is expired, revoked, spent, or of another client",
    "unauthorized_client": "this client may not use this grant type",
    "unsupported_grant_type": "the server does not know this grant type",
    "invalid_scope": "the client may not have this scope",
    "invalid_target": "the client may not ask for this resource",
    "temporarily_unavailable": "not now",
    "server_error": "the server failed",
}


class TokenSourceError(Exception):
    """No access token can be had. `error` is the server's code of RFC 6749 5.2, `status` its HTTP
    status, `retry_after_s` the seconds until another attempt is made; None where there is none."""

    def __init__(
        self,
        message: str,
        *,
        error: str | None = None,
        status: int | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.error = error
        self.status = status
        self.retry_after_s = retry_after_s

    def again(self, retry_after_s: float | None = None) -> Self:
        """The same error for another caller: one that is raised twice would collect both
        tracebacks, and keep what their frames hold alive."""
        fresh = type(self)(
            self.message,
            error=self.error,
            status=self.status,
            retry_after_s=self.retry_after_s if retry_after_s is None else retry_after_s,
        )
        fresh.__cause__ = self.__cause__
        return fresh


class TokenUnavailableError(TokenSourceError):
    """The server is away, overloaded or throttling. Worth another try after `retry_after_s`."""


class TokenRefusedError(TokenSourceError):
    """The server refuses this client or this request: somebody has to change something."""


class SessionEndedError(TokenRefusedError):
    """The refresh token is no longer good, for ever: the user has to log in again."""


class RefreshTokenNotStoredError(TokenSourceError):
    """`on_refresh_token` raised (see `__cause__`). The new refresh token is kept in memory, and
    the next call stores it before anything else."""
