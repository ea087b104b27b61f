"""An issuer's status lists, fetched when a token names them and kept fresh while tokens do.

Whatever tokens carry, the newest list is had again every `ttl`: a forger with a stolen key would
leave `status` out, and the list names such keys (`revoked_kids`), which are refused for the life of
the process. Reading a list is `status_list`'s work, when to fetch `refreshing`'s.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import ClassVar

from token_server.verify.claims import Claims
from token_server.verify.errors import (
    KeysUnavailableError,
    Reason,
    StatusUnavailableError,
    TokenError,
)
from token_server.verify.fetch import Fetcher, FetchError
from token_server.verify.flight import value_now
from token_server.verify.key_source import KeySource
from token_server.verify.keys import VerificationKey
from token_server.verify.refreshing import Held, Refreshed, held
from token_server.verify.remote import DEFAULT_FETCHING, Fetching, RemoteKeySet
from token_server.verify.source import DocumentSource
from token_server.verify.status import (
    DEFAULT_CHECKING,
    Reference,
    StatusChecking,
    StatusStats,
    is_below,
    read_reference,
)
from token_server.verify.status_list import (
    ListExpectations,
    StatusList,
    StatusListError,
    read_status_list,
)
from token_server.verify.strict import StrictnessError, decode_object

_log = logging.getLogger("token_server.verify")

_MAX_LISTS = 256
_NAMES_AGE_S = 60
_MIN_NAMES_AGE_S, _MAX_NAMES_AGE_S = 1, 300
_LOOK_AGAIN_S = 1.0  # whether the issuer names lists by now


class _Published(Refreshed[StatusList]):
    """One list."""

    _kind: ClassVar[str] = "status_list"
    _max_backoff_s: ClassVar[float] = 10.0  # revocations wait for it

    def __init__(self, uri: str, lists: "RemoteStatusLists") -> None:
        # The keys may have to be had first, which is discovery and keys; and some slack.
        super().__init__(uri, 3 * lists.timeout_s + 1, lists.monotonic)
        self.uri = uri
        self.used_at = float("-inf")
        self._lists = lists

    @property
    def signer(self) -> str | None:
        known = self._held
        return None if known is None else known.value.kid

    def fresh(self, now: float) -> StatusList | None:
        """The shortest way, for every token: None when there is anything to think about."""
        self.used_at = now
        known = self._held
        return known.value if known is not None and now < known.refresh_at else None

    def forget(self) -> None:
        """Its signer turned out to be anybody."""
        with self._lock:
            self._held = None

    def _load(self, known: Held[StatusList] | None, begun_at: float) -> Held[StatusList]:
        return self._lists.load(self.uri, known, begun_at)

    def _note_success(self, outcome: Held[StatusList]) -> None:
        # Looked at under the lock: another list may have named its signer in this moment.
        if self._lists.is_compromised(outcome.value.kid):
            self._note_failure("signed by a compromised key", None)
        else:
            super()._note_success(outcome)

    def _unavailable(self, retry_after_s: int) -> KeysUnavailableError:
        return StatusUnavailableError(retry_after_s)


class _Newest(Refreshed[str]):
    """The URI of the newest list: the last of those that the issuer names (§9.3); empty when it
    names none."""

    _kind: ClassVar[str] = "status_lists"
    _max_backoff_s: ClassVar[float] = 10.0

    def __init__(self, uri: str, lists: "RemoteStatusLists", stale_s: float) -> None:
        super().__init__(uri, lists.timeout_s + 1, lists.monotonic)
        self.uri = uri
        self._lists = lists
        self._stale_s = stale_s

    @property
    def uri_now(self) -> str | None:
        known = self._held
        return None if known is None else known.value

    def _load(self, known: Held[str] | None, begun_at: float) -> Held[str]:
        if not is_below(self.uri, self._lists.issuer):
            raise FetchError("the list of lists is not below the issuer")
        document = self._lists.documents.fetch(self.uri, None if known is None else known.document)
        try:
            named = decode_object(document.body).get("status_lists")
        except StrictnessError as error:
            raise FetchError(f"not strict JSON: {error.reason}") from None
        if not isinstance(named, list):
            raise FetchError("no list status_lists")
        newest = named[-1] if named else ""
        if not isinstance(newest, str) or (newest and not is_below(newest, self._lists.issuer)):
            raise FetchError("the newest list is not below the issuer")
        said = _NAMES_AGE_S if document.max_age_s is None else document.max_age_s
        age_s = max(_MIN_NAMES_AGE_S, min(said, _MAX_NAMES_AGE_S))
        return held(newest, document, begun_at, age_s=age_s, stale_s=self._stale_s)

    def _unavailable(self, retry_after_s: int) -> KeysUnavailableError:
        return StatusUnavailableError(retry_after_s)


class RemoteStatusLists:
    """The lists of one issuer. Safe for threads, tasks and forks."""

    def __init__(  # noqa: PLR0913 - all by keyword
        self,
        *,
        issuer: str,
        keys: KeySource,
        checking: StatusChecking = DEFAULT_CHECKING,
        fetching: Fetching = DEFAULT_FETCHING,
        fetcher: Fetcher | None = None,
        clock: Callable[[], float] = time.time,  # noqa: TID251 - stands alone: no Runtime here
        monotonic: Callable[[], float] = time.monotonic,
        skew_s: int = 10,
        compromised: set[str] | None = None,
    ) -> None:
        """`compromised` is shared by all who trust the same keys. ValueError for a `lists_uri` that
        is not the issuer's own."""
        if checking.lists_uri is not None and not is_below(checking.lists_uri, issuer):
            raise ValueError("lists_uri is not below the issuer")
        self.issuer = issuer
        self.timeout_s = fetching.timeout_s
        self.monotonic = monotonic
        self.documents = DocumentSource(fetching.timeout_s, fetcher)
        self._keys = keys
        self._checking = checking
        self._clock = clock
        self._skew_s = skew_s
        self._compromised: set[str] = set() if compromised is None else compromised
        self._lock = threading.Lock()
        self._lists: dict[str, _Published] = {}
        self._newest: _Newest | None = None
        self._polled_until = float("-inf")
        self._is_closed = False

    def reference(self, claims: Claims) -> Reference | None:
        """See `StatusSource`."""
        reference = read_reference(claims, self.issuer)
        if reference is None and self._checking.require_status:
            raise TokenError(Reason.STATUS_MISSING)
        return reference

    def check(self, kid: str, reference: Reference | None, waited: Sequence[object]) -> None:
        """See `StatusSource`. Some 1 µs as long as the lists are fresh."""
        now = self.monotonic()
        if now >= self._polled_until:
            self.poll(waited)
        if kid in self._compromised:
            raise TokenError(Reason.KID_COMPROMISED)
        if reference is None:
            return
        uri, index = reference
        published = self._lists.get(uri) or self._open(uri)
        listed = published.fresh(now)
        if listed is None:
            listed = value_now(published, waited)
            if kid in self._compromised:  # named by the list that has just come
                raise TokenError(Reason.KID_COMPROMISED)
        status = listed.find(index)
        if status:
            raise TokenError(Reason.STATUS_REVOKED)
        if status is None:
            raise TokenError(Reason.STATUS_INVALID)

    def poll(self, waited: Sequence[object]) -> None:
        """See `StatusSource`."""
        now = self.monotonic()
        uri = self._checking.lists_uri
        if uri is None and isinstance(self._keys, RemoteKeySet):
            uri = self._keys.status_lists_uri
        if uri is None:
            self._polled_until = now + _LOOK_AGAIN_S
            return
        names = self._newest
        if names is None or names.uri != uri:
            names = self._open_names(uri)
        newest = value_now(names, waited)
        if not newest:
            self._polled_until = names.refresh_at
            return
        published = self._lists.get(newest) or self._open(newest)
        published.used_at = now
        value_now(published, waited)
        self._polled_until = min(names.refresh_at, published.refresh_at)

    def close(self) -> None:
        """Begin no further fetch."""
        with self._lock:
            self._is_closed = True
            for published in self._lists.values():
                published.close()
            if self._newest is not None:
                self._newest.close()

    def stats(self) -> StatusStats:
        """A snapshot for metrics and health pages."""
        lists, names = list(self._lists.values()), self._newest
        newest = None if names is None else self._lists.get(names.uri_now or "")
        counted = [each.counts() for each in (*lists, *(() if names is None else (names,)))]
        return StatusStats(
            lists=len(lists),
            newest_age_s=None if newest is None else newest.age_s(),
            fetches=sum(fetches for fetches, _ in counted),
            failures=sum(failures for _, failures in counted),
            revoked_kids=tuple(sorted(self._compromised)),
        )

    def is_compromised(self, kid: str) -> bool:
        return kid in self._compromised

    def load(self, uri: str, known: Held[StatusList] | None, begun_at: float) -> Held[StatusList]:
        """In a flight's thread: fetch and read one list. FetchError."""
        document = self.documents.fetch(uri, None if known is None else known.document)
        now = self._clock()
        expected = ListExpectations(
            uri=uri,
            issuer=self.issuer,
            now=now,
            skew_s=self._skew_s,
            not_before=float("-inf") if known is None else known.value.issued_at,
        )
        try:
            listed = read_status_list(document.body, expected, self._find_key)
        except StatusListError as error:
            raise FetchError(str(error)) from None
        if listed.kid in listed.revoked_kids:
            raise FetchError("signed by a key that it calls compromised")
        self._learn(listed.revoked_kids)
        age_s = max(1.0, min(listed.ttl_s, listed.expires_at - now))
        stale_s = max(0.0, self._checking.fail_open_for_s - age_s)
        return held(listed, document, begun_at, age_s=age_s, stale_s=stale_s)

    def _find_key(self, kid: str) -> VerificationKey | None:
        """The signer of a list: one of the issuer's keys, fetched if that may help. Waits."""
        if kid in self._compromised:
            return None
        keys = self._keys
        flight = keys.flight() if keys.ready() is None else None
        if flight is not None:
            flight.wait()
        try:
            found = keys.available().find(kid)
            flight = keys.flight_for(kid) if found is None else None
            if flight is not None:
                flight.wait()
                found = keys.available().find(kid)
                if found is None:
                    keys.note_absent(kid)
        except KeysUnavailableError:
            return None
        return found

    def _learn(self, kids: frozenset[str]) -> None:
        """From now on these keys speak for nobody, in tokens or in lists."""
        if kids <= self._compromised:
            return
        _log.warning("signing_keys_compromised kids=%s", ",".join(sorted(kids)))
        self._compromised.update(kids)
        for published in list(self._lists.values()):
            if published.signer in self._compromised:
                published.forget()
        self._polled_until = float("-inf")

    def _open(self, uri: str) -> _Published:
        """The list of this URI. Of too many the one goes that nobody has asked for longest."""
        with self._lock:
            published = self._lists.get(uri)
            if published is None:
                if len(self._lists) >= _MAX_LISTS:
                    oldest = min(self._lists.values(), key=lambda one: one.used_at)
                    del self._lists[oldest.uri]
                published = _Published(uri, self)
                published.used_at = self.monotonic()
                if self._is_closed:
                    published.close()
                self._lists[uri] = published
            return published

    def _open_names(self, uri: str) -> _Newest:
        with self._lock:
            if self._newest is None or self._newest.uri != uri:
                self._newest = _Newest(uri, self, self._checking.fail_open_for_s)
                if self._is_closed:
                    self._newest.close()
            return self._newest
