"""An issuer's published keys, fetched when needed and kept fresh (RFC 7517 5, RFC 8414 3).

Decides when to fetch and which set holds: ahead of its age in the background, the last good one
through an outage up to a limit, one refetch per cool-down for a `kid` that nobody knows. Ages are
measured on the monotonic clock. Fetching is `fetch`'s and `flight`'s work, judging keys `keys`'.
"""

import logging
import math
import os
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from token_server.verify.errors import KeysUnavailableError
from token_server.verify.fetch import Fetcher, FetchError
from token_server.verify.flight import Flight
from token_server.verify.keys import KeySetError, StaticKeySet, VerificationKey
from token_server.verify.source import Document, KeySetSource

_log = logging.getLogger("token_server.verify")

_REFRESH_AT = 0.75  # of the age, and up to 0.05 later: not all processes at the same moment
_BACKOFF_S = 1.0  # after the first failure; doubled with each further one
_MAX_BACKOFF_S = 60.0
_MAX_RETRY_AFTER_S = 300
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


class _Held(NamedTuple):
    """The last good set, with instants of the monotonic clock."""

    keys: StaticKeySet
    document: Document
    fetched_at: float
    refresh_at: float
    expires_at: float
    stale_until: float


class RemoteKeySet:
    """Keys by discovery from `issuer`, or from `jwks_uri`. Safe for threads, tasks and forks."""

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
        self._fetching = fetching
        self._monotonic = monotonic
        self._held: _Held | None = None
        self._lock = threading.Lock()
        self._flight: Flight | None = None
        self._kids_waiting: set[str] = set()
        self._is_closed = False
        self._retry_at = float("-inf")
        self._next_kid_refetch_at = float("-inf")
        self._absent: dict[str, float] = {}
        self._fetches = self._not_modified = self._kid_refetches = 0
        self._failures = self._failures_in_a_row = 0
        _live_sets.add(self)

    def find(self, kid: str) -> VerificationKey | None:
        """A key of the set to verify with now; None when there is none, or a fetch to wait for."""
        held = self._held
        if held is not None and self._monotonic() < held.refresh_at:
            return held.keys.find(kid)
        keys = self.ready()
        return None if keys is None else keys.find(kid)

    def ready(self) -> StaticKeySet | None:
        """The set to verify with now, or None when there is a fetch to wait for first."""
        held = self._held
        if held is None:
            return None
        now = self._monotonic()
        if now < held.refresh_at:
            return held.keys
        flight = self._take_off(now)
        held = self._held or held  # a fetch may have landed meanwhile
        if now < held.expires_at:
            return held.keys
        # Out of age, with nobody to blame: the service was idle, so the issuer is asked first.
        # In an outage nobody waits: the last good set serves until it is too old.
        is_outage = flight is None or flight.is_overdue or self._failures_in_a_row > 0
        return held.keys if is_outage and now < held.stale_until else None

    def flight(self) -> Flight | None:
        """The fetch to wait for when nothing is `ready`; None while backing off."""
        return self._take_off(self._monotonic())

    def available(self) -> StaticKeySet:
        """The set after having waited; KeysUnavailableError when there is none or it is too old."""
        held = self._held
        now = self._monotonic()
        if held is not None and now < held.stale_until:
            return held.keys
        raise KeysUnavailableError(math.ceil(min(max(self._retry_at - now, 1), 60)))

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

    def close(self) -> None:
        """Begin no further fetch."""
        self._is_closed = True

    def stats(self) -> KeySetStats:
        """A snapshot for metrics and health pages."""
        held, now = self._held, self._monotonic()
        return KeySetStats(
            source=self._source.name,
            keys=0 if held is None else len(held.keys.kids),
            age_s=None if held is None else now - held.fetched_at,
            is_stale=held is not None and now >= held.expires_at,
            fetches=self._fetches,
            not_modified=self._not_modified,
            failures=self._failures,
            failures_in_a_row=self._failures_in_a_row,
            kid_refetches=self._kid_refetches,
            absent_kids=len(self._absent),
        )

    def reset_after_fork(self) -> None:
        """In the child the fetching thread is gone, and the lock may be held by nobody."""
        self._lock = threading.Lock()
        self._flight = None
        self._kids_waiting = set()

    def _take_off(self, now: float) -> Flight | None:
        """The fetch in the air, or a new one if one is due. Looked at again under the lock: of many
        who find an old set at once, the last may come when the new one is already there."""
        with self._lock:
            if self._flight is not None:
                return self._flight
            held = self._held
            return None if held is not None and now < held.refresh_at else self._launch(now)

    def _launch(self, now: float) -> Flight | None:
        """Start a fetch unless it is too early after a failure. The lock is held."""
        if now < self._retry_at or self._is_closed:
            return None
        # Discovery and keys; and some slack, so that the fetch itself says what went wrong.
        flight = Flight(2 * self._fetching.timeout_s + 1)
        self._kids_waiting = set()
        self._flight = flight
        try:
            flight.launch(self._fetch)
        except RuntimeError:  # no thread: at the limit, or the interpreter is ending
            self._flight = None
            self._note_failure("no thread can be started", None)
            return None
        return flight

    def _fetch(self) -> None:
        """In the flight's thread: one attempt, its outcome noted, nothing raised."""
        begun_at = self._monotonic()  # age counts from before the request: the safe side
        held = self._held
        outcome: _Held | None = None
        problem, retry_after_s = "", None
        try:
            document = self._source.fetch(None if held is None else held.document, begun_at)
            outcome = self._hold(document, held, begun_at)
        except FetchError as error:
            problem, retry_after_s = str(error), error.retry_after_s
        except KeySetError as error:
            problem = str(error)
        except Exception as error:  # noqa: BLE001 - a caller's own Fetcher; its words may be secret
            problem = type(error).__name__
        with self._lock:
            self._flight = None
            if outcome is None:
                self._note_failure(problem, retry_after_s)
            else:
                self._note_success(outcome)

    def _hold(self, document: Document, held: _Held | None, begun_at: float) -> _Held:
        if held is not None and held.document.body == document.body:
            keys = held.keys
        else:
            read = StaticKeySet.from_jwks(document.body)
            keys = read if held is None else read.sharing(held.keys)
        bounds = self._fetching
        said = bounds.default_age_s if document.max_age_s is None else document.max_age_s
        age_s = max(bounds.min_age_s, min(said, bounds.max_age_s))
        return _Held(
            keys=keys,
            document=document,
            fetched_at=begun_at,
            refresh_at=begun_at + age_s * (_REFRESH_AT + 0.05 * _jitter()),
            expires_at=begun_at + age_s,
            stale_until=begun_at + age_s + bounds.max_stale_s,
        )

    def _note_success(self, held: _Held) -> None:
        if self._failures_in_a_row:
            _log.warning("jwks_fetch_recovered failures=%d", self._failures_in_a_row)
        self._held = held
        self._fetches += 1
        self._not_modified += held.document.is_unchanged
        self._failures_in_a_row = 0
        self._retry_at = float("-inf")

    def _note_failure(self, problem: str, retry_after_s: int | None) -> None:
        self._failures += 1
        self._failures_in_a_row += 1
        now = self._monotonic()
        delay_s = min(_MAX_BACKOFF_S, _BACKOFF_S * 2.0 ** min(self._failures_in_a_row - 1, 10))
        delay_s *= 0.5 + 0.5 * _jitter()
        if retry_after_s is not None:
            delay_s = max(delay_s, min(retry_after_s, _MAX_RETRY_AFTER_S))
        self._retry_at = now + delay_s
        held = self._held
        _log.warning(
            "jwks_fetch_failed source=%s problem=%s failures=%d set_age_s=%s",
            self._source.name,
            problem,
            self._failures_in_a_row,
            "none" if held is None else int(now - held.fetched_at),
        )


def _jitter() -> float:
    """From 0 to 1. Not `random`: a fork would copy its state into all workers."""
    return int.from_bytes(os.urandom(2), "big") / 65536


# The one piece of module state: a fork has to reach every set that exists.
_live_sets: "weakref.WeakSet[RemoteKeySet]" = weakref.WeakSet()


def _reset_after_fork() -> None:
    for key_set in list(_live_sets):
        key_set.reset_after_fork()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_reset_after_fork)
