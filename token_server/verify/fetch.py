"""What a fetch of keys or metadata is: the shapes, and how its caching headers are read.

The network itself is in `http_fetch`, which loads `ssl` and `http.client` only when something is
fetched; whoever has an HTTP client of their own passes another `Fetcher`.
"""

import re
from typing import NamedTuple, Protocol

MAX_BODY_BYTES = 512 * 1024
_MAX_AGE = re.compile(r'max-age="?(\d{1,10})"?')
_ETAG = re.compile(r'(?:W/)?"[!#-~]{0,256}"')
_SECONDS = re.compile(r"\d{1,10}")


class FetchError(Exception):
    """Nothing usable came. The message is for logs: it never quotes what the other side sent."""

    def __init__(self, problem: str, retry_after_s: int | None = None) -> None:
        super().__init__(problem)
        self.retry_after_s = retry_after_s


class FetchResult(NamedTuple):
    """An answer 200 or 304."""

    body: bytes | None
    """None: not modified since the `etag` that was sent."""
    etag: str | None = None
    max_age_s: int | None = None
    """Seconds for which the answer is fresh (RFC 9111 4.2); None when it does not say."""


class Fetcher(Protocol):
    """Gets a document. Called from a thread of the library's own; may block there."""

    def fetch(self, url: str, etag: str | None, timeout_s: float, /) -> FetchResult:
        """One GET within `timeout_s`, at most MAX_BODY_BYTES, no redirects; raises FetchError.

        With `etag`, sends `If-None-Match`.
        """


def read_max_age(cache_control: str, age: str) -> int | None:
    """Fresh seconds that are left: `max-age` less `Age`; 0 for no-store and no-cache."""
    directives = [part.strip().lower() for part in cache_control.split(",")]
    if "no-store" in directives or "no-cache" in directives:
        return 0
    for directive in directives:
        found = _MAX_AGE.fullmatch(directive)
        if found is not None:
            return max(0, int(found.group(1)) - (read_seconds(age) or 0))
    return None


def read_seconds(text: str) -> int | None:
    """Delay-seconds (RFC 9110 10.2.3), as of `Age` and `Retry-After`; None for another form."""
    return int(text) if _SECONDS.fullmatch(text) else None


def read_etag(text: str | None) -> str | None:
    """An entity tag (RFC 9110 8.8.3) that can be sent back as it is; None for another form."""
    return text if text is not None and _ETAG.fullmatch(text) else None
