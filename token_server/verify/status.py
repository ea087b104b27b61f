"""Whether a token was revoked: what the verifier asks, and what a service may choose.

draft-ietf-oauth-status-list-21 §6.1: the claim `status` names one entry of a list. The lists are
fetched and kept elsewhere (`status_remote`); an entry other than 0 refuses the token.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeAlias

from token_server.verify.claims import Claims
from token_server.verify.errors import Reason, TokenError

_PATH = re.compile(r"[A-Za-z0-9_~-][A-Za-z0-9._~-]*(?:/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)*")
_MAX_URI_CHARACTERS = 1024
_MAX_INDEX = 2**31

# Where a token's status stands: the list's URI, and the position. A bare tuple, as what is
# remembered of a token.
Reference: TypeAlias = tuple[str, int]


@dataclass(frozen=True, slots=True)
class StatusChecking:
    """How revocation is checked. Raises ValueError for a setting out of bounds."""

    require_status: bool = False
    """Refuse tokens without the claim `status`: those of clients whose tokens cannot be revoked."""
    fail_open_for_s: float = 900
    """While no new list can be had, the last good one is believed for so long after it was fetched
    (or for its `ttl`, if that is longer); then tokens are refused, with 503. At most 86400."""
    lists_uri: str | None = None
    """Where the issuer names its lists (§9); without it, as its metadata says."""

    def __post_init__(self) -> None:
        seconds = self.fail_open_for_s
        if type(seconds) not in {int, float} or not 0 <= seconds <= 86_400:
            raise ValueError("fail_open_for_s is a number from 0 to 86400")
        if type(self.require_status) is not bool:
            raise ValueError("require_status is True or False")


DEFAULT_CHECKING = StatusChecking()


class StatusStats(NamedTuple):
    """The lists of one issuer, as they are now; counters since the start of the process."""

    lists: int
    """Never more than 256."""
    newest_age_s: float | None
    """Since the newest list was fetched; None before, and for an issuer that names no lists."""
    fetches: int
    failures: int
    revoked_kids: tuple[str, ...]


class StatusSource(Protocol):
    """Asked for every token, remembered or not."""

    def reference(self, claims: Claims, /) -> Reference | None:
        """Where this token's status stands; None when it has none. TokenError."""

    def check(self, kid: str, reference: Reference | None, waited: Sequence[object], /) -> None:
        """TokenError for a token that was revoked, or whose key was; MustWaitError when a list has
        to be fetched first and is not among those `waited` for."""

    def poll(self, waited: Sequence[object], /) -> None:
        """What `check` does first, whatever the token: have the newest list, which names keys that
        others may have. StatusUnavailableError; MustWaitError as `check`."""

    def close(self) -> None: ...

    def stats(self) -> StatusStats | None: ...


class NoStatus:
    """Nothing is checked: with local keys, unless lists are asked for."""

    def reference(self, _claims: Claims) -> None:
        return None

    def check(self, _kid: str, _reference: Reference | None, _waited: Sequence[object]) -> None:
        return None

    def poll(self, _waited: Sequence[object]) -> None:
        return None

    def close(self) -> None:
        return None

    def stats(self) -> None:
        return None


def read_reference(claims: Claims, issuer: str) -> Reference | None:
    """The claim `status`; TokenError STATUS_INVALID for one that names no list of this issuer."""
    status = claims.extra.get("status")
    if status is None and "status" not in claims.extra:
        return None
    listed = status.get("status_list") if isinstance(status, Mapping) else None
    if not isinstance(listed, Mapping):
        raise TokenError(Reason.STATUS_INVALID)
    uri, index = listed.get("uri"), listed.get("idx")
    if type(index) is not int or not 0 <= index < _MAX_INDEX:
        raise TokenError(Reason.STATUS_INVALID)
    if not isinstance(uri, str) or not is_below(uri, issuer):
        raise TokenError(Reason.STATUS_INVALID)
    return uri, index


def is_below(uri: str, issuer: str) -> bool:
    """Whether the URI is the issuer's own: the same text, and then a plain path. So nobody can send
    the service to another host (server-side request forgery), nor up by `..`."""
    prefix = issuer.rstrip("/") + "/"
    if len(uri) > _MAX_URI_CHARACTERS or not uri.startswith(prefix):
        return False
    return _PATH.fullmatch(uri, len(prefix)) is not None
