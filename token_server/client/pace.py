"""How often to ask a token endpoint that does not give: pauses, back-off, Retry-After.

A server that is away gets three quick attempts per fetch and then longer and longer pauses; one
that refuses (a wrong secret) is asked rarely. Pure but for the jitter. RFC 9110 10.2.3.
"""

import os

from token_server.client.errors import (
    RefreshTokenNotStoredError,
    TokenSourceError,
    TokenUnavailableError,
)

_ATTEMPTS = 3
_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 2.0  # within a fetch: callers are waiting
_BACK_OFF_S = (1.0, 60.0)  # first and longest, after a fetch that failed
_REFUSED_BACK_OFF_S = (10.0, 300.0)


class Pace:
    """The failures since the last success. Guarded by its owner's lock."""

    def __init__(self) -> None:
        self._failures = 0
        self._retry_at = float("-inf")
        self._last: TokenSourceError | None = None

    def may_try(self, now: float) -> bool:
        return now >= self._retry_at

    def note_failure(self, error: TokenSourceError, now: float) -> float:
        """Count a fetch that failed; the seconds until the next one is allowed."""
        self._failures += 1
        first, longest = _BACK_OFF_S
        if not isinstance(error, TokenUnavailableError | RefreshTokenNotStoredError):
            first, longest = _REFUSED_BACK_OFF_S
        pause_s = jittered(min(first * 2.0 ** min(self._failures - 1, 16), longest))
        pause_s = max(pause_s, error.retry_after_s or 0.0)
        self._retry_at = now + pause_s
        self._last = error
        return pause_s

    def failure(self, now: float) -> TokenSourceError:
        """Why there is no attempt now, with the seconds until there is one."""
        last = self._last or TokenUnavailableError("no attempt was made")
        return last.again(retry_after_s=max(0.0, self._retry_at - now))

    @staticmethod
    def before_attempt(number: int, error: TokenUnavailableError) -> float | None:
        """The pause before the second or third attempt of a fetch; None: give up for now."""
        pause_s = jittered(_FIRST_PAUSE_S * 2.0 ** (number - 2))
        pause_s = max(pause_s, error.retry_after_s or 0.0)
        return pause_s if number <= _ATTEMPTS and pause_s <= _LONGEST_PAUSE_S else None


def jittered(seconds: float) -> float:
    """Between half of it and all of it, so that many clients do not come at once."""
    return seconds * (0.5 + int.from_bytes(os.urandom(4)) / 2**33)
