"""The verifier: one token in, typed claims or one TokenError out (RFC 9068 4, RFC 8725 3).

Order, cheapest first: size, form, header, key, signature, and only then the claims. One verifier
serves all threads and tasks: no call leaves anything behind that could change the next one's
outcome. What has to be fetched is waited for here, without blocking an event loop.
"""

import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Literal, NamedTuple, Self, TypeAlias

from token_server.verify.claims import Claims
from token_server.verify.compact import decode_segment, split_token
from token_server.verify.errors import KeysUnavailableError, TokenError
from token_server.verify.examine import Examiner, Trust
from token_server.verify.fetch import Fetcher
from token_server.verify.flight import Flight, MustWaitError
from token_server.verify.key_source import KeySource, LocalKeys
from token_server.verify.keys import StaticKeySet
from token_server.verify.policy import DEFAULT_POLICY, MAX_TOKEN_BYTES, Policy
from token_server.verify.remote import DEFAULT_FETCHING, Fetching, KeySetStats, RemoteKeySet
from token_server.verify.status import (
    DEFAULT_CHECKING,
    NoStatus,
    StatusChecking,
    StatusSource,
    StatusStats,
)
from token_server.verify.status_remote import RemoteStatusLists
from token_server.verify.strict import JsonObject, StrictnessError, decode_base64url

_log = logging.getLogger("token_server.verify")

Status: TypeAlias = StatusChecking | StatusSource | Literal["auto", "off"]
_CACHE_SIZE = 4096
_VARIABLES = "TOKEN_VERIFY_"


class VerifierStats(NamedTuple):
    """Counters since the start of the process; with several threads a count may get lost."""

    cache_hits: int
    cached_tokens: int
    refused: int
    key_sets: tuple[KeySetStats, ...]
    """One for each remote key set; none with local keys."""
    status: tuple[StatusStats, ...]
    """One for each issuer whose status lists are followed."""


class Verifier:
    """Verifies access tokens of one issuer, or of several that one may move between, for one
    audience. Without `keys` they are fetched at first use and kept fresh (see `Fetching`)."""

    def __init__(  # noqa: PLR0913 - all by keyword
        self,
        *,
        issuer: str | tuple[str, ...],
        audience: str,
        jwks_uri: str | None = None,
        keys: StaticKeySet | RemoteKeySet | None = None,
        policy: Policy = DEFAULT_POLICY,
        status: Status = "auto",
        cache_size: int = _CACHE_SIZE,
        fetching: Fetching = DEFAULT_FETCHING,
        fetcher: Fetcher | None = None,
        clock: Callable[[], float] = time.time,  # noqa: TID251 - stands alone: no Runtime here
    ) -> None:
        """`issuer` and `audience` are compared exactly; `clock` gives epoch seconds.

        Keys: by discovery from each issuer (RFC 8414), from `jwks_uri`, or as given in `keys`; the
        last two hold for all issuers. `status`: whether and how revocation is checked; "auto" does
        so as `StatusChecking()` where keys are fetched, too. `cache_size`: how many verified
        tokens are remembered, 0 for none. ValueError for a setting that cannot work.
        """
        issuers = (issuer,) if isinstance(issuer, str) else tuple(issuer)
        if not audience or not issuers or not all(issuers):
            raise ValueError("issuer and audience are non-empty strings")
        if keys is not None and jwks_uri is not None:
            raise ValueError("give keys or jwks_uri, not both")
        sources = _key_sources(issuers, keys, jwks_uri, fetching, fetcher)
        if status == "auto":
            status = "off" if isinstance(keys, StaticKeySet) else DEFAULT_CHECKING
        if isinstance(status, StatusChecking):
            compromised: dict[KeySource, set[str]] = {source: set() for source in sources}
            statuses: list[StatusSource] = [
                RemoteStatusLists(
                    issuer=name,
                    keys=source,
                    checking=status,
                    fetching=fetching,
                    fetcher=fetcher,
                    clock=clock,
                    skew_s=policy.iat_skew_s + policy.leeway_s,
                    compromised=compromised[source],
                )
                for name, source in zip(issuers, sources, strict=True)
            ]
        else:
            statuses = _given_statuses(status, len(issuers))
        self._sources = tuple(dict.fromkeys(sources))
        self._statuses = tuple(statuses)
        trusted = [Trust(*each) for each in zip(issuers, sources, statuses, strict=True)]
        self._examiner = Examiner(trusted, audience, policy, cache_size)
        self._clock = clock
        self._refused = 0

    @classmethod
    def from_environment(
        cls,
        environ: Mapping[str, str] = os.environ,
        *,
        policy: Policy = DEFAULT_POLICY,
        fetching: Fetching = DEFAULT_FETCHING,
    ) -> Self:
        """From TOKEN_VERIFY_ISSUER (several by comma), TOKEN_VERIFY_AUDIENCE, and, if the keys are
        not to be found by discovery, TOKEN_VERIFY_JWKS_URI. ValueError names what is wrong."""
        given = {
            name.removeprefix(_VARIABLES): value.strip()
            for name, value in environ.items()
            if name.startswith(_VARIABLES)
        }
        unknown = sorted(given.keys() - {"ISSUER", "AUDIENCE", "JWKS_URI"})
        if unknown:
            raise ValueError(f"unknown variable {_VARIABLES}{unknown[0]}")
        for name in ("ISSUER", "AUDIENCE"):
            if not given.get(name):
                raise ValueError(f"{_VARIABLES}{name} is not set")
        return cls(
            issuer=tuple(part.strip() for part in given["ISSUER"].split(",")),
            audience=given["AUDIENCE"],
            jwks_uri=given.get("JWKS_URI") or None,
            policy=policy,
            fetching=fetching,
        )

    async def verify(self, token: str) -> Claims:
        """The claims of a good token; raises TokenError for every other.

        Waits only when keys have to be fetched first, without blocking the asyncio loop;
        otherwise some 40 µs of CPU, or 3 when this token was verified before.
        """
        waited: tuple[object, ...] = ()
        while True:
            outcome = self._examine(token, waited)
            if isinstance(outcome, Claims):
                return outcome
            if isinstance(outcome, TokenError):
                raise outcome
            await outcome.flight.wait_async()
            waited += (outcome.source,)

    def verify_sync(self, token: str) -> Claims:
        """As `verify`, for threads. In a coroutine it works too, but a fetch blocks the loop."""
        waited: tuple[object, ...] = ()
        while True:
            outcome = self._examine(token, waited)
            if isinstance(outcome, Claims):
                return outcome
            if isinstance(outcome, TokenError):
                raise outcome
            outcome.flight.wait()
            waited += (outcome.source,)

    async def start(self) -> None:
        """Fetch the keys and the newest status list before the first request;
        KeysUnavailableError when they cannot be had. Not needed: a verifier that was not started
        fetches at first use."""
        for flight in self._starting():
            await flight.wait_async()

    def start_sync(self) -> None:
        """As `start`, for threads."""
        for flight in self._starting():
            flight.wait()

    def close(self) -> None:
        """Begin no further fetch. What is at hand serves on until it is too old."""
        for source in self._sources:
            source.close()
        for status in self._statuses:
            status.close()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __enter__(self) -> Self:
        self.start_sync()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def stats(self) -> VerifierStats:
        """A snapshot for metrics and health pages."""
        seen = [source.stats() for source in self._sources]
        followed = [status.stats() for status in self._statuses]
        return VerifierStats(
            cache_hits=self._examiner.hits,
            cached_tokens=self._examiner.cached_tokens,
            refused=self._refused,
            key_sets=tuple(stats for stats in seen if stats is not None),
            status=tuple(stats for stats in followed if stats is not None),
        )

    def _examine(
        self, token: str, waited: tuple[object, ...]
    ) -> Claims | TokenError | MustWaitError:
        """The claims, what to wait for, or the refusal: counted and logged. A fresh error, since
        the first one's traceback and context lead to the token's text."""
        try:
            return self._examiner.examine(token, self._clock(), waited)
        except MustWaitError as error:
            return MustWaitError(error.flight, error.source)
        except KeysUnavailableError as error:
            refusal: TokenError = type(error)(error.retry_after_s)
        except (TokenError, StrictnessError) as error:
            refusal = TokenError(error.reason)
        self._refused += 1
        _log.info("access_token_refused reason=%s", refusal.reason)
        return refusal

    def _starting(self) -> Iterator[Flight]:
        """What to wait for, all keys at once and then the lists."""
        flights = [source.flight() for source in self._sources if source.ready() is None]
        yield from (flight for flight in flights if flight is not None)
        for source in self._sources:
            source.available()
        for status in self._statuses:
            waited: tuple[object, ...] = ()
            while True:
                try:
                    status.poll(waited)
                    break
                except MustWaitError as error:
                    obstacle = error
                waited += (obstacle.source,)
                yield obstacle.flight


def _key_sources(
    issuers: tuple[str, ...],
    keys: StaticKeySet | RemoteKeySet | None,
    jwks_uri: str | None,
    fetching: Fetching,
    fetcher: Fetcher | None,
) -> list[KeySource]:
    """Of each issuer; one for all when they do not come by discovery."""
    if isinstance(keys, StaticKeySet):
        return [LocalKeys(keys)] * len(issuers)
    if keys is not None:
        return [keys] * len(issuers)
    if jwks_uri is not None:
        one = RemoteKeySet(issuer=issuers[0], jwks_uri=jwks_uri, fetching=fetching, fetcher=fetcher)
        return [one] * len(issuers)
    return [RemoteKeySet(issuer=name, fetching=fetching, fetcher=fetcher) for name in issuers]


def _given_statuses(status: StatusSource | str, issuers: int) -> list[StatusSource]:
    if isinstance(status, str):
        if status != "off":
            raise ValueError('status is "auto", "off" or a StatusChecking')
        return [NoStatus() for _ in range(issuers)]
    if issuers > 1:
        raise ValueError("one source of status is for one issuer")
    return [status]


def decode_unverified(token: str) -> tuple[JsonObject, JsonObject]:
    """Header and claims of a token that NOBODY has checked: to look at, never to decide by.

    Bounded and strict as verification is; raises TokenError when the token cannot be read.
    """
    try:
        header, payload, signature, _ = split_token(token, MAX_TOKEN_BYTES)
        decode_base64url(signature)
        return decode_segment(header), decode_segment(payload)
    except (TokenError, StrictnessError) as error:
        reason = error.reason
    raise TokenError(reason)
