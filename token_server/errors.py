"""What may be answered instead of success: one class per public code.

Token endpoint: the registered codes of RFC 6749 §5.2 and RFC 8707 §2. JSON APIs: our own stable
codes in problem documents (RFC 9457). `reason` is private, for logs and metrics; every public
text is a constant of ours, never input.
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


class ProxyConfigurationError(InvalidRequestError):
    """What a proxy asks about a request cannot be understood or may not be answered: its operator
    has to mend it, so it must not look like a refusal of whoever sent the request."""

    default_description = "The proxy asks wrongly: its operator finds why in the server's log."

    def __init__(self, reason: str) -> None:
        super().__init__(reason)


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


class ProblemError(Exception):
    """An answer of a JSON API as a problem document. Raised outside write blocks only."""

    code: ClassVar[str]
    status: ClassVar[int] = 400
    challenge: ClassVar[str | None] = None  # what a 401 adds to `Bearer` (RFC 6750 §3)

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class MalformedJsonError(ProblemError):
    """No JSON object in strict UTF-8, or one that two parsers could read differently."""

    code = "malformed_json"


class InvalidFieldError(ProblemError):
    """A member is missing, of the wrong type or against a rule; `field` None: it is unknown here,
    and its name stays unsaid."""

    code = "invalid_field"

    def __init__(self, field: str | None, detail: str) -> None:
        super().__init__("field_unknown" if field is None else f"{field}_refused")
        self.field = field
        self.detail = detail

    @property
    def is_of_storage(self) -> bool:
        """The database was away, busy or in conflict: it is said once for all requests."""
        return self.reason.startswith("storage_")


class QueryRefusedError(ProblemError):
    """These paths take no parameters: query strings end up in logs, tokens with them."""

    code = "query_refused"


class JsonTooLargeError(ProblemError):
    code = "payload_too_large"
    status = 413


class NotJsonError(ProblemError):
    code = "unsupported_media_type"
    status = 415


class CredentialsRefusedError(ProblemError):
    """Wrong password, unknown or disabled account, bad refresh token: one answer for all."""

    code = "credentials_refused"
    status = 401


class TokenMissingError(ProblemError):
    """No access token was sent: no error code in the challenge (RFC 6750 §3.1)."""

    code = "token_missing"
    status = 401

    def __init__(self) -> None:
        super().__init__("token_missing")


class TokenRefusedError(ProblemError):
    """The access token is bad, or its session or user is no longer: one answer for all."""

    code = "token_refused"
    status = 401
    challenge = (
        'error="invalid_token", error_description="The access token is malformed, expired,'
        ' revoked or not meant for this service."'
    )


class ApiKeyRefusedError(ProblemError):
    """Unknown, wrong, expired or revoked, or of a disabled owner: one answer for all."""

    code = "api_key_refused"
    status = 401


class ApiKeyNotAllowedError(ProblemError):
    """An API key reads its owner's account and changes nothing there."""

    code = "api_key_not_allowed"
    status = 403


class CredentialsAmbiguousError(ProblemError):
    """More than one credential: no guess at which one is meant."""

    code = "credentials_ambiguous"


class ReauthenticationRequiredError(ProblemError):
    """The session is good, but its login is too long ago for this (RFC 9470 §3)."""

    code = "reauthentication_required"
    status = 401
    challenge = (
        'error="insufficient_user_authentication", error_description="Send current_password, or'
        ' log in again.", max_age="300"'
    )


class OriginRefusedError(ProblemError):
    """The refresh cookie is for pages of our own origins alone."""

    code = "origin_refused"
    status = 403


class RegistrationClosedError(ProblemError):
    code = "registration_closed"
    status = 403


class SessionNotFoundError(ProblemError):
    """No such session, an ended one, or somebody else's: one answer for all."""

    code = "session_not_found"
    status = 404


class ApiKeyNotFoundError(ProblemError):
    """No such API key, one that has ended, or somebody else's: one answer for all."""

    code = "api_key_not_found"
    status = 404


class TooManyApiKeysError(ProblemError):
    code = "too_many_api_keys"
    status = 409


class EmailTakenError(ProblemError):
    code = "email_taken"
    status = 409


class UnavailableError(Exception):
    """Not now: a full queue, a busy lock, a lost database. Each edge answers 503 + Retry-After
    (429 with `is_throttled`) in its own shape; never `invalid_grant`, which would log users out."""

    def __init__(
        self,
        reason: str,
        retry_after_s: int = 1,
        *,
        is_throttled: bool = False,
        detail: str = "",
    ) -> None:
        """`detail` is for the log: the code of what failed below, never its text."""
        super().__init__(reason)
        self.reason = reason
        self.retry_after_s = retry_after_s
        self.is_throttled = is_throttled
        self.detail = detail

    @property
    def is_of_storage(self) -> bool:
        """The database was away, busy or in conflict: it is said once for all requests."""
        return self.reason.startswith("storage_")


class OperatorError(Exception):
    """Something that the person at the command line can mend; the text says what to do next.

    `exit_code` follows docs/cli.md: 1 failure, 2 usage, 3 not found, 4 conflict, 5 unavailable.
    """

    def __init__(self, message: str, *, exit_code: int = 1) -> None:
        super().__init__(message)
        self.message = message
        self.exit_code = exit_code
