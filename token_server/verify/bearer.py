"""`Authorization: Bearer` read strictly, in one place for all frameworks (RFC 6750 2.1).

Decides only what the header is: no token, one token, or a request that must be refused because two
readers could take it for two different things. Does not look at the token itself.
"""

import re
from collections.abc import Sequence

from token_server.verify.errors import InvalidRequestError, Reason

_SCHEME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110 5.6.2: a token
_CREDENTIALS = re.compile(r" +([A-Za-z0-9._~+/-]+=*)")  # 1*SP b64token


def read_bearer(authorization_values: Sequence[str]) -> str | None:
    """The text after `Bearer`; None when there is no header, or one of another scheme.

    Takes the values of all `Authorization` headers as the framework gives them. InvalidRequestError
    when there are several (also joined by a comma) or when what follows `Bearer` is no b64token.
    """
    if not authorization_values:
        return None
    if len(authorization_values) > 1:
        raise InvalidRequestError(Reason.AUTHORIZATION_REPEATED)
    value = authorization_values[0].strip(" \t")
    scheme = _SCHEME.match(value)
    if scheme is None or scheme.group().lower() != "bearer":
        return None
    credentials = _CREDENTIALS.fullmatch(value, scheme.end())
    if credentials is None:
        raise InvalidRequestError(Reason.AUTHORIZATION_MALFORMED)
    return credentials.group(1)
