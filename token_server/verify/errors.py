"""The errors of verification: a public answer in RFC 6750 3 shape and a private reason code.

One family, TokenError; each class says status, `error` and description. Everything that a caller
may show to a stranger is a constant or the service's own configuration. Which check failed is in
`reason`, for logs and metrics only (RFC 6750 3.1). Never holds any part of a token.
"""

import enum
import re
from typing import ClassVar

_QUOTABLE = re.compile(r"[ -~]*")  # what a quoted-string may hold, once `"` and `\\` are escaped
_SCOPE_CHARACTERS = re.compile(r"[ !#-\[\]-~]+")  # RFC 6750 3


class Reason(enum.StrEnum):
    """Why a request was refused. Stable codes: dashboards and alarms count them."""

    NOT_TEXT = "not_text"
    TOO_LARGE = "too_large"
    MALFORMED = "malformed"  # not three canonical base64url parts
    NOT_JSON = "not_json"  # header or claims are not one JSON object in strict UTF-8
    MEMBER_REPEATED = "member_repeated"
    TOO_DEEP = "too_deep"
    NUMBER_UNBOUNDED = "number_unbounded"  # NaN, Infinity, 1e400, an integer of 21 digits
    ALG_REFUSED = "alg_refused"
    TYP_REFUSED = "typ_refused"
    HEADER_REFUSED = "header_refused"  # a header member that names keys, nests or alters the rules
    KID_MISSING = "kid_missing"
    KID_UNKNOWN = "kid_unknown"
    SIGNATURE_WRONG = "signature_wrong"
    ISS_REFUSED = "iss_refused"
    AUD_REFUSED = "aud_refused"
    EXP_INVALID = "exp_invalid"
    EXPIRED = "expired"
    IAT_INVALID = "iat_invalid"  # missing, not an instant, or later than `exp`
    IAT_IN_FUTURE = "iat_in_future"
    LIFETIME_TOO_LONG = "lifetime_too_long"
    NBF_INVALID = "nbf_invalid"
    NOT_YET_VALID = "not_yet_valid"
    SUB_INVALID = "sub_invalid"
    CLIENT_ID_INVALID = "client_id_invalid"
    JTI_INVALID = "jti_invalid"
    SCOPE_INVALID = "scope_invalid"
    SID_INVALID = "sid_invalid"
    ROLES_INVALID = "roles_invalid"
    AUTH_TIME_INVALID = "auth_time_invalid"
    CNF_UNPROVEN = "cnf_unproven"  # bound to a key (RFC 9449, RFC 8705), offered as a bearer token
    ACT_INVALID = "act_invalid"
    KID_COMPROMISED = "kid_compromised"  # named in `revoked_kids` of a status list
    STATUS_MISSING = "status_missing"  # no `status` claim, and the service demands one
    STATUS_INVALID = "status_invalid"  # the claim names no entry of a list of this issuer
    STATUS_REVOKED = "status_revoked"
    # The token may be good; the request or the service is not.
    TOKEN_MISSING = "token_missing"
    AUTHORIZATION_REPEATED = "authorization_repeated"
    AUTHORIZATION_MALFORMED = "authorization_malformed"
    INSUFFICIENT_SCOPE = "insufficient_scope"
    KEYS_UNAVAILABLE = "keys_unavailable"
    STATUS_UNAVAILABLE = "status_unavailable"  # its status list cannot be had, or is too old


class TokenError(Exception):
    """The access token is refused. `str()` is the same public sentence for every reason."""

    status: ClassVar[int] = 401
    error: ClassVar[str | None] = "invalid_token"
    """The code of RFC 6750 3.1; None when the request carried no token at all."""
    description: ClassVar[str] = (
        "The access token is malformed, expired, revoked or not meant for this service."
    )

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason = reason
        self.add_note(f"reason: {reason}")  # for whoever reads a traceback; not part of `str()`

    @property
    def scope(self) -> str | None:
        """The scopes that the request needs, for the challenge (RFC 6750 3); mostly None."""
        return None

    @property
    def www_authenticate(self) -> str:
        """The value of the `WWW-Authenticate` header (RFC 6750 3). See `challenge` for more."""
        return challenge(self)

    def __str__(self) -> str:
        # Frameworks like to put str(error) into the answer: the reason must not be in it.
        return self.description


class TokenMissingError(TokenError):
    """No access token was sent: 401, and a challenge without error code (RFC 6750 3.1)."""

    error = None
    description = "This resource needs an access token."

    def __init__(self, reason: Reason = Reason.TOKEN_MISSING) -> None:
        super().__init__(reason)


class InvalidRequestError(TokenError):
    """The request names its token wrongly: repeated or malformed `Authorization` (RFC 6750 3.1)."""

    status = 400
    error = "invalid_request"
    description = "The Authorization header is malformed or repeated."


class InsufficientScopeError(TokenError):
    """A good token that does not suffice: 403 (RFC 6750 3.1)."""

    status = 403
    error = "insufficient_scope"
    description = "The access token does not allow this request."

    def __init__(self, scope: str | None = None) -> None:
        """`scope`: what would suffice, separated by spaces; None when it is not a matter of scope.
        The service's own words: they are shown to the caller."""
        super().__init__(Reason.INSUFFICIENT_SCOPE)
        self.args = (scope,)  # for pickle, which calls the class with them
        self._scope = scope

    @property
    def scope(self) -> str | None:
        return self._scope


class KeysUnavailableError(TokenError):
    """No usable key set, and not the token's fault: 503, send `Retry-After: retry_after_s`."""

    status = 503
    error = "temporarily_unavailable"
    description = "Access tokens cannot be verified at the moment."
    _reason: ClassVar[Reason] = Reason.KEYS_UNAVAILABLE

    def __init__(self, retry_after_s: int = 1) -> None:
        super().__init__(self._reason)
        self.args = (retry_after_s,)
        self.retry_after_s = retry_after_s


class StatusUnavailableError(KeysUnavailableError):
    """As for keys, and handled like it: whether the token was revoked cannot be known now."""

    _reason = Reason.STATUS_UNAVAILABLE


def challenge(
    error: TokenError,
    *,
    realm: str | None = None,
    scope: str | None = None,
    resource_metadata: str | None = None,
) -> str:
    """The value of `WWW-Authenticate` (RFC 6750 3, RFC 9728 5.1), safe to send as it is.

    Without error code for a request without token, and for one that fails through no fault of its
    own. `scope` overrides the error's own. ValueError for parameters that no header can hold.
    """
    parameters: list[tuple[str, str]] = []
    if realm is not None:
        parameters.append(("realm", realm))
    if error.error is not None and error.status < 500:
        parameters += [("error", error.error), ("error_description", error.description)]
    needed = error.scope if scope is None else scope
    if needed is not None:
        if _SCOPE_CHARACTERS.fullmatch(needed) is None:
            raise ValueError("scope holds characters that RFC 6750 does not allow")
        parameters.append(("scope", needed))
    if resource_metadata is not None:
        parameters.append(("resource_metadata", resource_metadata))
    if not parameters:
        return "Bearer"
    return "Bearer " + ", ".join(f"{name}={_quoted(value)}" for name, value in parameters)


def _quoted(value: str) -> str:
    """RFC 9110 5.6.4. A line break here would be another header."""
    if _QUOTABLE.fullmatch(value) is None:
        raise ValueError("a parameter of WWW-Authenticate holds other than printable ASCII")
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
