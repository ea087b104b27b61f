"""Errors of the token endpoint: one class per registered code (RFC 6749 §5.2, RFC 8707 §2).

`error` and `description` are public; `reason` is a private, stable code for logs and metrics.
Descriptions are constants of ours, never input, in the character set of RFC 6749 §5.2.
"""

from typing import ClassVar


class OAuthError(Exception):
    """An answer in the shape of RFC 6749 §5.2. Raised outside write blocks only."""

    error: ClassVar[str]
    status: ClassVar[int] = 400
    default_description: ClassVar[str]

    def __init__(self, reason: str, description: str | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.description = description or self.default_description


class InvalidRequestError(OAuthError):
    error = "invalid_request"
    default_description = "The request is malformed."


class MethodNotAllowedError(InvalidRequestError):
    status = 405
    default_description = "This method is not allowed here."


class RequestTooLargeError(InvalidRequestError):
    status = 413
    default_description = "The request body is too large."


class UnsupportedMediaTypeError(InvalidRequestError):
    status = 415
    default_description = "The body must be application/x-www-form-urlencoded in UTF-8."


class InvalidClientError(OAuthError):
    """Unknown client, wrong secret, disabled client: one answer for all (RFC 6749 §5.2)."""

    error = "invalid_client"
    status = 401
    default_description = "Client authentication failed."

    def __init__(self, reason: str) -> None:
        super().__init__(reason)


class InvalidGrantError(OAuthError):
    """Wrong password, bad refresh token, disabled user: one answer for all."""

    error = "invalid_grant"
    default_description = "The credentials or the refresh token are invalid, expired or revoked."

    def __init__(self, reason: str) -> None:
        super().__init__(reason)


class UnauthorizedClientError(OAuthError):
    error = "unauthorized_client"
    default_description = "This client may not use this grant type."


class UnsupportedGrantTypeError(OAuthError):
    error = "unsupported_grant_type"
    default_description = "This grant type is not supported."


class InvalidScopeError(OAuthError):
    error = "invalid_scope"
    default_description = "The scope is malformed, unknown or exceeds what was granted."


class InvalidTargetError(OAuthError):
    error = "invalid_target"
    default_description = "The resource is not one that this client may ask for."


class UnavailableError(Exception):
    """Not now: a full queue, a busy lock, a lost database. Each edge answers 503 + Retry-After
    (429 with `is_throttled`) in its own shape; never `invalid_grant`, which would log users out."""

    def __init__(self, reason: str, retry_after_s: int = 1, *, is_throttled: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.retry_after_s = retry_after_s
        self.is_throttled = is_throttled


class OperatorError(Exception):
    """Something that the person at the command line can mend; the text says what to do next.

    `exit_code` follows docs/cli.md: 1 failure, 2 usage, 3 not found, 4 conflict, 5 unavailable.
    """

    def __init__(self, message: str, *, exit_code: int = 1) -> None:
        super().__init__(message)
        self.message = message
        self.exit_code = exit_code
