"""The refresh token of a session, and its storing: a used one is spent (RFC 6749 6, RFC 9700 4.14).

Each answer may bring its successor, which must be stored before anything is done with the access
token beside it: a process that dies in between would come back with a spent one.
"""

from collections.abc import Callable

from token_server.client.endpoint import TokenResponse
from token_server.client.errors import RefreshTokenNotStoredError


class RefreshSession:
    """The newest refresh token, and whether it was stored. Used by one fetch at a time."""

    def __init__(self, refresh_token: str, on_refresh_token: Callable[[str], None]) -> None:
        self.refresh_token = refresh_token
        self._on_refresh_token = on_refresh_token
        self._is_stored = True

    def note(self, response: TokenResponse) -> None:
        """RFC 6749 6: a new refresh token replaces the old one; without one the old one stays."""
        if response.refresh_token not in {None, self.refresh_token}:
            self.refresh_token = str(response.refresh_token)
            self._is_stored = False
            self.store()

    def store(self) -> None:
        if self._is_stored:
            return
        try:
            self._on_refresh_token(self.refresh_token)
        except Exception as error:
            raise RefreshTokenNotStoredError("on_refresh_token failed") from error
        self._is_stored = True
