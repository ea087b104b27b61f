"""TokenSource: one access token for all callers, fetched once and kept fresh (RFC 6749 4.4, 6).

Decides when to fetch: before it expires, in the background; one request however many threads and
tasks wait; after a failure not before the back-off is over, and meanwhile the old token as long
as it lives. What a request is and what its answer means is `endpoint`'s business.
"""

import asyncio
import logging
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TypeAlias

from token_server.client.endpoint import (
    AuthMethod,
    ClientIdentity,
    TokenEndpoint,
    TokenResponse,
    url_problem,
)
from token_server.client.errors import SessionEndedError, TokenSourceError, TokenUnavailableError
from token_server.client.pace import Pace, jittered
from token_server.client.session import RefreshSession

_log = logging.getLogger("token_server.client")

_AHEAD_S = 120  # refreshed so long before the end, or in the last quarter of a short life
_MARGIN_S = 5  # not handed out any more: the request that carries it takes time, too
_INVALIDATE_EVERY_S = 10
_PATIENCE = 6  # timeouts that a caller waits for a fetch, which has three attempts


@dataclass(frozen=True, slots=True)
class _Held:
    """A fetched token, with instants of the monotonic clock."""

    token: str = field(repr=False)
    refresh_at: float
    usable_until: float
    expires_at: float


_Outcome: TypeAlias = _Held | TokenSourceError
_Flight: TypeAlias = "Future[_Outcome]"


class TokenSource:
    """Access tokens of one client for one purpose (scope, resource). Serves all threads and all
    asyncio tasks of a process; make one at the start and keep it."""

    def __init__(  # noqa: PLR0913 - named settings, most with a default
        self,
        *,
        client_id: str,
        issuer: str | None = None,
        token_endpoint: str | None = None,
        client_secret: str | Callable[[], str] | None = None,
        auth_method: AuthMethod = "client_secret_basic",
        refresh_token: str | None = None,
        on_refresh_token: Callable[[str], None] | None = None,
        scope: str | None = None,
        resource: str | None = None,
        timeout_s: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Client credentials, or with `refresh_token` a user's session. Asks for nothing yet.

        Exactly one of `issuer` (its metadata is asked, RFC 8414) and `token_endpoint`.
        `client_secret` may be a function that reads it, called for each request.
        `on_refresh_token` must store each new refresh token durably before it returns; it is
        called in another thread, before the access token that came with it is handed out.
        `scope` and `resource` (RFC 8707) as the client is registered when left out.
        `timeout_s` is for each wait on the network. Raises ValueError.
        """
        _check_settings(issuer, token_endpoint, client_id, timeout_s)
        if refresh_token is None and client_secret is None:
            raise ValueError("client credentials need a client_secret")
        if (refresh_token is None) != (on_refresh_token is None):
            # A refresh token is spent by its use: without its successor the session is lost.
            raise ValueError("refresh_token and on_refresh_token go together")
        self.client_id = client_id
        self.resource = resource
        read_secret = _reader(client_secret)
        self._endpoint = TokenEndpoint(
            issuer or token_endpoint or "",
            ClientIdentity(client_id, read_secret, auth_method),
            timeout_s,
            is_issuer=issuer is not None,
        )
        wanted = {"scope": scope, "resource": resource}
        self._wanted = {name: value for name, value in wanted.items() if value is not None}
        self._session = None
        if refresh_token is not None and on_refresh_token is not None:
            self._session = RefreshSession(refresh_token, on_refresh_token)
        self._patience_s = timeout_s * _PATIENCE
        self._clock = clock
        self._sleep = sleep
        self._lock = threading.Lock()
        self._held: _Held | None = None
        self._flight: _Flight | None = None
        self._pace = Pace()
        self._ended: SessionEndedError | None = None
        self._invalidated_at = float("-inf")
        _sources.add(self)

    def __repr__(self) -> str:
        grant = "client_credentials" if self._session is None else "refresh_token"
        return f"TokenSource(client_id={self.client_id!r}, grant={grant!r})"

    def get_token(self) -> str:
        """An access token that is still good for some seconds; blocks only while there is none.

        Raises TokenUnavailableError, TokenRefusedError, SessionEndedError or
        RefreshTokenNotStoredError; while the back-off after one of them lasts, at once.
        """
        step = self._next()
        if isinstance(step, str):
            return step
        try:
            outcome = step.result(self._patience_s)
        except TimeoutError:
            outcome = None
        return self._settle(outcome)

    async def aget_token(self) -> str:
        """As `get_token`, without blocking the event loop (asyncio). A caller that is cancelled
        takes nobody else's fetch with it."""
        step = self._next()
        if isinstance(step, str):
            return step
        # It is running, so cancelling it here is without effect there.
        landing = asyncio.wrap_future(step)
        done, _ = await asyncio.wait({landing}, timeout=self._patience_s)
        return self._settle(landing.result() if done else None)

    def invalidate(self, token: str) -> bool:
        """Say that a service refused this token with 401; whether another try makes sense.

        The next call gets another token. At most one token per 10 seconds is given up this way:
        a service that refuses all tokens must not make every request of ours two requests.
        """
        with self._lock:
            if self._held is None or self._held.token != token:
                return True  # somebody was faster, and there is another one already
            now = self._clock()
            if now < self._invalidated_at + _INVALIDATE_EVERY_S:
                return False
            self._invalidated_at = now
            self._held = None
        _log.info("access_token_invalidated client_id=%s", self.client_id)
        return True

    def _next(self) -> "str | _Flight":
        """A token for now, or the fetch to wait for; raises when there is neither."""
        now = self._clock()
        held = self._held
        if held is not None and now < held.refresh_at:
            return held.token
        with self._lock:
            if self._ended is not None:
                raise self._ended.again()
            held = self._held
            if held is not None and now < held.refresh_at:
                return held.token
            flight = self._flight
            if flight is None and self._pace.may_try(now):
                flight = self._flight = Future()
                flight.set_running_or_notify_cancel()
                self._start(flight)
            if held is not None:
                # While nobody is fetching, its last seconds are better than nothing.
                good_until = held.expires_at if flight is None else held.usable_until
                if now < good_until:
                    return held.token
            if flight is None:
                raise self._pace.failure(now)
            return flight

    def _settle(self, outcome: _Outcome | None) -> str:
        """The token of a fetch that is over; after a failed one the old token while it lives."""
        if isinstance(outcome, _Held):
            return outcome.token
        held = self._held
        if held is not None and self._clock() < held.expires_at:
            return held.token
        if outcome is None:
            raise TokenUnavailableError("the token request takes too long")
        raise outcome.again()

    def _start(self, flight: _Flight) -> None:
        """A thread of its own: it outlives a cancelled task, and the process waits for its end,
        since a refresh token that was spent but not stored is a lost session."""
        thread = threading.Thread(target=self._fly, args=(flight,), name="token-source")
        try:
            thread.start()
        except RuntimeError:  # no more threads, or the interpreter is about to end
            self._flight = None
            flight.set_result(TokenUnavailableError("no thread to ask for a token"))

    def _fly(self, flight: _Flight) -> None:
        outcome: _Outcome = TokenUnavailableError("the token request failed unexpectedly")
        try:
            outcome = self._fetch()
        except TokenSourceError as error:
            outcome = error.again()  # without its traceback, whose frames know the secret
        finally:  # whatever happens, nobody waits in vain
            with self._lock:
                self._land(outcome)
            flight.set_result(outcome)

    def _land(self, outcome: _Outcome) -> None:
        self._flight = None
        if isinstance(outcome, _Held):
            self._held = outcome
            self._pace = Pace()
            _log.info("access_token_fetched client_id=%s", self.client_id)
            return
        if isinstance(outcome, SessionEndedError):
            self._ended, self._held = outcome, None
        pause_s = self._pace.note_failure(outcome, self._clock())
        _log.warning(
            "access_token_fetch_failed client_id=%s problem=%s retry_after_s=%.0f",
            self.client_id,
            outcome,
            pause_s,
        )

    def _fetch(self) -> _Held:
        """Ask the endpoint, a second and third time when the answer got lost: a refresh token
        whose answer was lost is answered again for some seconds only."""
        if self._session is not None:
            self._session.store()
        attempt = 1
        while True:
            asked_at = self._clock()
            try:
                return self._take(self._endpoint.request(self._form()), asked_at)
            except TokenUnavailableError as error:
                attempt += 1
                pause_s = Pace.before_attempt(attempt, error)
                if pause_s is None:
                    raise
            self._sleep(pause_s)

    def _take(self, response: TokenResponse, asked_at: float) -> _Held:
        """First the refresh token is stored, then the access token may be used."""
        if self._session is not None:
            self._session.note(response)
        return _held(response, asked_at)

    def _form(self) -> dict[str, str]:
        if self._session is None:
            return {"grant_type": "client_credentials", **self._wanted}
        token = self._session.refresh_token
        return {"grant_type": "refresh_token", "refresh_token": token, **self._wanted}

    def _after_fork(self) -> None:
        """In a child: its parent's threads are not here. A held token is as good as before, but a
        refresh token has one holder: two of them would end the session."""
        self._lock = threading.Lock()
        self._flight = None
        if self._session is not None:
            self._ended = SessionEndedError(
                "the process was forked: a refresh token serves one process, make the source there"
            )
            self._held = None


def _held(response: TokenResponse, asked_at: float) -> _Held:
    """Counted from the question: how long the answer took is unknown to the server."""
    life_s = response.expires_in_s
    expires_at = asked_at + life_s
    ahead_s = jittered(min(_AHEAD_S, life_s / 4))
    return _Held(
        token=response.access_token,
        refresh_at=expires_at - ahead_s,
        usable_until=expires_at - min(_MARGIN_S, life_s / 10),
        expires_at=expires_at,
    )


def _reader(secret: str | Callable[[], str] | None) -> Callable[[], str] | None:
    """A function hides the secret from `repr` and from whoever dumps our attributes."""
    if not isinstance(secret, str):
        return secret
    return lambda: secret


def _check_settings(
    issuer: str | None, token_endpoint: str | None, client_id: str, timeout_s: float
) -> None:
    if (issuer is None) == (token_endpoint is None):
        raise ValueError("give either issuer or token_endpoint")
    name, url = ("issuer", issuer) if issuer is not None else ("token_endpoint", token_endpoint)
    problem = url_problem(url or "")
    if problem is not None:
        raise ValueError(f"{name} is {problem}")
    if not client_id:
        raise ValueError("client_id is empty")
    if not 0 < timeout_s <= 300:
        raise ValueError("timeout_s is more than 0 and at most 300")


# The one thing that is known of all sources: after a fork, their locks may be held by nobody.
_sources: "weakref.WeakSet[TokenSource]" = weakref.WeakSet()


def _after_fork() -> None:
    for source in list(_sources):
        source._after_fork()


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_after_fork)
