"""Status list tokens: what resource services fetch to know which access tokens were revoked.

draft-ietf-oauth-status-list-21 §5.1, §8. A list is signed when it is asked for and has changed,
or has reached the age of one `ttl`; between that it is served from memory. An extra member,
`revoked_kids`, names compromised signing keys that may still sit in caches of the JWKS.
"""

import hashlib
from dataclasses import dataclass

import msgspec

from token_server.core.status_list import PATH, TYP, ListName
from token_server.errors import UnavailableError
from token_server.logs import get_logger
from token_server.runtime import Runtime

_log = get_logger(__name__)

LIFETIME_TTLS = 10  # a list expires after so many `ttl`
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class SignedList:
    """One status list token as it is served."""

    body: bytes
    etag: bytes
    version: int
    revoked_kids: tuple[str, ...]
    issued_at: int
    expires_at: int


class StatusLists:
    """The signed lists of one process."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._signed: dict[ListName, SignedList] = {}

    @property
    def ttl_s(self) -> int:
        """How long a list may be used before it is fetched again."""
        return self._runtime.settings.status_ttl_s

    async def find(self, name: ListName) -> SignedList | None:
        """The list as it is now; None when there is none of this name.

        While the database is away, what was known last is served until it expires; then
        UnavailableError.
        """
        runtime = self._runtime
        try:
            await runtime.status.follow()
            if runtime.status.find(name) is None:
                # Another instance may have begun it a moment ago.
                await runtime.status.follow(at_once=True)
        except UnavailableError as error:
            _log.warning("status_lists_not_followed", reason=error.reason)
            known = self._signed.get(name)
            if known is None or runtime.clock.now() >= known.expires_at:
                raise
            return known
        return await self._current(name)

    async def uris(self) -> list[str]:
        """All lists that live tokens may name, the newest session list last (§9.3)."""
        runtime = self._runtime
        await runtime.status.follow()
        return [name.uri(runtime.settings.issuer) for name in runtime.status.names()]

    async def _current(self, name: ListName) -> SignedList | None:
        runtime = self._runtime
        entry = runtime.status.find(name)
        if entry is None:
            self._signed.pop(name, None)
            return None
        now, ttl_s = runtime.clock.now(), self.ttl_s
        kids = revoked_kids(runtime)
        known = self._signed.get(name)
        if (
            known is not None
            and (known.version, known.revoked_kids) == (entry.version, kids)
            and known.issued_at <= now < known.issued_at + ttl_s
        ):
            return known
        version = entry.version
        uri = name.uri(runtime.settings.issuer)
        expires_at = now + LIFETIME_TTLS * ttl_s
        payload = {
            "iss": runtime.settings.issuer,
            "sub": uri,
            "iat": now,
            "exp": expires_at,
            "ttl": ttl_s,
            "status_list": {
                "bits": 1,
                "lst": entry.bits.compressed(),
                "aggregation_uri": aggregation_uri(runtime.settings.issuer),
            },
            "revoked_kids": list(kids),
        }
        compact, _ = await runtime.keys.sign_compact(
            TYP, _encode(payload), now=now, expires_at=expires_at
        )
        body = compact.encode("ascii")
        etag = b'"%s"' % hashlib.sha256(body).hexdigest()[:32].encode("ascii")
        signed = SignedList(body, etag, version, kids, now, expires_at)
        self._signed[name] = signed
        return signed


def revoked_kids(runtime: Runtime) -> tuple[str, ...]:
    """Signing keys that others may have: nothing signed by them is good, whenever it says."""
    return tuple(sorted(k.kid for k in runtime.keyring.keys if k.compromised_at is not None))


def aggregation_uri(issuer: str) -> str:
    """Where all lists are named (§9)."""
    return issuer.rstrip("/") + PATH
