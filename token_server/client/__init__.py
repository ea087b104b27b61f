"""Get access tokens for calling other services, and keep them fresh (RFC 6749 4.4, 6).

    from token_server.client import TokenSource
    source = TokenSource(issuer=ISSUER, client_id="billing", client_secret=SECRET)
    headers = {"Authorization": f"Bearer {source.get_token()}"}  # or await source.aget_token()

Stands alone: the standard library only. `token_server.client_httpx` brings it into httpx.
"""

from token_server.client.errors import (
    RefreshTokenNotStoredError,
    SessionEndedError,
    TokenRefusedError,
    TokenSourceError,
    TokenUnavailableError,
)
from token_server.client.source import TokenSource

__all__ = [
    "RefreshTokenNotStoredError",
    "SessionEndedError",
    "TokenRefusedError",
    "TokenSource",
    "TokenSourceError",
    "TokenUnavailableError",
]
