"""Counters and histograms of one runtime, in the Prometheus text format.

Label values come from our own closed lists (grants, outcomes, routes), never from a request: a
stranger must not be able to grow the registry, so anything beyond a bound counts as "other".
With several workers (PROMETHEUS_MULTIPROC_DIR, set by web/supervisor.py before the first
import) values live in files, and one scrape of any worker counts them all.
"""

import itertools
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Generic, TypeVar

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
    multiprocess,
)

from token_server.records import KeyState

C = TypeVar("C")

disable_created_metrics()  # type: ignore[no-untyped-call]  # doubles the series, tells nothing

MULTIPROCESS_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
MAX_LABEL_SETS = 128
REFRESH_OUTCOMES = (
    "rotated",
    "replayed",
    "reuse_revoked",
    "expired",
    "refused",
    "contended",
    "shadowed",
)
FORWARD_AUTH_OUTCOMES = (
    "passed",
    "no_credentials",
    "invalid_request",
    "invalid_token",
    "insufficient_scope",
    "misconfigured",
    "unavailable",
)
GUESS_DOORS = (
    "password_grant",
    "login",
    "change_password",
    "reauthentication",
    "registration",
    "client_secret",
    "api_key",
)
GUESS_OUTCOMES = ("admitted", "throttled", "failed", "forgiven", "returned")
KEY_STORE_OPERATIONS = ("read", "write")
DATABASE_OPERATIONS = ("read", "write")
DATABASE_FAILURES = ("storage_unavailable", "storage_busy", "storage_conflict")
TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
CONNECTION_REFUSALS = (
    "connections_full",
    "source_full",
    "requests_full",
    "head_too_slow",
    "body_too_slow",
    "reader_too_slow",
    "malformed",
)
HASH_REFUSALS = ("queue_full", "share_taken", "client_gone", "shutting_down")
LAG_SECONDS = (0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 1.0)
HASH_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


class _Children(Generic[C]):
    """The children of one metric by label values, bound once; at most MAX_LABEL_SETS."""

    def __init__(self, bind: Callable[..., C], known: Iterable[tuple[str, ...]]) -> None:
        self._bind = bind
        self._children = {labels: bind(*labels) for labels in known}

    def get(self, *labels: str) -> C:
        child = self._children.get(labels)
        if child is None:
            if len(self._children) >= MAX_LABEL_SETS:
                labels = ("other",) * len(labels)
            child = self._children[labels] = self._bind(*labels)
        return child


class Metrics:
    """Everything that is counted. Each method is one event, or one new value of a gauge."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._is_multiprocess = MULTIPROCESS_VARIABLE in os.environ
        if not self._is_multiprocess:
            ProcessCollector(registry=self._registry)
        self._bind_token_metrics()
        self._bind_process_metrics()
        self._bind_database_metrics()
        self._bind_key_metrics()

    def _bind_token_metrics(self) -> None:
        requests = Counter(
            "token_server_token_requests",
            "Requests at the token endpoint; outcome is issued, replayed or the error code.",
            ("grant", "outcome"),
            registry=self._registry,
        )
        self._token_requests = _Children[Counter](requests.labels, ())
        durations = Histogram(
            "token_server_token_request_duration_seconds",
            "From the whole request read to the answer ready.",
            ("grant",),
            registry=self._registry,
            buckets=TOKEN_SECONDS,
        )
        self._token_durations = _Children[Histogram](durations.labels, ())
        refresh = Counter(
            "token_server_refresh",
            "Refresh tokens presented.",
            ("outcome",),
            registry=self._registry,
        )
        self._refresh = _Children[Counter](refresh.labels, ((name,) for name in REFRESH_OUTCOMES))
        guesses = Counter(
            "token_server_guesses",
            "Passwords to be checked, wrong client secrets and API keys, by door and outcome.",
            ("door", "outcome"),
            registry=self._registry,
        )
        self._guesses = _Children[Counter](
            guesses.labels, itertools.product(GUESS_DOORS, GUESS_OUTCOMES)
        )
        self._guess_alarm = Gauge(
            "token_server_guess_alarm",
            "1 while failed guesses are so many that somebody seems to be guessing.",
            registry=self._registry,
            multiprocess_mode="livemax",
        )
        revocations = Counter(
            "token_server_revocations",
            "Tokens given back at the revocation endpoint, and what became of them.",
            ("outcome",),
            registry=self._registry,
        )
        self._revocations = _Children[Counter](revocations.labels, ())
        introspections = Counter(
            "token_server_introspections",
            "Tokens asked about at the introspection endpoint.",
            ("outcome",),
            registry=self._registry,
        )
        self._introspections = _Children[Counter](introspections.labels, ())
        forward_auths = Counter(
            "token_server_forward_auths",
            "Requests that a proxy asked about: passed, or why not.",
            ("outcome",),
            registry=self._registry,
        )
        self._forward_auths = _Children[Counter](
            forward_auths.labels, ((name,) for name in FORWARD_AUTH_OUTCOMES)
        )

    def _bind_process_metrics(self) -> None:
        http = Counter(
            "token_server_http_requests",
            "Answers by route and class of status.",
            ("route", "status"),
            registry=self._registry,
        )
        self._http = _Children[Counter](http.labels, ())
        self._connections = Gauge(
            "token_server_connections",
            "Open connections to the public port.",
            registry=self._registry,
            multiprocess_mode="livesum",
        )
        refused = Counter(
            "token_server_connections_refused",
            "Connections turned away or cut off: too many, too slow, or no HTTP.",
            ("reason",),
            registry=self._registry,
        )
        self._connections_refused = _Children[Counter](
            refused.labels, ((name,) for name in CONNECTION_REFUSALS)
        )
        self._hash_queue = Gauge(
            "token_server_password_hash_queue",
            "Password hashes waiting for a slot.",
            registry=self._registry,
            multiprocess_mode="livesum",
        )
        self._hash_durations = Histogram(
            "token_server_password_hash_duration_seconds",
            "One password hash, without the wait for a slot.",
            registry=self._registry,
            buckets=HASH_SECONDS,
        )
        self._hash_waits = Histogram(
            "token_server_password_hash_wait_seconds",
            "The wait of one password hash for a slot.",
            registry=self._registry,
            buckets=HASH_SECONDS,
        )
        refusals = Counter(
            "token_server_password_hash_refused",
            "Password hashes that were not made: no place, or nobody there to answer.",
            ("reason",),
            registry=self._registry,
        )
        self._hash_refusals = _Children[Counter](
            refusals.labels, ((name,) for name in HASH_REFUSALS)
        )
        self._loop_lag = Histogram(
            "token_server_event_loop_lag_seconds",
            "How late a timer of the event loop came, ten times a second.",
            registry=self._registry,
            buckets=LAG_SECONDS,
        )
        self._clock_behind = Gauge(
            "token_server_clock_behind_seconds",
            "How far the wall clock stands before where it has been.",
            registry=self._registry,
            multiprocess_mode="livemax",
        )
        self._audit_dropped = Counter(
            "token_server_audit_events_dropped",
            "Audit events that could not be stored; the log has them.",
            registry=self._registry,
        )

    def _bind_database_metrics(self) -> None:
        available = Gauge(
            "token_server_database_available",
            "1 while the database answers, 0 while it does not; of several workers the worst.",
            ("operation",),
            registry=self._registry,
            multiprocess_mode="livemin",
        )
        self._database_available = _Children[Gauge](
            available.labels, ((name,) for name in DATABASE_OPERATIONS)
        )
        failures = Counter(
            "token_server_database_failures",
            "Uses of the database that failed because it was away, busy, or in conflict.",
            ("operation", "reason"),
            registry=self._registry,
        )
        self._database_failures = _Children[Counter](
            failures.labels,
            ((one, why) for one in DATABASE_OPERATIONS for why in DATABASE_FAILURES),
        )

    def _bind_key_metrics(self) -> None:
        keys = Gauge(
            "token_server_signing_keys",
            "Signing keys by state.",
            ("state",),
            registry=self._registry,
            multiprocess_mode="livemax",
        )
        self._signing_keys = _Children[Gauge](keys.labels, ((state,) for state in KeyState))
        self._keyring_generation = Gauge(
            "token_server_keyring_generation",
            "How often the signing keys were changed; of several workers the one that is behind.",
            registry=self._registry,
            multiprocess_mode="livemin",
        )
        self._keyring_age = Gauge(
            "token_server_keyring_age_seconds",
            "Since the signing keys in memory were last confirmed by the key store.",
            registry=self._registry,
            multiprocess_mode="livemax",
        )
        self._key_rotation_due = Gauge(
            "token_server_key_rotation_due_seconds",
            "Until the key that signs is to be replaced; negative once that is overdue.",
            registry=self._registry,
            multiprocess_mode="livemin",
        )
        problems = Counter(
            "token_server_key_store_problems",
            "Attempts to read or write the key store that failed.",
            ("operation",),
            registry=self._registry,
        )
        self._key_store_problems = _Children[Counter](
            problems.labels, ((name,) for name in KEY_STORE_OPERATIONS)
        )

    def token_requests(self, grant: str, outcome: str) -> None:
        """One answered token request; `grant` from the registry of grants or "unknown"."""
        self._token_requests.get(grant, outcome).inc()

    def token_request_duration(self, grant: str, seconds: float) -> None:
        self._token_durations.get(grant).observe(seconds)

    def refresh(self, outcome: str) -> None:
        """One presented refresh token; `outcome` is one of REFRESH_OUTCOMES."""
        self._refresh.get(outcome).inc()

    def guess(self, door: str, outcome: str) -> None:
        """One guess at a door of GUESS_DOORS: admitted or throttled; after an admitted one failed,
        forgiven (it was right) or returned (nobody looked at it)."""
        self._guesses.get(door, outcome).inc()

    def guess_alarm(self, is_raised: bool) -> None:
        self._guess_alarm.set(int(is_raised))

    def revocation(self, outcome: str) -> None:
        """One token given back: revoked, or why that changed nothing (services/revocation.py)."""
        self._revocations.get(outcome).inc()

    def introspection(self, outcome: str) -> None:
        """One token asked about: active or inactive."""
        self._introspections.get(outcome).inc()

    def forward_auth(self, outcome: str) -> None:
        """One request that a proxy asked about; `outcome` is one of FORWARD_AUTH_OUTCOMES."""
        self._forward_auths.get(outcome).inc()

    def http_requests(self, route: str, status: int) -> None:
        """One answer; `route` is the template it matched, never the path as sent."""
        self._http.get(route, f"{status // 100}xx").inc()

    def connections(self, count: int) -> None:
        self._connections.set(count)

    def connection_refused(self, reason: str) -> None:
        """One of CONNECTION_REFUSALS."""
        self._connections_refused.get(reason).inc()

    def hash_queue(self, depth: int) -> None:
        self._hash_queue.set(depth)

    def hash_duration(self, seconds: float) -> None:
        self._hash_durations.observe(seconds)

    def hash_wait(self, seconds: float) -> None:
        self._hash_waits.observe(seconds)

    def hash_refused(self, reason: str) -> None:
        """One hash that was not made; `reason` is one of HASH_REFUSALS."""
        self._hash_refusals.get(reason).inc()

    def loop_lag(self, seconds: float) -> None:
        self._loop_lag.observe(seconds)

    def clock_behind(self, seconds: float) -> None:
        self._clock_behind.set(seconds)

    def signing_keys(self, counts: Mapping[KeyState, int]) -> None:
        """How many keys are in each state; a state that is not named has none."""
        for state in KeyState:
            self._signing_keys.get(state).set(counts.get(state, 0))

    def keyring(self, generation: int, age_s: float) -> None:
        """The keyring in memory, and since when it is not confirmed."""
        self._keyring_generation.set(generation)
        self._keyring_age.set(age_s)

    def key_rotation_due(self, seconds: int) -> None:
        self._key_rotation_due.set(seconds)

    def key_store_problem(self, operation: str) -> None:
        """One failure; `operation` is one of KEY_STORE_OPERATIONS."""
        self._key_store_problems.get(operation).inc()

    def database_available(self, operation: str, *, is_available: bool) -> None:
        """`operation` is one of DATABASE_OPERATIONS."""
        self._database_available.get(operation).set(1 if is_available else 0)

    def database_failure(self, operation: str, reason: str) -> None:
        """One use that failed; `reason` is one of DATABASE_FAILURES."""
        self._database_failures.get(operation, reason).inc()

    def audit_dropped(self, count: int = 1) -> None:
        self._audit_dropped.inc(count)

    def render(self) -> tuple[bytes, str]:
        """The body of one scrape and its content type."""
        registry = self._registry
        if self._is_multiprocess:
            registry = CollectorRegistry()
            multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return generate_latest(registry), CONTENT_TYPE_LATEST
