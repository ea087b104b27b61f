"""An issuer's published keys, fetched when needed and kept fresh (RFC 7517 5, RFC 8414 3).

Decides for how long a set is fresh, and which unknown `kid`s are worth another fetch: one refetch
per cool-down. When to fetch is `refreshing`'s decision; judging keys is `keys`' work.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from token_server.verify.errors import KeysUnavailableError
from token_server.verify.fetch import Fetcher, FetchError
from token_server.verify.flight import Flight
from token_server.verify.keys import KeySetError, StaticKeySet, VerificationKey
from token_server.verify.refreshing import Held, Refreshed, held
from token_server.verify.source import KeySetSource

_MAX_KIDS_WAITING = 8
_MAX_ABSENT_KIDS = 256


@dataclass(frozen=True, slots=True)
class Fetching:
    """How remote keys are fetched and kept. Seconds; ValueError for a setting out of bounds."""

    timeout_s: float = 5.0
    """For one request, all of it; discovery and keys are two."""
    default_age_s: int = 300
    """How long a set is fresh when the issuer does not say."""
    min_age_s: int = 5
    max_age_s: int = 86_400
    """Whatever `Cache-Control: max-age` says, it is taken as something between these two."""
    max_stale_s: int = 86_400
    """How long the last good set is used beyond its age while no new one can be had."""
    cooldown_s: float = 10.0
    """At most one fetch in this time for the sake of unknown `kid`s, over the whole process."""
    absent_kid_s: float = 60.0
    """A `kid` that was not found by a refetch causes no other one for so long."""

    def __post_init__(self) -> None:
        for name, value, lowest, highest in (
            ("timeout_s", self.timeout_s, 0.1, 60),
            ("min_age_s", self.min_age_s, 1, self.max_age_s),
            ("max_age_s", self.max_age_s, 1, 7 * 86_400),
            ("default_age_s", self.default_age_s, self.min_age_s, self.max_age_s),
            ("max_stale_s", self.max_stale_s, 0, 30 * 86_400),
            ("cooldown_s", self.cooldown_s, 1, 3600),
            ("absent_kid_s", self.absent_kid_s, 0, 3600),
        ):
            if type(value) not in {int, float} or not lowest <= value <= highest:
                raise ValueError(f"{name} is a number from {lowest} to {highest}")


DEFAULT_FETCHING = Fetching()


class KeySetStats(NamedTuple):
    """One remote key set, as it is now; counters since the start of the process."""

    source: str
    """The issuer, or the `jwks_uri` that was given."""
    keys: int
    age_s: float | None
    """Since the last successful fetch; None before the first."""
    is_stale: bool
    """Beyond its age, and used only because no new set could be had."""
    fetches: int
    """Attempts that brought an answer, 304s among them."""
    not_modified: int
    failures: int
    failures_in_a_row: int
    kid_refetches: int
    """Attempts for the sake of an unknown `kid`."""
    absent_kids: int
    """Remembered as not there; never more than 256."""


class RemoteKeySet(Refreshed[StaticKeySet]):
    """Keys by discovery from `issuer`, or from `jwks_uri`. Safe for threads, tasks and forks."""

    _kind: ClassVar[str] = "jwks"
    _max_backoff_s: ClassVar[float] = 60.0

    def __init__(
        self,
        *,
        issuer: str | None = None,
        jwks_uri: str | None = None,
        fetching: Fetching = DEFAULT_FETCHING,
        fetcher: Fetcher | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """ValueError for URLs that are neither https nor http on a loopback host."""
        self._source = KeySetSource(issuer, jwks_uri, fetching.timeout_s, fetcher)
        # Discovery and keys; and some slack, so that the fetch itself says what went wrong.
        super().__init__(self._source.name, 2 * fetching.timeout_s + 1, monotonic)
        self._fetching = fetching
        self._kids_waiting: set[str] = set()
        self._next_kid_refetch_at = float("-inf")
        self._absent: dict[str, float] = {}
        self._kid_refetches = 0

    @property
    def status_lists_uri(self) -> str | None:
        """Where the issuer's metadata says that its status lists are named; None when it does not,
        or was not read yet."""
        return self._source.status_lists_uri

    def find(self, kid: str) -> VerificationKey | None:
        """A key of the set to verify with now; None when there is none, or a fetch to wait for."""
        known = self._held
        if known is not None and self._monotonic() < known.refresh_at:
            return known.value.find(kid)
        keys = self.ready()
        return None if keys is None else keys.find(kid)

    def flight_for(self, kid: str) -> Flight | None:
        """The fetch that may bring an unknown `kid`; None when it is not worth another one."""
        now = self._monotonic()
        with self._lock:
            absent_until = self._absent.get(kid)
            if absent_until is not None and now < absent_until:
                return None
            flight = self._flight
            if flight is None and now >= self._next_kid_refetch_at:
                flight = self._launch(now)
                if flight is not None:
                    self._next_kid_refetch_at = now + self._fetching.cooldown_s
                    self._kid_refetches += 1
            if flight is None or flight.is_overdue:
                return None
            # Whoever sends many unknown kids while the issuer is slow holds only a few waiters.
            if kid not in self._kids_waiting and len(self._kids_waiting) >= _MAX_KIDS_WAITING:
                return None
            self._kids_waiting.add(kid)
            return flight

    def note_absent(self, kid: str) -> None:
        """Remember that a fetch did not bring this `kid`. One that failed has shown nothing."""
        with self._lock:
            if self._failures_in_a_row:
                return
            self._absent.pop(kid, None)
            while len(self._absent) >= _MAX_ABSENT_KIDS:
                del self._absent[next(iter(self._absent))]
            self._absent[kid] = self._monotonic() + self._fetching.absent_kid_s

    def stats(self) -> KeySetStats:
        """A snapshot for metrics and health pages."""
        known, now = self._held, self._monotonic()
        return KeySetStats(
            source=self._source.name,
            keys=0 if known is None else len(known.value.kids),
            age_s=self.age_s(),
            is_stale=known is not None and now >= known.expires_at,
            fetches=self._fetches,
            not_modified=self._not_modified,
            failures=self._failures,
            failures_in_a_row=self._failures_in_a_row,
            kid_refetches=self._kid_refetches,
            absent_kids=len(self._absent),
        )

    def reset_after_fork(self) -> None:
        super().reset_after_fork()
        self._kids_waiting = set()

    def _launch(self, now: float) -> Flight | None:
        flight = super()._launch(now)
        if flight is not None:
            self._kids_waiting = set()
        return flight

    def _unavailable(self, retry_after_s: int) -> KeysUnavailableError:
        return KeysUnavailableError(retry_after_s)

    def _load(self, known: Held[StaticKeySet] | None, begun_at: float) -> Held[StaticKeySet]:
        document = self._source.fetch(None if known is None else known.document, begun_at)
        if known is not None and known.document.body == document.body:
            keys = known.value
        else:
            try:
                read = StaticKeySet.from_jwks(document.body)
            except KeySetError as error:
                raise FetchError(str(error)) from None
            keys = read if known is None else read.sharing(known.value)
        bounds = self._fetching
        said = bounds.default_age_s if document.max_age_s is None else document.max_age_s
        age_s = max(bounds.min_age_s, min(said, bounds.max_age_s))
        return held(keys, document, begun_at, age_s=age_s, stale_s=bounds.max_stale_s)
