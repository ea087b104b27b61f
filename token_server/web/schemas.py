"""The JSON bodies of the account API; unknown members are refused, none is ever printed.

Bounds here are those of form and memory. What a name or a password must be is decided by the
services, which say it in the same words on the command line.
"""

from datetime import datetime
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

# The service's own bounds are narrower; these keep junk from reaching it.
_Email = Annotated[
    str, Meta(min_length=1, max_length=1016, description="In any upper and lower case.")
]
_Password = Annotated[str, Meta(min_length=1, max_length=4096)]
_RefreshToken = Annotated[str, Meta(min_length=1, max_length=512)]
_Label = Annotated[
    str, Meta(min_length=1, max_length=100, description="Names the session in the list.")
]
Place = Annotated[
    Literal["body", "cookie"],
    Meta(description="Where the refresh token travels; `cookie` is for pages of our own origins."),
]


class _Body(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    def __repr__(self) -> str:  # most members are secrets
        return f"{type(self).__name__}(***)"


class RegisterBody(_Body, frozen=True, kw_only=True):
    email: _Email
    password: _Password
    name: Annotated[str, Meta(min_length=1, max_length=100)]
    label: _Label | None = None
    refresh_token_in: Place = "body"


class LoginBody(_Body, frozen=True, kw_only=True):
    email: _Email
    password: _Password
    label: _Label | None = None
    refresh_token_in: Place = "body"


class RefreshBody(_Body, frozen=True, kw_only=True):
    """The token in the body, or `refresh_token_in: cookie` and the cookie."""

    refresh_token: _RefreshToken | None = None
    refresh_token_in: Place = "body"


class ChangePasswordBody(_Body, frozen=True, kw_only=True):
    current_password: _Password
    new_password: _Password
    refresh_token_in: Place = "body"


class EndSessionsBody(_Body, frozen=True, kw_only=True):
    """May be left out as a whole after a login of the last five minutes."""

    current_password: _Password | None = None


class CreateApiKeyBody(_Body, frozen=True, kw_only=True):
    """`current_password` may be left out after a login of the last five minutes; without an end
    the key lives until it is revoked."""

    name: Annotated[str, Meta(min_length=1, max_length=100, description="What it is for.")]
    scopes: Annotated[
        list[Annotated[str, Meta(min_length=1, max_length=128)]],
        Meta(max_length=100, description="Out of available_scopes; none if left out."),
    ] = []
    expires_in_s: Annotated[int, Meta(ge=1, le=3650 * 86400)] | None = None
    expires_at: Annotated[datetime, Meta(tz=True)] | None = None
    current_password: _Password | None = None


class RevokeApiKeysBody(_Body, frozen=True, kw_only=True):
    """May be left out as a whole after a login of the last five minutes."""

    current_password: _Password | None = None


class Me(msgspec.Struct, frozen=True):
    """`created_at` is an RFC 3339 instant in UTC."""

    id: str
    email: str
    name: str
    is_active: bool
    created_at: str


class Session(msgspec.Struct, frozen=True):
    """One live login; instants are RFC 3339 in UTC."""

    id: str
    client_id: str
    label: str | None
    ip_address: str | None
    user_agent: str | None
    created_at: str
    last_used_at: str
    expires_at: str
    is_current: bool


class SessionList(msgspec.Struct, frozen=True):
    """The newest login first; at most 100."""

    sessions: list[Session]


class SessionsEnded(msgspec.Struct, frozen=True):
    sessions_ended: int


class ApiKey(msgspec.Struct, frozen=True):
    """One live API key, never its secret; instants are RFC 3339 in UTC."""

    id: str
    name: str
    scopes: list[str]
    created_at: str
    expires_at: str | None
    last_used_at: str | None


class NewApiKey(ApiKey, frozen=True, kw_only=True):
    """The one answer that has the secret, and it alone."""

    api_key: str

    def __repr__(self) -> str:
        return "NewApiKey(***)"


class ApiKeyList(msgspec.Struct, frozen=True):
    """The newest first; at most 20. A new key may be given `available_scopes`."""

    api_keys: list[ApiKey]
    available_scopes: list[str]


class ApiKeysRevoked(msgspec.Struct, frozen=True):
    api_keys_revoked: int


class RegistrationReceived(msgspec.Struct, frozen=True):
    """The one answer of a server with REGISTRATION_SILENT, whether the e-mail was taken or not."""

    status: Literal["received"] = "received"
