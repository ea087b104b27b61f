"""The one error that verification raises: public answer in RFC 6750 3 shape, private reason code.

Everything that a caller may show to a stranger is a constant. Which check failed is in `reason`,
for logs and metrics only (RFC 6750 3.1). Never holds any part of the token.
"""

import enum
from typing import ClassVar


class Reason(enum.StrEnum):
    """Why a token was refused. Stable codes: dashboards and alarms count them."""

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


class TokenError(Exception):
    """The access token is refused. `str()` is the same public sentence for every reason."""

    status: ClassVar[int] = 401
    error: ClassVar[str] = "invalid_token"
    description: ClassVar[str] = (
        "The access token is malformed, expired, revoked or not meant for this service."
    )

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason = reason
        self.add_note(f"reason: {reason}")  # for whoever reads a traceback; not part of `str()`

    @property
    def www_authenticate(self) -> str:
        """The value of the `WWW-Authenticate` header of the 401 (RFC 6750 3)."""
        return f'Bearer error="{self.error}", error_description="{self.description}"'

    def __str__(self) -> str:
        # Frameworks like to put str(error) into the answer: the reason must not be in it.
        return self.description
