"""The verifier: one token in, typed claims or one TokenError out (RFC 9068 4, RFC 8725 3).

Order, cheapest first: size, form, header, key, signature, and only then the claims. One verifier
serves all threads and tasks: no call leaves anything behind that could change the next one's
outcome. What has to be fetched is waited for here, without blocking an event loop.
"""

import logging
import os
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import NamedTuple, Self, TypeAlias, overload

from token_server.verify.claims import Claims
from token_server.verify.compact import decode_segment, split_token
from token_server.verify.errors import KeysUnavailableError, TokenError
from token_server.verify.examine import Examiner, MustWaitError, Trust
from token_server.verify.fetch import Fetcher
from token_server.verify.flight import Flight
from token_server.verify.key_source import KeySource, LocalKeys
from token_server.verify.keys import StaticKeySet
from token_server.verify.policy import DEFAULT_POLICY, MAX_TOKEN_BYTES, Policy
from token_server.verify.remote import DEFAULT_FETCHING, Fetching, KeySetStats, RemoteKeySet
from token_server.verify.strict import JsonObject, StrictnessError, decode_base64url

_log = logging.getLogger("token_server.verify")

_Obstacle: TypeAlias = MustWaitError | TokenError | StrictnessError
_CACHE_SIZE = 4096
_VARIABLES = "TOKEN_VERIFY_"


class VerifierStats(NamedTuple):
    """Counters since the start of the process; with several threads a count may get lost."""

    cache_hits: int
    cached_tokens: int
    refused: int
    key_sets: tuple[KeySetStats, ...]
    """One for each remote key set; none with local keys."""


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
        cache_size: int = _CACHE_SIZE,
        fetching: Fetching = DEFAULT_FETCHING,
        fetcher: Fetcher | None = None,
        clock: Callable[[], float] = time.time,  # noqa: TID251 - stands alone: no Runtime here
    ) -> None:
        """`issuer` and `audience` are compared exactly; `clock` gives epoch seconds.

        Keys: by discovery from each issuer (RFC 8414), from `jwks_uri`, or as given in `keys`; the
        last two hold for all issuers. `cache_size`: how many verified tokens are remembered, 0 for
        none. ValueError for a setting that cannot work.
        """
        issuers = (issuer,) if isinstance(issuer, str) else tuple(issuer)
        if not audience or not issuers or not all(issuers):
            raise ValueError("issuer and audience are non-empty strings")
        if keys is not None and jwks_uri is not None:
            raise ValueError("give keys or jwks_uri, not both")
        sources: list[KeySource] = []
        for name in issuers:
            if isinstance(keys, StaticKeySet):
                sources.append(LocalKeys(keys))
            elif keys is not None:
                sources.append(keys)
            elif jwks_uri is not None and sources:
                sources.append(sources[0])
            else:
                sources.append(
                    RemoteKeySet(issuer=name, jwks_uri=jwks_uri, fetching=fetching, fetcher=fetcher)
                )
        self._sources = tuple(dict.fromkeys(sources))
        trusted = [Trust(*pair) for pair in zip(issuers, sources, strict=True)]
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
        try:
            return self._examiner.examine(token, self._clock(), False)
        except (MustWaitError, TokenError, StrictnessError) as error:
            outcome = self._settle(error)
        if isinstance(outcome, TokenError):
            raise outcome
        await outcome.wait_async()
        return self._verify_again(token)

    def verify_sync(self, token: str) -> Claims:
        """As `verify`, for threads. In a coroutine it works too, but a fetch blocks the loop."""
        try:
            return self._examiner.examine(token, self._clock(), False)
        except (MustWaitError, TokenError, StrictnessError) as error:
            outcome = self._settle(error)
        # Outside, so that the error is a fresh one: the first one's traceback and context lead to
        # the token's text.
        if isinstance(outcome, TokenError):
            raise outcome
        outcome.wait()
        return self._verify_again(token)

    async def start(self) -> None:
        """Fetch the keys before the first request; KeysUnavailableError when they cannot be had.
        Not needed: a verifier that was not started fetches at first use."""
        flights = [self._flight(source) for source in self._sources]
        for flight in flights:
            if flight is not None:
                await flight.wait_async()
        self._require_keys()

    def start_sync(self) -> None:
        """As `start`, for threads."""
        flights = [self._flight(source) for source in self._sources]
        for flight in flights:
            if flight is not None:
                flight.wait()
        self._require_keys()

    def close(self) -> None:
        """Begin no further fetch. The keys at hand serve on until they are too old."""
        for source in self._sources:
            source.close()

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
        return VerifierStats(
            cache_hits=self._examiner.hits,
            cached_tokens=self._examiner.cached_tokens,
            refused=self._refused,
            key_sets=tuple(stats for stats in seen if stats is not None),
        )

    def _verify_again(self, token: str) -> Claims:
        """After having waited: nothing is waited for twice."""
        try:
            return self._examiner.examine(token, self._clock(), True)
        except (TokenError, StrictnessError) as error:
            outcome = self._settle(error)
        raise outcome

    @overload
    def _settle(self, error: TokenError | StrictnessError) -> TokenError: ...

    @overload
    def _settle(self, error: _Obstacle) -> TokenError | Flight: ...

    def _settle(self, error: _Obstacle) -> TokenError | Flight:
        """What to wait for, or the refusal: counted and logged."""
        if isinstance(error, MustWaitError):
            return error.flight
        self._refused += 1
        _log.info("access_token_refused reason=%s", error.reason)
        if isinstance(error, KeysUnavailableError):
            return KeysUnavailableError(error.retry_after_s)
        return TokenError(error.reason)

    @staticmethod
    def _flight(source: KeySource) -> Flight | None:
        return source.flight() if source.ready() is None else None

    def _require_keys(self) -> None:
        for source in self._sources:
            source.available()


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
