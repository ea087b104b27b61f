"""One published document, fetched when needed and kept fresh: keys, status lists, lists of lists.

Decides when to fetch and which document holds: ahead of its age in the background, the last good
one through an outage up to a limit. Ages are measured on the monotonic clock. What a document means
and who may wait for it is the subclasses' business, fetching `fetch`'s and `flight`'s.
"""

import logging
import math
import os
import threading
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

from token_server.verify.errors import KeysUnavailableError
from token_server.verify.fetch import FetchError
from token_server.verify.flight import Flight
from token_server.verify.source import Document

_log = logging.getLogger("token_server.verify")

_REFRESH_AT = 0.75  # of the age, and up to 0.05 later: not all processes at the same moment
_BACKOFF_S = 1.0  # after the first failure; doubled with each further one
_MAX_RETRY_AFTER_S = 300

T = TypeVar("T")


class Held(NamedTuple, Generic[T]):
    """The last good document and what it says, with instants of the monotonic clock."""

    value: T
    document: Document
    fetched_at: float
    refresh_at: float
    expires_at: float
    stale_until: float


def held(value: T, document: Document, begun_at: float, *, age_s: float, stale_s: float) -> Held[T]:
    """Fresh for `age_s` from `begun_at` on, and good for `stale_s` more in an outage."""
    return Held(
        value=value,
        document=document,
        fetched_at=begun_at,
        refresh_at=begun_at + age_s * (_REFRESH_AT + 0.05 * _jitter()),
        expires_at=begun_at + age_s,
        stale_until=begun_at + age_s + stale_s,
    )


class Refreshed(ABC, Generic[T]):
    """Asked in this order: `ready`; if that is None, wait for `flight`, then `available`. Safe for
    threads, tasks and forks."""

    _kind: ClassVar[str]
    """What it is called in the log."""
    _max_backoff_s: ClassVar[float]

    def __init__(self, name: str, patience_s: float, monotonic: Callable[[], float]) -> None:
        self._name = name
        self._patience_s = patience_s
        self._monotonic = monotonic
        self._held: Held[T] | None = None
        self._lock = threading.Lock()
        self._flight: Flight | None = None
        self._is_closed = False
        self._retry_at = float("-inf")
        self._fetches = self._not_modified = self._failures = self._failures_in_a_row = 0
        _live.add(self)

    @abstractmethod
    def _load(self, known: Held[T] | None, begun_at: float) -> Held[T]:
        """One attempt, in the flight's thread. FetchError when nothing usable came."""

    @abstractmethod
    def _unavailable(self, retry_after_s: int) -> KeysUnavailableError:
        """Why a token is refused that cannot be judged without this document."""

    @property
    def refresh_at(self) -> float:
        """Until then what is held is good without another look."""
        known = self._held
        return float("-inf") if known is None else known.refresh_at

    def age_s(self) -> float | None:
        """Since the last successful fetch; None before the first."""
        known = self._held
        return None if known is None else self._monotonic() - known.fetched_at

    def counts(self) -> tuple[int, int]:
        """Attempts that brought an answer, and those that did not."""
        return self._fetches, self._failures

    def ready(self) -> T | None:
        """What to judge by now, or None when there is a fetch to wait for first."""
        known = self._held
        if known is None:
            return None
        now = self._monotonic()
        if now < known.refresh_at:
            return known.value
        flight = self._take_off(now)
        known = self._held or known  # a fetch may have landed meanwhile
        if now < known.expires_at:
            return known.value
        # Out of age, with nobody to blame: the service was idle, so the issuer is asked first.
        # In an outage nobody waits: the last good document serves until it is too old.
        is_outage = flight is None or flight.is_overdue or self._failures_in_a_row > 0
        return known.value if is_outage and now < known.stale_until else None

    def flight(self) -> Flight | None:
        """The fetch to wait for when nothing is `ready`; None while backing off."""
        return self._take_off(self._monotonic())

    def available(self) -> T:
        """What there is after having waited; raises when there is nothing, or it is too old."""
        known = self._held
        now = self._monotonic()
        if known is not None and now < known.stale_until:
            return known.value
        raise self._unavailable(math.ceil(min(max(self._retry_at - now, 1), 60)))

    def close(self) -> None:
        """Begin no further fetch."""
        self._is_closed = True

    def reset_after_fork(self) -> None:
        """In the child the fetching thread is gone, and the lock may be held by nobody."""
        self._lock = threading.Lock()
        self._flight = None

    def _take_off(self, now: float) -> Flight | None:
        """The fetch in the air, or a new one if one is due. Looked at again under the lock: of many
        who find an old document at once, the last may come when the new one is already there."""
        with self._lock:
            if self._flight is not None:
                return self._flight
            known = self._held
            return None if known is not None and now < known.refresh_at else self._launch(now)

    def _launch(self, now: float) -> Flight | None:
        """Start a fetch unless it is too early after a failure. The lock is held."""
        if now < self._retry_at or self._is_closed:
            return None
        flight = Flight(self._patience_s)
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
        outcome: Held[T] | None = None
        problem, retry_after_s = "", None
        try:
            outcome = self._load(self._held, begun_at)
        except FetchError as error:
            problem, retry_after_s = str(error), error.retry_after_s
        except Exception as error:  # noqa: BLE001 - a caller's own Fetcher; its words may be secret
            problem = type(error).__name__
        with self._lock:
            self._flight = None
            if outcome is None:
                self._note_failure(problem, retry_after_s)
            else:
                self._note_success(outcome)

    def _note_success(self, outcome: Held[T]) -> None:
        if self._failures_in_a_row:
            _log.warning("%s_fetch_recovered failures=%d", self._kind, self._failures_in_a_row)
        self._held = outcome
        self._fetches += 1
        self._not_modified += outcome.document.is_unchanged
        self._failures_in_a_row = 0
        self._retry_at = float("-inf")

    def _note_failure(self, problem: str, retry_after_s: int | None) -> None:
        self._failures += 1
        self._failures_in_a_row += 1
        now = self._monotonic()
        delay_s = _BACKOFF_S * 2.0 ** min(self._failures_in_a_row - 1, 10)
        delay_s = min(self._max_backoff_s, delay_s) * (0.5 + 0.5 * _jitter())
        if retry_after_s is not None:
            delay_s = max(delay_s, min(retry_after_s, _MAX_RETRY_AFTER_S))
        self._retry_at = now + delay_s
        known = self._held
        _log.warning(
            "%s_fetch_failed source=%s problem=%s failures=%d set_age_s=%s",
            self._kind,
            self._name,
            problem,
            self._failures_in_a_row,
            "none" if known is None else int(now - known.fetched_at),
        )


def _jitter() -> float:
    """From 0 to 1. Not `random`: a fork would copy its state into all workers."""
    return int.from_bytes(os.urandom(2), "big") / 65536


# The one piece of module state: a fork has to reach every document that is kept.
_live: "weakref.WeakSet[Refreshed[Any]]" = weakref.WeakSet()


def _reset_after_fork() -> None:
    for kept in list(_live):
        kept.reset_after_fork()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_reset_after_fork)
