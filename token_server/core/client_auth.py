"""Which client authentication method a request used: exactly one, or none (RFC 6749 §2.3).

Reads what was presented; whether it is right is for services/client_authentication.py. The
texts are bounded and checked here, so that nothing strange reaches a query or a log line.
"""

import binascii
import enum
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from token_server.errors import InvalidClientError, InvalidRequestError
from token_server.records import Secret

_MAX_CREDENTIALS_LENGTH = 2048
_PERCENT_ENCODED = re.compile(r"(?:[^%]|%[0-9A-Fa-f]{2})*")


class ClientAuthMethod(enum.StrEnum):
    """`token_endpoint_auth_method` values (RFC 7591 §2) that this server knows."""

    CLIENT_SECRET_BASIC = "client_secret_basic"
    CLIENT_SECRET_POST = "client_secret_post"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class PresentedClient:
    """Who the client says it is, how, and the secret that it offers (None for method `none`)."""

    client_id: str
    method: ClientAuthMethod
    secret: Secret[str] | None


def read_client(authorization: Sequence[str], form: Mapping[str, str]) -> PresentedClient:
    """The one method in `authorization` (the values of all Authorization headers) and the form.

    Raises InvalidRequestError for two methods at once or contradicting client ids, and
    InvalidClientError for none, an unknown scheme, or credentials that cannot be read.
    """
    if len(authorization) > 1:
        raise InvalidRequestError("several_authorization_headers")
    if "client_assertion" in form or "client_assertion_type" in form:
        if authorization or "client_secret" in form:
            raise _several_methods()
        raise InvalidClientError("client_assertion_unsupported")
    form_client_id, form_secret = form.get("client_id"), form.get("client_secret")
    if authorization:
        if form_secret is not None:
            raise _several_methods()
        presented = _read_basic(authorization[0])
        if form_client_id is not None and form_client_id != presented.client_id:
            raise InvalidRequestError(
                "client_ids_differ",
                "The client_id differs from the one in the Authorization header.",
            )
        return presented
    if form_client_id is None:
        raise InvalidClientError("client_credentials_missing")
    method = ClientAuthMethod.NONE if form_secret is None else ClientAuthMethod.CLIENT_SECRET_POST
    return _presented(form_client_id, method, form_secret)


def _several_methods() -> InvalidRequestError:
    return InvalidRequestError(
        "several_client_auth_methods", "More than one client authentication method was used."
    )


def _read_basic(value: str) -> PresentedClient:
    """`Basic base64(form-encoded id ":" form-encoded secret)`: decoded exactly once (§2.3.1)."""
    scheme, _, credentials = value.partition(" ")
    if scheme.lower() != "basic":
        raise InvalidClientError("authorization_scheme_unknown")
    if len(credentials) > _MAX_CREDENTIALS_LENGTH:
        raise InvalidClientError("client_credentials_too_long")
    try:
        user_pass = binascii.a2b_base64(credentials.strip(" "), strict_mode=True).decode("ascii")
    except (binascii.Error, ValueError):
        raise InvalidClientError("basic_credentials_malformed") from None
    client_id, colon, secret = user_pass.partition(":")
    if not colon:
        raise InvalidClientError("basic_credentials_malformed")
    return _presented(
        _form_decode(client_id), ClientAuthMethod.CLIENT_SECRET_BASIC, _form_decode(secret)
    )


def _form_decode(text: str) -> str:
    """`text` is ASCII; what holds neither sign encodes itself."""
    if "%" not in text and "+" not in text:
        return text
    if _PERCENT_ENCODED.fullmatch(text) is None:
        raise InvalidClientError("basic_credentials_malformed")
    try:
        return unquote_to_bytes(text.replace("+", " ")).decode("utf-8")
    except UnicodeDecodeError:
        raise InvalidClientError("basic_credentials_malformed") from None


def _presented(client_id: str, method: ClientAuthMethod, secret: str | None) -> PresentedClient:
    for text in (client_id, secret):
        # RFC 6749 appendix A allows %x20-7E; what we hand out is narrower still, see
        # core/identifiers.py.
        if text is not None and not (
            0 < len(text) <= 512 and text.isascii() and text.isprintable()
        ):
            raise InvalidClientError("client_credentials_malformed")
    return PresentedClient(client_id, method, None if secret is None else Secret(secret))
