"""Where an issuer's key set is, and one attempt to get it: discovery, then the set itself.

RFC 8414 3: the metadata must name exactly the configured issuer, and its `jwks_uri` must be one
that may be fetched. Blocks; called from the fetching thread only. Decides no timing.
"""

from typing import NamedTuple

from token_server.verify.fetch import Fetcher, FetchError, FetchResult
from token_server.verify.strict import StrictnessError, decode_object
from token_server.verify.urls import check_url, is_loopback, metadata_url

_DISCOVERY_AGE_S = 3600


class Document(NamedTuple):
    """A key set as it was published, undecoded, and how long it is fresh."""

    url: str
    body: bytes
    etag: str | None
    max_age_s: int | None
    is_unchanged: bool  # by a 304


class DocumentSource:
    """Documents of whatever kind, each at its URL, with a conditional request for a known one."""

    def __init__(self, timeout_s: float, fetcher: Fetcher | None) -> None:
        self._timeout_s = timeout_s
        self._fetcher = fetcher

    def fetch(self, url: str, known: Document | None) -> Document:
        """The document, or the known one again when it has not changed. FetchError."""
        same = known if known is not None and known.url == url else None
        result = self._get(url, None if same is None else same.etag)
        if result.body is not None:
            return Document(url, result.body, result.etag, result.max_age_s, is_unchanged=False)
        if same is None:
            raise FetchError("not modified, though nothing was known")
        etag = result.etag or same.etag
        return Document(url, same.body, etag, result.max_age_s, is_unchanged=True)

    def _get(self, url: str, etag: str | None) -> FetchResult:
        if self._fetcher is None:
            # Here and not above: whoever verifies with local keys loads no HTTP client.
            from token_server.verify.http_fetch import HttpFetcher

            self._fetcher = HttpFetcher()
        return self._fetcher.fetch(url, etag, self._timeout_s)


class KeySetSource:
    """One issuer's key set, found by discovery unless `jwks_uri` is given."""

    def __init__(
        self, issuer: str | None, jwks_uri: str | None, timeout_s: float, fetcher: Fetcher | None
    ) -> None:
        """ValueError when neither is given, or one of them may not be fetched."""
        if jwks_uri is not None:
            check_url(jwks_uri, "jwks_uri")
            self._metadata_url = None
            self._allows_loopback = True
            self.name = jwks_uri.partition("?")[0]
        elif issuer is not None:
            self._metadata_url = metadata_url(issuer)
            self._allows_loopback = is_loopback(check_url(issuer, "issuer"))
            self.name = issuer
        else:
            raise ValueError("issuer or jwks_uri is needed to find the keys")
        self._issuer = issuer
        self._jwks_uri = jwks_uri
        self._documents = DocumentSource(timeout_s, fetcher)
        self._discovered: tuple[str, float] | None = None  # the URL, and until when it holds
        self.status_lists_uri: str | None = None
        """The metadata's `status_list_aggregation_endpoint`, unjudged; what was there once stays:
        whoever follows the lists does not stop because a server forgets to name them."""

    def fetch(self, known: Document | None, now: float) -> Document:
        """The key set, or the known one again when it has not changed. FetchError."""
        try:
            return self._documents.fetch(self._find_url(now), known)
        except FetchError:
            self._discovered = None  # the set may have moved: ask again next time
            raise

    def _find_url(self, now: float) -> str:
        if self._jwks_uri is not None:
            return self._jwks_uri
        if self._discovered is None or now >= self._discovered[1]:
            self._discovered = (self._discover(), now + _DISCOVERY_AGE_S)
        return self._discovered[0]

    def _discover(self) -> str:
        if self._metadata_url is None:
            raise FetchError("no issuer to discover from")
        try:
            metadata = decode_object(self._documents.fetch(self._metadata_url, None).body)
        except StrictnessError as error:
            raise FetchError(f"metadata is not strict JSON: {error.reason}") from None
        if metadata.get("issuer") != self._issuer:
            raise FetchError("metadata is of another issuer")
        jwks_uri = metadata.get("jwks_uri")
        if not isinstance(jwks_uri, str):
            raise FetchError("metadata has no jwks_uri")
        try:
            parts = check_url(jwks_uri, "jwks_uri")
        except ValueError as error:
            raise FetchError(f"metadata: {error}") from None
        # A far issuer has no business on this machine (server-side request forgery).
        if is_loopback(parts) and not self._allows_loopback:
            raise FetchError("metadata: jwks_uri is on a loopback host, the issuer is not")
        lists_uri = metadata.get("status_list_aggregation_endpoint")
        if isinstance(lists_uri, str):
            self.status_lists_uri = lists_uri
        return jwks_uri
